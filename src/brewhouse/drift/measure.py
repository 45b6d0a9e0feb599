"""Signals of a window from scored rows: performance on matured labels, calibration, score drift.

The reference is bound to the version: what the same measures said of its test rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brewhouse.domains.strict import Strict
from brewhouse.drift.signals import Kind, Signal
from brewhouse.evaluation.metrics import ece, normalised_entropy
from brewhouse.evaluation.uncertainty import placements

BINS = 10
LEAST_CASES = 20
"""Rows of either label that a task needs: on fewer, its AUC's error comes out far too small."""
_LEAST_SHARE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ScoredTask:
    """Rows of one task in a window.

    Attributes:
        name, surface: Of the task.
        s: Log-odds, (rows,) float.
        member: Code of each row's member, the same over all tasks of the window.
        y: Labels, 0 or 1; None while they have not matured.
        shuffled: Log-odds with the labels of the history shuffled, NaN where that was not asked;
            None where it never was.
    """

    name: str
    surface: str
    s: np.ndarray
    member: np.ndarray
    y: np.ndarray | None = None
    shuffled: np.ndarray | None = None


class TaskReference(Strict):
    """What a version's test rows said of one task.

    Attributes:
        edges: Inner edges of the bins of scores, rising.
        shares: Share of rows in each bin, one more than edges.
        n: Rows.
    """

    edges: list[float]
    shares: list[float]
    n: int
    ece: float


class Means(Strict):
    """A metric of several tasks on the same members, whose mean over any of them follows.

    Attributes:
        values: By task.
        covariance: Of the values' errors, (tasks, tasks), in their order.
    """

    values: dict[str, float] = {}
    covariance: list[list[float]] = []

    def over(self, names: Collection[str]) -> tuple[float, float] | None:
        """Mean over some tasks and its standard error; None if one of them is not here."""
        order = list(self.values)
        if not names or not set(names) <= set(order):
            return None
        chosen = [order.index(name) for name in names]
        part = np.array(self.covariance)[np.ix_(chosen, chosen)]
        mean = float(np.mean([self.values[name] for name in names]))
        return mean, math.sqrt(max(0.0, float(part.sum()))) / len(chosen)


class Performance(Strict):
    """What a version's test rows said of every task.

    Attributes:
        tasks: Scores and calibration.
        auc: AUC of the tasks that have `LEAST_CASES` of either label.
        icl: By how much shuffling the history's labels lowered it; empty where not probed.
    """

    tasks: dict[str, TaskReference]
    auc: Means = Means()
    icl: Means = Means()


def performance_of(tasks: Sequence[ScoredTask]) -> Performance:
    """The measures on a version's matured test rows: what its windows are held against."""
    found = {}
    for task in tasks:
        edges = np.unique(np.quantile(task.s, np.linspace(0, 1, BINS + 1)[1:-1]))
        found[task.name] = TaskReference(
            edges=edges.tolist(),
            shares=_shares(task.s, edges).tolist(),
            n=len(task.s),
            ece=ece(task.y, task.s) if task.y is not None and len(task.y) else 0.0,
        )
    return Performance(tasks=found, auc=_means(_aucs(tasks)), icl=_means(_gains(tasks)))


def performance(tasks: Sequence[ScoredTask], reference: Performance) -> list[Signal]:
    """Mean AUC over tasks, of everything and of each surface, with its standard error.

    A window's mean and the reference's are over the same tasks: those that have `LEAST_CASES` of
    either label in both. Normalised entropy and the gain from histories come along for the record.
    """
    out = []
    for surface, part in by_surface(tasks).items():
        mine, known, detail = compared(part, reference.auc)
        value, error = mean_auc(mine)
        n = sum(len(task.s) for task in mine)
        out.append(_metric("auc", surface, value, error, n, known, detail))
    both = [t for t in tasks if measurable(t)]
    entropies = [normalised_entropy(np.asarray(t.y), t.s) for t in both]
    mean = float(np.mean(entropies)) if entropies else math.nan
    out.append(_metric("ne", "", mean, math.nan, sum(len(t.s) for t in both), None, {}))
    curves = _gains(tasks)
    names = [name for name in curves if name in reference.icl.values] or list(curves)
    gain, error = _mean_of([curves[name] for name in names])
    probed = sum(len(curves[name][0][0].s) for name in names)
    out.append(_metric("icl", "", gain, error, probed, reference.icl.over(names), {}))
    return out


def compared(
    tasks: Sequence[ScoredTask], reference: Means
) -> tuple[list[ScoredTask], tuple[float, float] | None, dict[str, str]]:
    """Tasks that a window and a reference have in common, and the reference's mean over them.

    Returns:
        Tasks, mean and its error, and what was left out, in words. A reference that knows none of
        the tasks gives None, and all that can be measured.
    """
    usable = [task for task in tasks if measurable(task)]
    expected = {task.name for task in tasks if task.name in reference.values}
    if not expected:
        return usable, None, {}
    mine = [task for task in usable if task.name in expected]
    gone = sorted(expected - {task.name for task in mine})
    why = {"left out": f"{', '.join(gone)} (fewer than {LEAST_CASES} of a label)"} if gone else {}
    return mine, reference.over([task.name for task in mine]), why


def measurable(task: ScoredTask) -> bool:
    """Whether there are enough rows of either label for an AUC with an error to believe."""
    return task.y is not None and LEAST_CASES <= task.y.sum() <= len(task.y) - LEAST_CASES


def _metric(
    name: str,
    surface: str,
    value: float,
    error: float,
    n: int,
    known: tuple[float, float] | None,
    detail: Mapping[str, str],
) -> Signal:
    reference, doubt = known or (None, 0.0)
    return Signal(
        name=name,
        kind=Kind.PERFORMANCE,
        surface=surface,
        value=value if math.isfinite(value) else None,
        error=error if math.isfinite(error) else None,
        reference=reference,
        reference_error=doubt,
        n=n,
        detail=dict(detail),
    )


def calibration(tasks: Sequence[ScoredTask], reference: Performance) -> list[Signal]:
    """By how much the calibration error of each surface's worst task has risen."""
    return _worst(tasks, reference, "ece", _risen_ece, needs_labels=True)


def score_drift(tasks: Sequence[ScoredTask], reference: Performance) -> list[Signal]:
    """Population stability index of the scores of each surface's worst task; needs no labels."""
    return _worst(tasks, reference, "psi", _score_psi, needs_labels=False)


def _risen_ece(task: ScoredTask, known: TaskReference) -> float:
    labels = np.zeros(0) if task.y is None else task.y
    return max(0.0, ece(labels, task.s) - known.ece)


def _score_psi(task: ScoredTask, known: TaskReference) -> float:
    found = _shares(task.s, np.array(known.edges))
    return psi(np.array(known.shares), found, rows=(known.n, len(task.s)))


def _worst(
    tasks: Sequence[ScoredTask],
    reference: Performance,
    name: str,
    effect: Callable[[ScoredTask, TaskReference], float],
    *,
    needs_labels: bool,
) -> list[Signal]:
    out = []
    for surface, part in by_surface(tasks).items():
        if not surface:
            continue
        effects = {
            task.name: effect(task, reference.tasks[task.name])
            for task in part
            if task.name in reference.tasks
            and len(task.s)
            and (task.y is not None or not needs_labels)
        }
        worst = max(effects, key=lambda task: (effects[task], task), default="")
        out.append(
            Signal(
                name=name,
                kind=Kind.SCORE,
                surface=surface,
                effect=effects.get(worst),
                n=max((len(t.s) for t in part if t.name in effects), default=0),
                detail={"task": worst},
            )
        )
    return out


def psi(expected: np.ndarray, found: np.ndarray, *, rows: tuple[int, int]) -> float:
    """Population stability index of shares, (bins,): the symmetric Kullback-Leibler divergence.

    Less what it is on average where nothing has changed, (bins - 1) (1/n + 1/m) (Yurdakul &
    Naranjo, 2020), so that small windows do not look like drift. Empty bins count as one row in
    ten thousand.

    Args:
        expected: Shares of the reference.
        found: Shares of the window.
        rows: How many rows each is of.
    """
    p, q = (np.maximum(x, _LEAST_SHARE) for x in (expected, found))
    p, q = p / p.sum(), q / q.sum()
    by_chance = (len(p) - 1) * sum(1 / max(1, n) for n in rows)
    return max(0.0, float(((q - p) * np.log(q / p)).sum()) - by_chance)


def mean_auc(tasks: Sequence[ScoredTask]) -> tuple[float, float]:
    """Mean AUC over the tasks that are measurable, and its standard error over members.

    Rows of a member hang together within a task and between tasks: each member's influence is
    summed over all of them before it is squared (Obuchowski, 1997, with several curves).

    Returns:
        NaN where no task is measurable, or where fewer than two members are left.
    """
    return _mean_of(list(_aucs(tasks).values()))


def icl_gain(tasks: Sequence[ScoredTask]) -> tuple[float, float]:
    """By how much the mean AUC is above that with shuffled histories, and its standard error."""
    return _mean_of(list(_gains(tasks).values()))


_Curves = list[tuple[ScoredTask, np.ndarray, float]]
"""Scores of one task's rows with signs: a signed sum of AUCs."""


def _aucs(tasks: Sequence[ScoredTask]) -> dict[str, _Curves]:
    return {t.name: [(t, t.s, 1.0)] for t in tasks if measurable(t)}


def _gains(tasks: Sequence[ScoredTask]) -> dict[str, _Curves]:
    probed = [_probed(t) for t in tasks if t.shuffled is not None and t.y is not None]
    return {
        t.name: [(t, t.s, 1.0), (t, np.asarray(t.shuffled), -1.0)] for t in probed if measurable(t)
    }


def _probed(task: ScoredTask) -> ScoredTask:
    asked = np.isfinite(np.asarray(task.shuffled))
    return ScoredTask(
        name=task.name,
        surface=task.surface,
        s=task.s[asked],
        member=task.member[asked],
        y=np.asarray(task.y)[asked],
        shuffled=np.asarray(task.shuffled)[asked],
    )


def _mean_of(curves: Sequence[_Curves]) -> tuple[float, float]:
    """Mean over tasks of their signed sums, with its error over members."""
    if not curves:
        return math.nan, math.nan
    values_T, influence_MT = _influences(curves)
    members = len(influence_MT)
    if members < 2:
        return float(values_T.mean()), math.nan
    variance = float((influence_MT.mean(1) ** 2).sum()) * members / (members - 1)
    return float(values_T.mean()), math.sqrt(variance)


def _means(curves: Mapping[str, _Curves]) -> Means:
    if not curves:
        return Means()
    values_T, influence_MT = _influences(list(curves.values()))
    members = len(influence_MT)
    if members < 2:
        return Means()
    covariance_TT = influence_MT.T @ influence_MT * members / (members - 1)
    values = dict(zip(curves, values_T.tolist(), strict=True))
    return Means(values=values, covariance=covariance_TT.tolist())


def _influences(curves: Sequence[_Curves]) -> tuple[np.ndarray, np.ndarray]:
    """Signed sums of AUCs, (tasks,), and each member's influence on them, (members, tasks)."""
    members = np.unique(np.concatenate([parts[0][0].member for parts in curves]))
    values_T, influence_MT = np.zeros(len(curves)), np.zeros((len(members), len(curves)))
    for place, parts in enumerate(curves):
        for task, s, sign in parts:
            yes = np.asarray(task.y) > 0.5
            value = placements(yes, s)
            auc = float(value[yes].mean())
            values_T[place] += sign * auc
            code = np.searchsorted(members, task.member)
            for rows in (yes, ~yes):
                part = np.bincount(code[rows], weights=value[rows] - auc, minlength=len(members))
                influence_MT[:, place] += sign * part / rows.sum()
    return values_T, influence_MT


def by_surface(tasks: Sequence[ScoredTask]) -> Mapping[str, list[ScoredTask]]:
    """Tasks by surface, and all of them under `""`."""
    found: dict[str, list[ScoredTask]] = {"": list(tasks)}
    for task in tasks:
        found.setdefault(task.surface, []).append(task)
    return found


def _shares(s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, s, side="right"), minlength=len(edges) + 1)
    return counts / max(1, len(s))
