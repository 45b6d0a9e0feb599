"""Slices part rows without losing any."""

from __future__ import annotations

import numpy as np
import pytest

from brewhouse.evaluation import slices


def counted(dimension: str, values: np.ndarray) -> dict[str, int]:
    found = list(slices.parts(dimension, values))
    total = np.sum([mask for _, mask in found], axis=0)
    assert (total == 1).all(), "every row is in one part"
    return {name: int(mask.sum()) for name, mask in found if mask.any()}


def test_edges() -> None:
    values = np.array([0, 1, 4, 5, 9, 10, 99, 100, 5000])
    assert counted("history", values) == {"0": 1, "1-4": 2, "5-9": 2, "10-99": 2, "100+": 2}
    ages = np.array([0.5, 1.0, 6.9, 7.0, 400.0, np.nan])
    assert counted("item_age", ages) == {
        "under a day": 1,
        "1-6 days": 2,
        "7-29 days": 1,
        "30 days and more": 1,
        "unknown": 1,
    }


def test_deciles_do_not_part_rows_that_tie() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.zeros(500, int), rng.integers(1, 1000, 500)])
    found = counted("popularity", values)
    assert found.pop("decile 1 (seen 0 times)") == 500
    assert sum(found.values()) == 500
    assert all(80 <= n <= 120 for n in found.values())


@pytest.mark.parametrize("values", [["a", "b", None, "a"], [f"v{i}" for i in range(30)]])
def test_words(values: list[str | None]) -> None:
    found = counted("region", np.array(values, dtype=object))
    assert sum(found.values()) == len(values)
    if None in values:
        assert found["unknown"] == 1
    else:
        assert found[slices.OTHER] == 18
