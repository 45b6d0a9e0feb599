"""Mean AUC with its resamples: what studies compare, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from brewhouse.errors import DataError
from brewhouse.evaluation.resampling import interval
from brewhouse.evaluation.results import Results, TaskResult

Evaluated = Mapping[str, Results]
_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Mean:
    """Mean AUC over tasks, with its resamples."""

    value: float
    draws_R: np.ndarray

    def percent_over(self, other: Mean) -> tuple[float, float, float]:
        """How much of the other's AUC lies between them, in percent, with its interval."""
        low, high = interval(100 * (self.draws_R / other.draws_R - 1))
        return 100 * (self.value / other.value - 1), low, high

    def minus(self, other: Mean) -> Shift:
        """Difference in AUC; paired where both were judged on the same rows."""
        low, high = interval(self.draws_R - other.draws_R)
        return Shift(value=self.value - other.value, low=low, high=high)


@dataclass(frozen=True, kw_only=True)
class Shift:
    """A difference of AUC with its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves zero out, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        """With sign and interval."""
        return f"{self.value:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def mean_auc(tasks: list[TaskResult], scorer: str, *, tier: str = "T1", weeks: int = 0) -> Mean:
    """Mean over the tasks of a tier at a horizon.

    Raises:
        DataError: None has an AUC.
    """
    values, drawn = [], []
    for task in tasks:
        found = task.scorers.get(scorer)
        draws = task.draws.get(scorer, {}).get("auc")
        if task.tier != tier or task.horizon_weeks != weeks or not found or not draws:
            continue
        if found.auc.value is not None:
            values.append(found.auc.value)
            drawn.append(np.where(np.array(draws) < 0, np.nan, np.array(draws) / _MILLION))
    if not values:
        msg = f"no {tier} task has an AUC of {scorer} {weeks} weeks on; ask more test sessions"
        raise DataError(msg)
    with np.errstate(all="ignore"):
        return Mean(value=float(np.mean(values)), draws_R=np.nanmean(np.stack(drawn), axis=0))


def evaluation(results: Evaluated, name: str) -> Results:
    """One evaluation.

    Raises:
        DataError: It is missing.
    """
    if name not in results:
        known = ", ".join(sorted(results)) or "none"
        msg = f"evaluation '{name}' is missing (there: {known}); run the study again"
        raise DataError(msg)
    return results[name]
