"""Signals of a window from scored rows: performance on matured labels, calibration, score drift.

The reference is bound to the version: what the same measures said of its test rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from brewhouse.domains.strict import Strict
from brewhouse.drift.signals import Kind, Signal
from brewhouse.evaluation.metrics import ece, normalised_entropy
from brewhouse.evaluation.uncertainty import placements

BINS = 10
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


class Performance(Strict):
    """What a version's test rows said: of every task, and the mean AUC by surface.

    The surface `""` stands for all together; values are AUC and its standard error.

    Attributes:
        icl: By how much shuffling the history's labels lowered the mean AUC, and its standard
            error; None where it was not probed.
    """

    tasks: dict[str, TaskReference]
    auc: dict[str, tuple[float, float]]
    icl: tuple[float, float] | None = None


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
    aucs = {surface: mean_auc(part) for surface, part in by_surface(tasks).items()}
    kept = {surface: pair for surface, pair in aucs.items() if math.isfinite(pair[1])}
    gain = icl_gain(tasks)
    return Performance(tasks=found, auc=kept, icl=gain if math.isfinite(gain[1]) else None)


def performance(tasks: Sequence[ScoredTask], reference: Performance) -> list[Signal]:
    """Mean AUC over tasks, of everything and of each surface, with its standard error.

    Normalised entropy and the gain from histories come along for the record.
    """
    out = []
    for surface, part in by_surface(tasks).items():
        value, error = mean_auc(part)
        known, doubt = reference.auc.get(surface, (None, 0.0))
        n = sum(len(task.s) for task in part if task.y is not None)
        out.append(_metric("auc", surface, value, error, n, known, doubt))
    both = [t for t in tasks if t.y is not None and 0 < t.y.sum() < len(t.y)]
    entropies = [normalised_entropy(np.asarray(t.y), t.s) for t in both]
    mean = float(np.mean(entropies)) if entropies else math.nan
    out.append(_metric("ne", "", mean, math.nan, sum(len(t.s) for t in both), None, 0.0))
    gain, error = icl_gain(tasks)
    probed = sum(int(np.isfinite(t.shuffled).sum()) for t in tasks if t.shuffled is not None)
    known, doubt = reference.icl or (None, 0.0)
    out.append(_metric("icl", "", gain, error, probed, known, doubt))
    return out


def _metric(
    name: str,
    surface: str,
    value: float,
    error: float,
    n: int,
    reference: float | None,
    doubt: float,
) -> Signal:
    return Signal(
        name=name,
        kind=Kind.PERFORMANCE,
        surface=surface,
        value=value if math.isfinite(value) else None,
        error=error if math.isfinite(error) else None,
        reference=reference,
        reference_error=doubt,
        n=n,
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
    """Mean AUC over tasks that have both labels, and its standard error over members.

    Rows of a member hang together within a task and between tasks: each member's influence is
    summed over all of them before it is squared (Obuchowski, 1997, with several curves).

    Returns:
        NaN where no task has both labels, or where fewer than two members are left.
    """
    usable = [t for t in tasks if t.y is not None and 0 < t.y.sum() < len(t.y)]
    return _mean_of([[(t, t.s, 1.0)] for t in usable])


def icl_gain(tasks: Sequence[ScoredTask]) -> tuple[float, float]:
    """By how much the mean AUC is above that with shuffled histories, and its standard error."""
    probed = [_probed(t) for t in tasks if t.shuffled is not None and t.y is not None]
    usable = [t for t in probed if t.y is not None and 0 < t.y.sum() < len(t.y)]
    return _mean_of([[(t, t.s, 1.0), (t, np.asarray(t.shuffled), -1.0)] for t in usable])


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


def _mean_of(
    curves: Sequence[Sequence[tuple[ScoredTask, np.ndarray, float]]],
) -> tuple[float, float]:
    """Mean over tasks of a signed sum of AUCs of the same rows, with its error over members."""
    if not curves:
        return math.nan, math.nan
    members = np.unique(np.concatenate([parts[0][0].member for parts in curves]))
    influence, total = np.zeros(len(members)), 0.0
    for parts in curves:
        for task, s, sign in parts:
            yes = np.asarray(task.y) > 0.5
            value = placements(yes, s)
            auc = float(value[yes].mean())
            total += sign * auc / len(curves)
            code = np.searchsorted(members, task.member)
            for rows in (yes, ~yes):
                part = np.bincount(code[rows], weights=value[rows] - auc, minlength=len(members))
                influence += sign * part / rows.sum() / len(curves)
    if len(members) < 2:
        return total, math.nan
    variance = float((influence**2).sum()) * len(members) / (len(members) - 1)
    return total, math.sqrt(variance)


def by_surface(tasks: Sequence[ScoredTask]) -> Mapping[str, list[ScoredTask]]:
    """Tasks by surface, and all of them under `""`."""
    found: dict[str, list[ScoredTask]] = {"": list(tasks)}
    for task in tasks:
        found.setdefault(task.surface, []).append(task)
    return found


def _shares(s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, s, side="right"), minlength=len(edges) + 1)
    return counts / max(1, len(s))
