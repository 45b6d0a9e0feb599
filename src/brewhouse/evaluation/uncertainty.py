"""What intervals are checked by, and what follows from them: DeLong, Holm, power.

Suffixes: P positives, G negatives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()


def placements(y: np.ndarray, s: np.ndarray) -> np.ndarray:
    """For each row the share of the other class that it is on the right side of, ties half.

    The mean over either class is the AUC (DeLong et al., 1988; Sun & Xu, 2014).
    """
    yes = np.asarray(y) > 0.5
    out = np.empty(len(s))
    for mine, other in ((yes, ~yes), (~yes, yes)):
        against = np.sort(s[other])
        below = np.searchsorted(against, s[mine], side="left")
        upto = np.searchsorted(against, s[mine], side="right")
        out[mine] = (below + upto) / (2 * max(1, len(against)))
    out[~yes] = 1 - out[~yes]
    return out


def delong(y: np.ndarray, s: np.ndarray, other: np.ndarray | None = None) -> tuple[float, float]:
    """AUC and its standard error for independent rows; of a paired difference with `other`.

    DeLong, DeLong & Clarke-Pearson (1988), doi:10.2307/2531595.
    """
    return _spread(y, _difference(y, s, other), np.arange(len(y)))


def delong_clustered(
    y: np.ndarray, s: np.ndarray, member: np.ndarray, other: np.ndarray | None = None
) -> tuple[float, float]:
    """The same where rows of one member hang together.

    Obuchowski (1997), doi:10.2307/2533958.
    """
    return _spread(y, _difference(y, s, other), member)


def _difference(y: np.ndarray, s: np.ndarray, other: np.ndarray | None) -> np.ndarray:
    found = placements(y, s)
    return found if other is None else found - placements(y, other)


def _spread(y: np.ndarray, value: np.ndarray, member: np.ndarray) -> tuple[float, float]:
    yes = np.asarray(y) > 0.5
    count = np.array([(~yes).sum(), yes.sum()])
    if not count.all():
        return float("nan"), float("nan")
    mean = float(value[yes].mean())
    _, code = np.unique(member, return_inverse=True)
    clusters = int(code.max()) + 1
    if clusters < 2:
        return mean, float("nan")
    # Each cluster's part of both means, about the whole.
    part = np.zeros(clusters)
    variance = 0.0
    for side, rows in ((0, ~yes), (1, yes)):
        centred = np.bincount(code[rows], weights=value[rows] - mean, minlength=clusters)
        part += centred / count[side]
        holding = int((np.bincount(code[rows], minlength=clusters) > 0).sum())
        # Small-sample factor of each class, as for a variance.
        variance += (centred**2).sum() / count[side] ** 2 * (holding / max(1, holding - 1) - 1)
    variance += float((part**2).sum())
    return mean, math.sqrt(variance)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values that keep the chance of any false claim (Holm, 1979)."""
    out: dict[str, float] = {}
    largest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda n: (p[n], n))):
        largest = max(largest, min(1.0, p[name] * (len(p) - rank)))
        out[name] = largest
    return out


def p_above(difference: float, error: float, limit: float = 0.0) -> float:
    """One-sided p-value of the claim that a difference lies above a limit."""
    if error <= 0 or not math.isfinite(error):
        return 0.0 if difference > limit else 1.0
    return 1 - _NORMAL.cdf((difference - limit) / error)


def smallest_margin(error: float, *, alpha: float = 0.025, power: float = 0.8) -> float:
    """Smallest non-inferiority margin that data of this standard error can support.

    With equal scorers, a lower bound at level 1 - alpha then stays above -margin with the given
    probability.
    """
    return (_NORMAL.inv_cdf(1 - alpha) + _NORMAL.inv_cdf(power)) * error


def rows_needed(rows: int, error: float, margin: float, **levels: float) -> int:
    """Rows at which the smallest margin falls to `margin`, if errors shrink with their root."""
    return math.ceil(rows * (smallest_margin(error, **levels) / margin) ** 2)
