"""Computes results of tasks from scores; knows nothing of where scores come from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from statistics import NormalDist

import numpy as np

from brewhouse.evaluation import metrics, slices
from brewhouse.evaluation.resampling import Ranking, Sums, interval, resample
from brewhouse.evaluation.results import (
    METRICS,
    Estimate,
    MetricRule,
    ScorerResult,
    SliceResult,
    TaskResult,
)
from brewhouse.evaluation.uncertainty import delong_clustered, smallest_margin
from brewhouse.tasks.spec import Task

_Z = NormalDist().inv_cdf(0.975)
_BINS = 15
_MILLION = 1_000_000
RANKER = "ranker"


@dataclass(frozen=True, kw_only=True)
class TaskRows:
    """Rows of one task, aligned arrays.

    Attributes:
        ids: Row ids.
        y: 0 or 1.
        member: Codes of members, from 0, over all tasks: draws are then common to tasks.
        scores: Log-odds by scorer.
        facets: A value a row for each slice dimension.
        excluded: Rows of the surface that the task does not label.
        sampled: Share of yes that sampled negatives were drawn to; None where they were logged.
    """

    ids: np.ndarray
    y: np.ndarray
    member: np.ndarray
    scores: Mapping[str, np.ndarray]
    facets: Mapping[str, np.ndarray] = field(default_factory=dict)
    excluded: int = 0
    sampled: float | None = None


def judge_task(
    task: Task,
    rows: TaskRows,
    *,
    horizon_weeks: int,
    members: int,
    resamples: int,
    seed: int,
    production: str = "lightgbm",
) -> TaskResult:
    """Metrics, intervals, paired differences and slices of one task.

    Args:
        task: What the rows are labelled by.
        rows: Rows and scores; losses and calibration are told for `task.prior` where negatives
            are sampled.
        horizon_weeks: Of the rows.
        members: Members of all tasks, of whom draws are made.
        resamples: Draws of members.
        seed: Of the draws.
        production: Scorer that slices and power are told against.
    """
    y = rows.y.astype(np.float64)
    member = rows.member
    told = _Told.of(task, rows, y)
    names = list(rows.scores)
    values, drawn = _measure(told, names, members=members, resamples=resamples, seed=seed)
    scorers = {
        name: ScorerResult(**{m: _estimate(values[name][m], drawn[name].get(m)) for m in METRICS})
        for name in names
    }
    wanted: dict[str, None] = dict.fromkeys(["auc", *(m.name for m in task.metrics)])
    difference = {
        name: {
            m: _estimate(
                values[RANKER][m] - values[name][m],
                drawn[RANKER][m] - drawn[name][m] if m in drawn[RANKER] else None,
            )
            for m in wanted
        }
        for name in names
        if name != RANKER
    }
    checks = {
        name: _delong(y, rows.scores[RANKER], member, rows.scores[name])
        for name in names
        if name != RANKER and len(y)
    }
    against = difference.get(production, {}).get("auc")
    return TaskResult(
        name=task.name,
        version=task.version,
        tier=task.tier,
        surface=task.surface,
        phrase=task.phrase,
        owner=task.owner,
        licence=task.licence,
        horizon_weeks=horizon_weeks,
        n=len(y),
        positives=int(y.sum()),
        excluded=rows.excluded,
        members=len(np.unique(member)),
        groups=told.groups,
        n_min=task.n_min,
        metrics=[
            MetricRule(name=m.name, margin=m.margin, higher_is_better=m.sign > 0)
            for m in task.metrics
        ],
        base_rate=float(y.mean()) if len(y) else 0.0,
        sampled_negatives=rows.sampled is not None,
        prior=task.prior if rows.sampled is not None else None,
        scorers=scorers,
        difference=difference,
        delong=checks,
        smallest_margin=_finite(smallest_margin(standard_error(against))) if against else None,
        rows_digest=_digest(rows),
        draws={
            name: {m: _millionths(drawn[name][m]) for m in wanted if m in drawn[name]}
            for name in (RANKER, production)
            if name in names
        },
        slices=_slices(task, rows, y, member, production),
        reliability={
            name: _curve(told, name) for name in (RANKER, production) if name in names and len(y)
        },
    )


def standard_error(estimate: Estimate) -> float:
    """Of an estimate, from the width of its interval; NaN without one."""
    if estimate.low is None or estimate.high is None:
        return float("nan")
    return (estimate.high - estimate.low) / (2 * _Z)


@dataclass(frozen=True, kw_only=True)
class _Told:
    """Rows as metrics need them: scores and weights of the natural base rate where one is known."""

    y: np.ndarray
    member: np.ndarray
    scores: Mapping[str, np.ndarray]
    natural: Mapping[str, np.ndarray]
    weight: np.ndarray
    groups: int

    @classmethod
    def of(cls, task: Task, rows: TaskRows, y: np.ndarray) -> _Told:
        natural, weight = rows.scores, np.ones(len(y))
        if rows.sampled is not None and task.prior is not None and len(y):
            moved = partial(metrics.correct_prior, sampled=rows.sampled, natural=task.prior)
            natural = {name: moved(s) for name, s in rows.scores.items()}
            weight = metrics.prior_weights(y, task.prior)
        yes = np.bincount(rows.member, weights=y)
        both = (yes > 0) & (yes < np.bincount(rows.member))
        return cls(
            y=y,
            member=rows.member,
            scores=rows.scores,
            natural=natural,
            weight=weight,
            groups=int(both.sum()),
        )


def _measure(
    told: _Told, names: list[str], *, members: int, resamples: int, seed: int
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, np.ndarray]]]:
    """Values of every metric by scorer, and their resamples."""
    nothing = dict.fromkeys(METRICS, float("nan"))
    if not len(told.y):
        return {name: dict(nothing) for name in names}, {name: {} for name in names}
    rankings = [Ranking.of(told.y, told.scores[name], told.member) for name in names]
    sums = [_sums(told, name, members) for name in names]
    kinds = list(sums[0])
    aucs, others = resample(
        rankings,
        [one[kind] for one in sums for kind in kinds],
        members=members,
        resamples=resamples,
        seed=seed,
    )
    values, drawn = {}, {}
    for i, name in enumerate(names):
        values[name] = {"auc": metrics.auc(told.y, told.scores[name])}
        values[name] |= {kind: sums[i][kind].whole() for kind in kinds}
        drawn[name] = {"auc": aucs[i]}
        drawn[name] |= {kind: others[i * len(kinds) + j] for j, kind in enumerate(kinds)}
    return values, drawn


def _sums(told: _Told, name: str, members: int) -> dict[str, Sums]:
    """Every metric but AUC, as sums over members."""
    y, s, w, member = told.y, told.natural[name], told.weight, told.member

    def by_member(value: np.ndarray) -> np.ndarray:
        return np.bincount(member, weights=value, minlength=members)

    loss, rows = by_member(w * metrics.losses(y, s)), by_member(w)
    bins = metrics.bins_of(s, _BINS)
    cell = member * _BINS + bins
    gap = w * (metrics.sigmoid(s) - y)
    gaps = np.bincount(cell, weights=gap, minlength=members * _BINS).reshape(members, _BINS)
    return {
        "gauc": Sums(
            parts_MK=metrics.gauc_parts(y, told.scores[name], member, members),
            value=metrics.gauc_value,
        ),
        "ndcg_at_10": Sums(
            parts_MK=metrics.ndcg_parts(y, told.scores[name], member, members),
            value=metrics.gauc_value,
        ),
        "log_loss": Sums(parts_MK=np.stack([loss, rows], 1), value=metrics.gauc_value),
        "normalised_entropy": Sums(
            parts_MK=np.stack([loss, by_member(w * y), rows], 1), value=metrics.entropy_value
        ),
        "ece": Sums(parts_MK=np.column_stack([gaps, rows]), value=_ece),
    }


def _ece(sums: np.ndarray) -> np.ndarray:
    """Sum over bins of |prediction - outcome|, over the rows; shape (..., bins + 1)."""
    return metrics.ratio(np.abs(sums[..., :-1]).sum(-1), sums[..., -1])


def _delong(y: np.ndarray, ours: np.ndarray, member: np.ndarray, other: np.ndarray) -> Estimate:
    value, error = delong_clustered(y, ours, member, other)
    return _about(value, error)


def _about(value: float, error: float) -> Estimate:
    return Estimate(
        value=_finite(value), low=_finite(value - _Z * error), high=_finite(value + _Z * error)
    )


def _slices(
    task: Task, rows: TaskRows, y: np.ndarray, member: np.ndarray, production: str
) -> list[SliceResult]:
    out = []
    for dimension in task.slices:
        if dimension not in rows.facets:
            continue
        for value, inside in slices.parts(dimension, rows.facets[dimension]):
            some = {name: s[inside] for name, s in rows.scores.items()}
            label = y[inside]
            both = 0 < label.sum() < len(label)
            ours = difference = Estimate(value=None)
            if both:
                ours = _about(*delong_clustered(label, some[RANKER], member[inside]))
            if both and production in some:
                difference = _delong(label, some[RANKER], member[inside], some[production])
            out.append(
                SliceResult(
                    dimension=dimension,
                    value=value,
                    n=int(inside.sum()),
                    positives=int(label.sum()),
                    auc={
                        n: _finite(metrics.auc(label, s)) if both else None for n, s in some.items()
                    },
                    ranker=ours,
                    difference=difference,
                )
            )
    return out


def _curve(told: _Told, name: str) -> list[list[float]]:
    parts = metrics.reliability(told.y, told.natural[name], _BINS, told.weight)
    return [[float(a), float(b), float(c)] for a, b, c in zip(*parts, strict=True)]


def _estimate(value: float, drawn: np.ndarray | None) -> Estimate:
    if drawn is None or not math.isfinite(value):
        return Estimate(value=_finite(value))
    low, high = interval(drawn)
    return Estimate(value=value, low=_finite(low), high=_finite(high))


def _digest(rows: TaskRows) -> str:
    text = "\n".join(f"{i} {int(y)}" for i, y in zip(rows.ids.tolist(), rows.y, strict=True))
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def _millionths(values: np.ndarray) -> list[int]:
    return [-1 if not math.isfinite(v) else round(v * _MILLION) for v in values.tolist()]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
