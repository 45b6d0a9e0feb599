"""Metrics of binary ranking. Arrays: y in {0, 1}, s log-odds, p probabilities, g group codes."""

from __future__ import annotations

import numpy as np


def auc(y: np.ndarray, s: np.ndarray) -> float:
    """Area under the ROC curve, ties counted half; NaN with one class only."""
    yes = np.asarray(y) > 0.5
    negative = np.sort(s[~yes])
    pairs = len(negative) * int(yes.sum())
    if not pairs:
        return float("nan")
    below = np.searchsorted(negative, s[yes], side="left").sum()
    upto = np.searchsorted(negative, s[yes], side="right").sum()
    return float((below + upto) / (2 * pairs))


def gauc(y: np.ndarray, s: np.ndarray, g: np.ndarray) -> tuple[float, int]:
    """AUC within each group, averaged with the group's rows as weight.

    Groups with one class carry no order and are left out.

    Returns:
        The average (NaN if no group has both classes) and the number of groups that count.
    """
    parts = gauc_parts(y, s, g, int(g.max(initial=0)) + 1)
    value = gauc_value(parts.sum(0))
    return float(value), int((parts[:, 1] > 0).sum())


def gauc_parts(y: np.ndarray, s: np.ndarray, g: np.ndarray, groups: int) -> np.ndarray:
    """Rows times AUC, and rows, of each group by code; zeros where a group has one class.

    Shape (groups, 2); summed over groups and divided, they are GAUC.
    """
    order = np.lexsort((s, g))
    y, s, g = y[order], s[order], g[order]
    tie_start = np.concatenate([[True], (s[1:] != s[:-1]) | (g[1:] != g[:-1])])
    ties = np.cumsum(tie_start) - 1
    values, code = np.unique(g, return_inverse=True)
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
    rows = np.where(both, positives + negatives, 0.0)
    aucs = wins / np.maximum(positives * negatives, 1.0)
    parts = np.zeros((groups, 2))
    parts[values] = np.stack([rows * aucs, rows], axis=1)
    return parts


def gauc_value(sums: np.ndarray) -> np.ndarray:
    """From summed parts, shape (..., 2)."""
    return ratio(sums[..., 0], sums[..., 1])


def ndcg(y: np.ndarray, s: np.ndarray, g: np.ndarray, k: int = 10) -> float:
    """Mean NDCG@k over groups that have a positive.

    Tied rows share the mean discount of the ranks they fill (McSherry & Najork, 2008), so the value
    does not depend on the order in which rows came.
    """
    return float(gauc_value(ndcg_parts(y, s, g, int(g.max(initial=0)) + 1, k).sum(0)))


def ndcg_parts(y: np.ndarray, s: np.ndarray, g: np.ndarray, groups: int, k: int = 10) -> np.ndarray:
    """NDCG@k and one, of each group by code; zeros where a group has no positive.

    Shape (groups, 2); summed over groups and divided, they are the mean NDCG.
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
    parts = np.zeros((groups, 2))
    parts[g[first][has], 0] = got[has] / ideal[np.minimum(positives[has], k)]
    parts[g[first][has], 1] = 1.0
    return parts


def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Quotient, NaN where nothing is divided by."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(b > 0, a / b, np.nan)


def losses(y: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of each row's log-odds, in nats, stable for large scores."""
    return np.logaddexp(0.0, s) - y * s


def log_loss(y: np.ndarray, s: np.ndarray, w: np.ndarray | None = None) -> float:
    """Mean negative log-likelihood of log-odds, in nats; weighted where `w` is given."""
    return float(np.average(losses(y, s), weights=w))


def normalised_entropy(y: np.ndarray, s: np.ndarray, w: np.ndarray | None = None) -> float:
    """Log-loss over the entropy of the base rate (He et al., 2014); below 1 beats a constant."""
    weight = np.ones(len(y)) if w is None else w
    parts = np.array([weight @ losses(y, s), weight @ y, weight.sum()])
    return float(entropy_value(parts))


def entropy_value(sums: np.ndarray) -> np.ndarray:
    """Normalised entropy from sums of loss, positives and rows, shape (..., 3)."""
    rate = ratio(sums[..., 1], sums[..., 2])
    with np.errstate(invalid="ignore", divide="ignore"):
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    return ratio(ratio(sums[..., 0], sums[..., 2]), np.nan_to_num(entropy))


def bins_of(s: np.ndarray, bins: int = 15) -> np.ndarray:
    """Bin of each row, of equal count by rising score."""
    code = np.empty(len(s), np.int64)
    for i, part in enumerate(np.array_split(np.argsort(s, kind="stable"), min(bins, len(s)))):
        code[part] = i
    return code


def reliability(
    y: np.ndarray, s: np.ndarray, bins: int = 15, w: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean prediction, share of positives and weight in bins of equal count."""
    weight = np.ones(len(y)) if w is None else w
    code = bins_of(s, bins)
    rows = np.bincount(code, weights=weight)
    return (
        np.bincount(code, weights=weight * sigmoid(s)) / rows,
        np.bincount(code, weights=weight * y) / rows,
        rows,
    )


def ece(y: np.ndarray, s: np.ndarray, bins: int = 15, w: np.ndarray | None = None) -> float:
    """Expected calibration error over bins of equal count."""
    predicted, observed, rows = reliability(y, s, bins, w)
    return float((np.abs(predicted - observed) * rows).sum() / rows.sum())


def sigmoid(s: np.ndarray) -> np.ndarray:
    """Probability of log-odds, float64."""
    return 1 / (1 + np.exp(-s.astype(np.float64)))


def correct_prior(s: np.ndarray, *, sampled: float, natural: float) -> np.ndarray:
    """Log-odds learned under a sampled base rate, moved to the natural one.

    King & Zeng (2001), doi:10.1093/oxfordjournals.pan.a004868: drawing classes at other rates moves
    the intercept alone.
    """
    return s + _logit(natural) - _logit(sampled)


def prior_weights(y: np.ndarray, natural: float) -> np.ndarray:
    """Weights under which the share of positives is the natural one, of mean 1."""
    rate = float(y.mean())
    if rate in (0.0, 1.0):
        return np.ones(len(y))
    return np.where(y > 0.5, natural / rate, (1 - natural) / (1 - rate))


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))
