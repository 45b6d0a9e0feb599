"""Metrics of binary ranking. Arrays: y in {0, 1}, s log-odds, p probabilities, g group codes."""

from __future__ import annotations

import numpy as np


def auc(y: np.ndarray, s: np.ndarray, weight: np.ndarray | None = None) -> float:
    """Area under the ROC curve, ties counted half; NaN with one class only."""
    w = np.ones(len(y)) if weight is None else weight
    return float(weighted_aucs(y, s, w[None, :])[0])


def weighted_aucs(y: np.ndarray, s: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUC under each of several weightings of the same rows.

    Args:
        y: Labels, shape (n,).
        s: Scores, shape (n,).
        weights: Non-negative, shape (b, n).

    Returns:
        Shape (b,), NaN where a weighting leaves one class.
    """
    order = np.argsort(s, kind="stable")
    sorted_s = s[order]
    starts = np.flatnonzero(np.concatenate([[True], sorted_s[1:] != sorted_s[:-1]]))
    w = weights[:, order].astype(np.float64)
    positive = np.add.reduceat(w * y[order], starts, axis=1)
    negative = np.add.reduceat(w * (1 - y[order]), starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    wins = (positive * (below + negative / 2)).sum(1)
    pairs = positive.sum(1) * negative.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(pairs > 0, wins / pairs, np.nan)


def gauc(y: np.ndarray, s: np.ndarray, g: np.ndarray) -> tuple[float, int]:
    """AUC within each group, averaged with the group's rows as weight.

    Groups with one class carry no order and are left out.

    Returns:
        The average (NaN if no group has both classes) and the number of groups that count.
    """
    order = np.lexsort((s, g))
    y, s, g = y[order], s[order], g[order]
    tie_start = np.concatenate([[True], (s[1:] != s[:-1]) | (g[1:] != g[:-1])])
    ties = np.cumsum(tie_start) - 1
    _, code = np.unique(g, return_inverse=True)
    positive = np.bincount(ties, weights=y)
    negative = np.bincount(ties, weights=1 - y)
    group_of_tie = code[np.flatnonzero(tie_start)]
    negatives = np.bincount(group_of_tie, weights=negative)
    positives = np.bincount(group_of_tie, weights=positive)
    before = np.cumsum(negative) - negative
    offset = np.concatenate([[0], np.cumsum(negatives)[:-1]])
    wins = np.bincount(
        group_of_tie, weights=positive * (before - offset[group_of_tie] + negative / 2)
    )
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        return float("nan"), 0
    rows = (positives + negatives)[both]
    values = wins[both] / (positives * negatives)[both]
    return float((values * rows).sum() / rows.sum()), int(both.sum())


def ndcg(y: np.ndarray, s: np.ndarray, g: np.ndarray, k: int = 10) -> float:
    """Mean NDCG@k over groups that have a positive.

    Tied rows share the mean discount of the ranks they fill (McSherry & Najork, 2008), so the value
    does not depend on the order in which rows came.
    """
    order = np.lexsort((-s, g))
    y, s, g = y[order], s[order], g[order]
    new_group = np.concatenate([[True], g[1:] != g[:-1]])
    first = np.flatnonzero(new_group)
    rank = np.arange(len(y)) - np.repeat(first, np.diff(np.append(first, len(y))))
    discount = np.where(rank < k, 1 / np.log2(rank + 2), 0.0)
    tie = np.flatnonzero(new_group | np.concatenate([[True], s[1:] != s[:-1]]))
    size = np.diff(np.append(tie, len(y)))
    gain = y * np.repeat(np.add.reduceat(discount, tie) / size, size)
    got = np.add.reduceat(gain, first)
    positives = np.add.reduceat(y, first).astype(int)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2))])
    has = positives > 0
    return float((got[has] / ideal[np.minimum(positives[has], k)]).mean()) if has.any() else np.nan


def log_loss(y: np.ndarray, s: np.ndarray) -> float:
    """Mean negative log-likelihood of log-odds, in nats, stable for large scores."""
    return float(np.mean(np.logaddexp(0.0, s) - y * s))


def normalised_entropy(y: np.ndarray, s: np.ndarray) -> float:
    """Log-loss over the entropy of the base rate (He et al., 2014); below 1 beats a constant."""
    rate = float(y.mean())
    if rate in (0.0, 1.0):
        return float("nan")
    return log_loss(y, s) / -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))


def reliability(
    y: np.ndarray, s: np.ndarray, bins: int = 15
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, share of positives and rows in bins of equal count."""
    p = 1 / (1 + np.exp(-s.astype(np.float64)))
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return (
        np.array([p[i].mean() for i in parts]),
        np.array([y[i].mean() for i in parts]),
        np.array([len(i) for i in parts]),
    )


def ece(y: np.ndarray, s: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error over bins of equal count."""
    predicted, observed, rows = reliability(y, s, bins)
    return float((np.abs(predicted - observed) * rows).sum() / rows.sum())
