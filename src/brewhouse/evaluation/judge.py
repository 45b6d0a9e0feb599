"""Computes results of tasks from scores; knows nothing of where scores come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brewhouse.evaluation import metrics
from brewhouse.evaluation.results import Estimate, ScorerResult, SliceResult, TaskResult
from brewhouse.evaluation.uncertainty import bootstrap_aucs, interval
from brewhouse.tasks.spec import Task

HISTORY_EDGES = (0, 1, 5, 10, 100)
HISTORY_NAMES = ("0", "1-4", "5-9", "10-99", "100+")


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """Rows of one task, aligned arrays.

    Attributes:
        y: 0 or 1.
        member: Member codes.
        history: Known interactions of the member at the row's moment.
        scores: Log-odds by scorer.
        excluded: Rows of the surface that the task does not label.
        sampled: Whether negatives were drawn by a policy.
    """

    y: np.ndarray
    member: np.ndarray
    history: np.ndarray
    scores: Mapping[str, np.ndarray]
    excluded: int
    sampled: bool


def judge_task(
    task: Task, rows: TaskRows, *, horizon_weeks: int, resamples: int, seed: int
) -> TaskResult:
    """Metrics, intervals, paired differences and slices of one task."""
    names = list(rows.scores)
    y = rows.y.astype(np.float64)
    draws = np.full((len(names), 1), np.nan)
    if len(y):
        draws = bootstrap_aucs(
            y, [rows.scores[n] for n in names], rows.member, resamples=resamples, seed=seed
        )
    by_name = dict(zip(names, draws, strict=True))
    scorers, groups = {}, 0
    for name in names:
        scorers[name], groups = _scorer(y, rows.scores[name], rows.member, by_name[name])
    difference = {
        name: _difference(scorers["ranker"], scorers[name], by_name["ranker"] - by_name[name])
        for name in names
        if name != "ranker"
    }
    return TaskResult(
        name=task.name,
        version=task.version,
        tier=task.tier,
        surface=task.surface,
        phrase=task.phrase,
        horizon_weeks=horizon_weeks,
        n=len(y),
        positives=int(y.sum()),
        excluded=rows.excluded,
        members=len(np.unique(rows.member)),
        groups=groups,
        n_min=task.n_min,
        higher_is_better=task.higher_is_better,
        base_rate=float(y.mean()) if len(y) else 0.0,
        sampled_negatives=rows.sampled,
        scorers=scorers,
        difference=difference,
        slices=_slices(y, rows),
        reliability={
            n: _curve(y, rows.scores[n])
            for n in ("ranker", "lightgbm")
            if n in rows.scores and len(y)
        },
    )


def _scorer(
    y: np.ndarray, s: np.ndarray, member: np.ndarray, draws: np.ndarray
) -> tuple[ScorerResult, int]:
    if not len(y):
        return ScorerResult(
            auc=Estimate(value=None),
            gauc=None,
            ndcg_at_10=None,
            log_loss=None,
            normalised_entropy=None,
            ece=None,
        ), 0
    low, high = interval(draws)
    gauc, groups = metrics.gauc(y, s, member)
    result = ScorerResult(
        auc=Estimate(value=_finite(metrics.auc(y, s)), low=_finite(low), high=_finite(high)),
        gauc=_finite(gauc),
        ndcg_at_10=_finite(metrics.ndcg(y, s, member)),
        log_loss=_finite(metrics.log_loss(y, s)),
        normalised_entropy=_finite(metrics.normalised_entropy(y, s)),
        ece=_finite(metrics.ece(y, s)),
    )
    return result, groups


def _difference(ours: ScorerResult, other: ScorerResult, draws: np.ndarray) -> Estimate:
    if ours.auc.value is None or other.auc.value is None:
        return Estimate(value=None)
    low, high = interval(draws)
    return Estimate(value=ours.auc.value - other.auc.value, low=_finite(low), high=_finite(high))


def _slices(y: np.ndarray, rows: TaskRows) -> list[SliceResult]:
    bucket = np.searchsorted(np.array(HISTORY_EDGES), rows.history, side="right") - 1
    out = []
    for index, value in enumerate(HISTORY_NAMES):
        inside = bucket == index
        out.append(
            SliceResult(
                dimension="history",
                value=value,
                n=int(inside.sum()),
                positives=int(y[inside].sum()),
                auc={
                    name: _finite(metrics.auc(y[inside], s[inside])) if inside.any() else None
                    for name, s in rows.scores.items()
                },
            )
        )
    return out


def _curve(y: np.ndarray, s: np.ndarray) -> list[list[float]]:
    predicted, observed, count = metrics.reliability(y, s)
    return [
        [float(a), float(b), float(c)] for a, b, c in zip(predicted, observed, count, strict=True)
    ]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
