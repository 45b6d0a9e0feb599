"""Parts of a task's rows: by history, item age, popularity, tenure, and a domain's own columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

HISTORY_EDGES = (0, 1, 5, 10, 100)
HISTORY_NAMES = ("0", "1-4", "5-9", "10-99", "100+")
AGE_EDGES = (0, 1, 7, 30)
AGE_NAMES = ("under a day", "1-6 days", "7-29 days", "30 days and more")
TENURE_EDGES = (0, 30, 365)
TENURE_NAMES = ("under 30 days", "30-364 days", "a year and more")
_MOST_VALUES = 12
OTHER = "all others"
UNKNOWN = "unknown"


def parts(dimension: str, values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask of each part; rows without a value are a part of their own.

    Args:
        dimension: Name of the slice.
        values: One a row: numbers for the dimensions of every domain, words for others.
    """
    edges: Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]] = {
        "history": (HISTORY_EDGES, HISTORY_NAMES),
        "item_age": (AGE_EDGES, AGE_NAMES),
        "tenure": (TENURE_EDGES, TENURE_NAMES),
    }
    if dimension == "popularity":
        yield from _deciles(values)
    elif dimension in edges:
        limits, names = edges[dimension]
        known = np.isfinite(values.astype(np.float64))
        bucket = np.searchsorted(np.array(limits), values, side="right") - 1
        for index, name in enumerate(names):
            yield name, known & (bucket == index)
        if not known.all():
            yield UNKNOWN, ~known
    else:
        yield from _words(values)


def _deciles(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Tenths of the rows by rising popularity; rows that tie are never parted."""
    if not len(values):
        return
    ordered = np.sort(values)
    rank = np.searchsorted(ordered, values, side="left") / len(values)
    tenth = np.minimum((rank * 10).astype(int), 9)
    for number in np.unique(tenth):
        inside = tenth == number
        low, high = int(values[inside].min()), int(values[inside].max())
        seen = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        yield f"decile {number + 1} (seen {seen} times)", inside


def _words(values: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    words = np.array([UNKNOWN if v is None else str(v) for v in values], dtype=object)
    names, count = np.unique(words.astype(str), return_counts=True)
    common = names[np.argsort(-count, kind="stable")][:_MOST_VALUES]
    for name in sorted(common.tolist()):
        yield name, words == name
    rest = ~np.isin(words.astype(str), common)
    if rest.any():
        yield OTHER, rest
