"""Uncertainty: the member-cluster bootstrap, vectorised.

Rows of one member are not independent, so whole members are drawn (Field & Welsh, 2007).
"""

from __future__ import annotations

import numpy as np

from brewhouse.evaluation.metrics import weighted_aucs

_CELLS = 20_000_000


def cluster_weights(members: np.ndarray, resamples: int, *, seed: int) -> np.ndarray:
    """How often each member is drawn in each resample.

    Args:
        members: Member code of each row.
        resamples: Number of resamples.
        seed: Same seed, same draws: scorers compared under it are paired.

    Returns:
        uint16 counts, shape (resamples, distinct members), columns in order of code.
    """
    count = len(np.unique(members))
    rng = np.random.default_rng(seed)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.uint16)


def bootstrap_aucs(
    y: np.ndarray, scores: list[np.ndarray], members: np.ndarray, *, resamples: int, seed: int
) -> np.ndarray:
    """AUC of several scorers under the same resamples, shape (scorers, resamples)."""
    _, code = np.unique(members, return_inverse=True)
    counts = cluster_weights(members, resamples, seed=seed)
    out = np.empty((len(scores), resamples))
    step = max(1, _CELLS // max(1, len(y)))
    for begin in range(0, resamples, step):
        weights = counts[begin : begin + step][:, code]
        for i, s in enumerate(scores):
            out[i, begin : begin + step] = weighted_aucs(y, s, weights)
    return out


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN where no resample had both classes."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
