"""Differences between a candidate and its reference, from the resamples that results carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from brewhouse.evaluation.judge import RANKER, standard_error
from brewhouse.evaluation.resampling import interval
from brewhouse.evaluation.results import Results, TaskResult
from brewhouse.tasks.spec import HIGHER_IS_BETTER

Key = tuple[str, int, int]
"""Name, version and horizon of a task."""
Measure = Literal["suite", "T1", "T2"]
MEASURES: dict[Measure, str] = {
    "suite": "all common tasks",
    "T1": "T1 tasks",
    "T2": "T2 tasks",
}
COLD = ("0", "1-4", "5-9")
"""History slices of members with few interactions."""


@dataclass(frozen=True, kw_only=True)
class Gap:
    """How far the candidate lies ahead of its reference; more is better, whatever the metric.

    Attributes:
        value: Difference of the metric as measured.
        draws_R: By resample, NaN where one has no value.
        n: Rows.
        paired: Whether resamples of the two are of the same rows.
    """

    value: float
    draws_R: np.ndarray
    n: int
    paired: bool

    @property
    def error(self) -> float:
        """Standard error, from the spread of the resamples."""
        known = self.draws_R[np.isfinite(self.draws_R)]
        return float(known.std(ddof=1)) if len(known) > 1 else float("nan")

    def interval(self, level: float) -> tuple[float, float]:
        """Two-sided."""
        return interval(self.draws_R, level)


class Reference:
    """What a candidate is compared with.

    That is the production scorer of its own evaluation, or the ranker of the champion's.
    """

    def __init__(self, results: Results, champion: Results | None, to: str) -> None:
        """`to` is `champion` or `production`."""
        self.results, self.to = results, to
        self.champion = champion
        self._theirs = {key(t): t for t in champion.tasks} if champion else {}

    def gap(self, task: TaskResult, metric: str) -> Gap | None:
        """The difference on one task, or None where either side has no value."""
        if self.to == "production":
            other, scorer, paired = task, self.results.production, True
        else:
            found = self._theirs.get(key(task))
            if found is None or self.champion is None:
                return None
            other, scorer = found, RANKER
            paired = (
                found.rows_digest == task.rows_digest
                and self.champion.draws_digest == self.results.draws_digest
            )
        if scorer not in other.scorers:
            return None
        ours, theirs = task.scorers[RANKER].of(metric).value, other.scorers[scorer].of(metric).value
        mine = task.draws.get(RANKER, {}).get(metric)
        drawn = other.draws.get(scorer, {}).get(metric)
        if ours is None or theirs is None or not mine or not drawn:
            return None
        sign = 1 if HIGHER_IS_BETTER[metric] else -1
        length = min(len(mine), len(drawn))
        return Gap(
            value=sign * (ours - theirs),
            draws_R=sign * (_units(mine[:length]) - _units(drawn[:length])),
            n=task.n,
            paired=paired,
        )

    def mean(self, measure: Measure) -> Gap | None:
        """Of AUC over the tasks that both sides have."""
        gaps = [
            gap
            for task in self.results.tasks
            if measure in ("suite", task.tier) and (gap := self.gap(task, "auc"))
        ]
        return _mean(gaps)

    def cold(self) -> tuple[float, float] | None:
        """Mean difference of AUC on T1 tasks at members with few interactions, and its error.

        Slices carry no resamples: their errors count as independent, which those of one member's
        rows in several tasks are not quite.
        """
        parts = []
        for task in self.results.tasks:
            if task.tier != "T1":
                continue
            found = self.slice_gaps(task, dimension="history")
            parts += [(n, value, error) for name, n, value, error in found if name in COLD]
        rows = sum(n for n, _, _ in parts)
        if not rows:
            return None
        mean = sum(n * value for n, value, _ in parts) / rows
        error = float(np.sqrt(sum((n * e) ** 2 for n, _, e in parts))) / rows
        return mean, error

    def slice_gaps(
        self, task: TaskResult, *, dimension: str | None = None
    ) -> list[tuple[str, int, float, float]]:
        """Name, rows, difference and standard error of each slice that both sides have."""
        theirs = {}
        if self.to == "champion":
            other = self._theirs.get(key(task))
            theirs = {(s.dimension, s.value): s for s in other.slices} if other else {}
        out = []
        for one in task.slices:
            if dimension not in (None, one.dimension):
                continue
            if self.to == "production":
                value, error = one.difference.value, standard_error(one.difference)
            else:
                past = theirs.get((one.dimension, one.value))
                if past is None or one.ranker.value is None or past.ranker.value is None:
                    continue
                value = one.ranker.value - past.ranker.value
                error = float(np.hypot(standard_error(one.ranker), standard_error(past.ranker)))
            if value is not None and np.isfinite(error):
                name = one.value if dimension else f"{one.dimension} {one.value}"
                out.append((name, one.n, value, error))
        return out


def key(task: TaskResult) -> Key:
    """What must agree for two results to be of the same task."""
    return task.name, task.version, task.horizon_weeks


def _mean(gaps: Sequence[Gap]) -> Gap | None:
    if not gaps:
        return None
    length = min(len(g.draws_R) for g in gaps)
    drawn = np.stack([g.draws_R[:length] for g in gaps])
    return Gap(
        value=float(np.mean([g.value for g in gaps])),
        draws_R=drawn.mean(0),
        n=sum(g.n for g in gaps),
        paired=all(g.paired for g in gaps),
    )


def _units(millionths: Sequence[int]) -> np.ndarray:
    values = np.asarray(millionths, np.float64) / 1_000_000
    values[values < 0] = np.nan
    return values
