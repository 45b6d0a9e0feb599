"""The decay curve: a metric against the age of the model, and what follows for the next training.

A line by weighted least squares; windows differ from it by sampling and by what differs between
windows anyway, which is estimated from the residuals. A line is what weeks of one model can carry;
whoever sees a bend in the page's points should not trust the forecast beyond them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from brewhouse.errors import DataError

Z95 = 1.959964
_ROUNDS = 50


@dataclass(frozen=True, kw_only=True)
class Point:
    """Metric of a window: the model's age in weeks, the value (more is better), its error."""

    age: float
    value: float
    error: float


@dataclass(frozen=True, kw_only=True)
class Decay:
    """A fitted curve.

    Attributes:
        fresh: Metric at age 0.
        slope: Change a week; below 0 where it decays.
        covariance: Of fresh and slope, (2, 2).
        between: Standard deviation between windows beyond sampling.
        points: What it was fitted to.
    """

    fresh: float
    slope: float
    covariance: np.ndarray
    between: float
    points: tuple[Point, ...]

    def at(self, age: float) -> tuple[float, float, float]:
        """Expected metric at an age with its 95 % interval."""
        row = np.array([1.0, age])
        middle = self.fresh + self.slope * age
        half = Z95 * math.sqrt(float(row @ self.covariance @ row))
        return middle, middle - half, middle + half

    @property
    def slope_interval(self) -> tuple[float, float]:
        """95 % interval of the slope."""
        half = Z95 * math.sqrt(float(self.covariance[1, 1]))
        return self.slope - half, self.slope + half

    def crossing(self, floor: float, *, latest: float = 520.0) -> Crossing:
        """When the metric falls below a floor.

        Args:
            floor: Of the metric.
            latest: Ages beyond it are told as never.
        """
        ages = np.arange(0.0, latest + 0.1, 0.1)
        bands = np.array([self.at(float(age)) for age in ages])
        found = [_first_below(ages, bands[:, column], floor) for column in (0, 1, 2)]
        return Crossing(age=found[0], earliest=found[1], latest=found[2])

    def best_interval(self, *, cost: float, worth: float) -> float | None:
        """Weeks between trainings that cost least in all; None where nothing is lost by waiting.

        Training every T weeks costs cost / T a week; the metric lost is on average -slope T / 2,
        at `worth` for 1.0 of it in a week: the sum is least at sqrt(2 cost / (-slope worth)).

        Args:
            cost: Of a training, in any unit.
            worth: Of 1.0 of the metric for a week, in the same unit.
        """
        if self.slope >= 0 or worth <= 0:
            return None
        return math.sqrt(2 * cost / (-self.slope * worth))


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """Age in weeks at which a floor is crossed, with its 95 % interval; None for never."""

    age: float | None
    earliest: float | None
    latest: float | None


def fit(points: Sequence[Point]) -> Decay:
    """Fit the curve of one model.

    Args:
        points: At least three, of two ages or more.

    Raises:
        DataError: There are too few.
    """
    if len(points) < 3 or len({p.age for p in points}) < 2:
        msg = f"a decay curve needs three windows of two ages, got {len(points)}; wait for labels"
        raise DataError(msg)
    design = np.array([[1.0, p.age] for p in points])
    value = np.array([p.value for p in points])
    variance = np.array([p.error**2 for p in points])
    between = _between(design, value, variance)
    weight = 1 / (variance + between)
    covariance = np.linalg.inv(design.T @ (weight[:, None] * design))
    fresh, slope = covariance @ (design.T @ (weight * value))
    return Decay(
        fresh=float(fresh),
        slope=float(slope),
        covariance=covariance,
        between=math.sqrt(between),
        points=tuple(points),
    )


def _between(design: np.ndarray, value: np.ndarray, variance: np.ndarray) -> float:
    """Variance that brings the weighted residuals to their degrees of freedom (Paule & Mandel)."""
    freedom = len(value) - design.shape[1]

    def excess(extra: float) -> float:
        weight = 1 / (variance + extra)
        inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
        residual = value - design @ (inverse @ (design.T @ (weight * value)))
        return float((weight * residual**2).sum()) - freedom

    low, high = 0.0, float(np.var(value)) + float(variance.max())
    if excess(low) <= 0:
        return 0.0
    while excess(high) > 0:
        high *= 2
    for _ in range(_ROUNDS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2


def _first_below(ages: np.ndarray, values: np.ndarray, floor: float) -> float | None:
    below = np.flatnonzero(values < floor)
    return float(ages[below[0]]) if len(below) else None
