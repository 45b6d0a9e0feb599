"""The decay curve against worlds whose decay is known."""

from __future__ import annotations

import numpy as np
import pytest

from brewhouse.drift.decay import Decay, Point, fit
from brewhouse.errors import DataError


def _world(seed: int, *, slope: float, between: float, weeks: int = 16) -> Decay:
    rng = np.random.default_rng(seed)
    errors = rng.uniform(0.003, 0.01, weeks)
    values = 0.7 + slope * np.arange(weeks) + rng.normal(0, between, weeks) + rng.normal(0, errors)
    return fit(
        [
            Point(age=float(a), value=float(v), error=float(e))
            for a, (v, e) in enumerate(zip(values, errors, strict=True))
        ]
    )


@pytest.mark.parametrize("between", [0.0, 0.01])
def test_intervals_hold_the_truth(between: float) -> None:
    found = [_world(s, slope=-0.002, between=between) for s in range(400)]
    held = np.mean([d.slope_interval[0] <= -0.002 <= d.slope_interval[1] for d in found])
    assert 0.90 <= held <= 0.98
    at_20 = [d.at(20.0) for d in found]
    assert 0.90 <= np.mean([low <= 0.66 <= high for _, low, high in at_20]) <= 0.98
    assert np.mean([d.between for d in found]) == pytest.approx(between, abs=0.003)


def test_the_crossing_is_foretold() -> None:
    """Down to .68 from .70 at .002 a week: in the tenth week."""
    found = [_world(s, slope=-0.002, between=0.003).crossing(0.68) for s in range(300)]
    held = [
        c.earliest is not None and c.earliest <= 10 and (c.latest is None or c.latest >= 10)
        for c in found
    ]
    assert np.mean(held) >= 0.9
    assert np.median([c.age for c in found if c.age is not None]) == pytest.approx(10, abs=0.7)


def test_what_does_not_decay_never_crosses() -> None:
    curve = _world(1, slope=0.002, between=0.0)
    assert curve.crossing(0.68).age is None
    assert curve.best_interval(cost=1.0, worth=1.0) is None


def test_the_best_interval_costs_least() -> None:
    curve = _world(3, slope=-0.002, between=0.0)
    cost, worth = 40.0, 900.0
    best = curve.best_interval(cost=cost, worth=worth)
    assert best is not None
    weeks = np.linspace(1, 60, 5901)
    spent = cost / weeks + worth * -curve.slope * weeks / 2
    assert best == pytest.approx(weeks[spent.argmin()], abs=0.02)


def test_few_points_are_refused() -> None:
    point = Point(age=1.0, value=0.7, error=0.01)
    for points in ([], [point, point], [point] * 5):
        with pytest.raises(DataError, match=f"two ages, got {len(points)}; wait"):
            fit(points)
