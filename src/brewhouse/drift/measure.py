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
from brewhouse.evaluation.metrics import ece
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
    """

    name: str
    surface: str
    s: np.ndarray
    member: np.ndarray
    y: np.ndarray | None = None


class TaskReference(Strict):
    """What a version's test rows said of one task.

    Attributes:
        edges: Inner edges of the bins of scores, rising.
        shares: Share of rows in each bin, one more than edges.
    """

    edges: list[float]
    shares: list[float]
    ece: float


class Reference(Strict):
    """What a version's test rows said: of every task, and the mean AUC by surface.

    The surface `""` stands for all together; values are AUC and its standard error.
    """

    tasks: dict[str, TaskReference]
    auc: dict[str, tuple[float, float]]


def reference_of(tasks: Sequence[ScoredTask]) -> Reference:
    """Bind a reference to a version: the measures on its matured test rows."""
    found = {}
    for task in tasks:
        edges = np.unique(np.quantile(task.s, np.linspace(0, 1, BINS + 1)[1:-1]))
        found[task.name] = TaskReference(
            edges=edges.tolist(),
            shares=_shares(task.s, edges).tolist(),
            ece=ece(task.y, task.s) if task.y is not None else 0.0,
        )
    aucs = {surface: mean_auc(part) for surface, part in _by_surface(tasks).items()}
    kept = {surface: pair for surface, pair in aucs.items() if math.isfinite(pair[1])}
    return Reference(tasks=found, auc=kept)


def performance(tasks: Sequence[ScoredTask], reference: Reference) -> list[Signal]:
    """Mean AUC over tasks, of everything and of each surface, with its standard error."""
    out = []
    for surface, part in _by_surface(tasks).items():
        value, error = mean_auc(part)
        known, doubt = reference.auc.get(surface, (None, 0.0))
        out.append(
            Signal(
                name="auc",
                kind=Kind.PERFORMANCE,
                surface=surface,
                value=value if math.isfinite(value) else None,
                error=error if math.isfinite(error) else None,
                reference=known,
                reference_error=doubt,
                n=sum(len(task.s) for task in part if task.y is not None),
            )
        )
    return out


def calibration(tasks: Sequence[ScoredTask], reference: Reference) -> list[Signal]:
    """By how much the calibration error of each surface's worst task has risen."""
    return _worst(tasks, reference, "ece", _risen_ece, needs_labels=True)


def score_drift(tasks: Sequence[ScoredTask], reference: Reference) -> list[Signal]:
    """Population stability index of the scores of each surface's worst task; needs no labels."""
    return _worst(tasks, reference, "psi", _score_psi, needs_labels=False)


def _risen_ece(task: ScoredTask, known: TaskReference) -> float:
    labels = np.zeros(0) if task.y is None else task.y
    return max(0.0, ece(labels, task.s) - known.ece)


def _score_psi(task: ScoredTask, known: TaskReference) -> float:
    return psi(np.array(known.shares), _shares(task.s, np.array(known.edges)))


def _worst(
    tasks: Sequence[ScoredTask],
    reference: Reference,
    name: str,
    effect: Callable[[ScoredTask, TaskReference], float],
    *,
    needs_labels: bool,
) -> list[Signal]:
    out = []
    for surface, part in _by_surface(tasks).items():
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


def psi(expected: np.ndarray, found: np.ndarray) -> float:
    """Population stability index of shares, (bins,): the symmetric Kullback-Leibler divergence.

    Empty bins count as one row in ten thousand.
    """
    p, q = (np.maximum(x, _LEAST_SHARE) for x in (expected, found))
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def mean_auc(tasks: Sequence[ScoredTask]) -> tuple[float, float]:
    """Mean AUC over tasks that have both labels, and its standard error over members.

    Rows of a member hang together within a task and between tasks: each member's influence is
    summed over all of them before it is squared (Obuchowski, 1997, with several curves).

    Returns:
        NaN where no task has both labels, or where fewer than two members are left.
    """
    usable = [t for t in tasks if t.y is not None and 0 < t.y.sum() < len(t.y)]
    if not usable:
        return math.nan, math.nan
    members = np.unique(np.concatenate([t.member for t in usable]))
    influence, values = np.zeros(len(members)), []
    for task in usable:
        yes = np.asarray(task.y) > 0.5
        value = placements(yes, task.s)
        auc = float(value[yes].mean())
        values.append(auc)
        code = np.searchsorted(members, task.member)
        for rows in (yes, ~yes):
            part = np.bincount(code[rows], weights=value[rows] - auc, minlength=len(members))
            influence += part / rows.sum() / len(usable)
    if len(members) < 2:
        return float(np.mean(values)), math.nan
    variance = float((influence**2).sum()) * len(members) / (len(members) - 1)
    return float(np.mean(values)), math.sqrt(variance)


def _by_surface(tasks: Sequence[ScoredTask]) -> Mapping[str, list[ScoredTask]]:
    found: dict[str, list[ScoredTask]] = {"": list(tasks)}
    for task in tasks:
        found.setdefault(task.surface, []).append(task)
    return found


def _shares(s: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts = np.bincount(np.searchsorted(edges, s, side="right"), minlength=len(edges) + 1)
    return counts / max(1, len(s))
