"""The member-cluster bootstrap: whole members are drawn, for their rows are not independent.

Field & Welsh (2007), doi:10.1111/j.1467-9868.2007.00593.x. Scorers under one seed see the same
draws and are compared in pairs. Nothing loops over rows: every statistic but AUC is made of sums by
member, and AUC of one running sum over the negatives.

Suffixes: R resamples, M members, N rows, P positives, G negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_BLOCK = 25
"""Resamples that are drawn from one seed: the draws do not depend on how many are asked for."""
_CELLS = 2_000_000
"""Numbers held at once per thread."""
_KEPT_CELLS = 200_000_000
"""Draws are kept between calls while all resamples have fewer cells, two bytes each."""
_THREADS = 2


def draws(members: int, resamples: int, *, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """How often each member is drawn, in blocks of resamples.

    Yields:
        Which resamples, and their uint16 counts of shape (len, members).
    """
    for block, begin in enumerate(range(0, resamples, _BLOCK)):
        here = slice(begin, min(begin + _BLOCK, resamples))
        kept = _kept if members * resamples <= _KEPT_CELLS else _drawn
        yield here, kept(members, seed, block)[: here.stop - here.start]


def _drawn(members: int, seed: int, block: int) -> np.ndarray:
    rng = np.random.default_rng([seed, block])
    counts = np.empty((_BLOCK, members), np.uint16)
    for r in range(_BLOCK):
        counts[r] = np.bincount(
            rng.integers(members, size=members, dtype=np.int32), minlength=members
        )
    counts.flags.writeable = False
    return counts


# All tasks of a suite, and all their scorers, are judged under the same draws.
_kept = lru_cache(maxsize=512)(_drawn)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Rows of one scorer in the order that AUC needs.

    Attributes:
        positive_P: Member of each positive.
        negative_G: Member of each negative, by rising score.
        below_P: Negatives that score lower than the positive.
        upto_P: Those, and the ones that tie with it.
    """

    positive_P: np.ndarray
    negative_G: np.ndarray
    below_P: np.ndarray
    upto_P: np.ndarray

    @classmethod
    def of(cls, y: np.ndarray, s: np.ndarray, member: np.ndarray) -> Ranking:
        """Sort once; every resample then costs one pass.

        Args:
            y: Labels, shape (n,).
            s: Scores, shape (n,).
            member: Codes from 0, shape (n,).
        """
        yes = np.asarray(y) > 0.5
        negative = s[~yes]
        order = np.argsort(negative, kind="stable")
        negative, positive = negative[order], s[yes]
        # Positives by rising score too: what they look up then lies close together.
        rising = np.argsort(positive, kind="stable")
        positive = positive[rising]
        return cls(
            positive_P=member[yes][rising].astype(np.int32),
            negative_G=member[~yes][order].astype(np.int32),
            below_P=np.searchsorted(negative, positive, side="left"),
            upto_P=np.searchsorted(negative, positive, side="right"),
        )

    def aucs(self, counts_RM: np.ndarray) -> np.ndarray:
        """AUC under each draw, shape (R,); NaN where a draw leaves one class."""
        out = np.full(len(counts_RM), np.nan)
        step = max(1, _CELLS // max(1, len(self.negative_G) + len(self.positive_P)))
        for begin in range(0, len(counts_RM), step):
            counts = counts_RM[begin : begin + step]
            running = np.zeros((len(counts), len(self.negative_G) + 1), np.int64)
            np.cumsum(counts[:, self.negative_G], axis=1, dtype=np.int64, out=running[:, 1:])
            weight = counts[:, self.positive_P].astype(np.int64)
            # Twice the wins, for a tie counts half: whole numbers all the way.
            twice = (weight * (running[:, self.below_P] + running[:, self.upto_P])).sum(1)
            pairs = weight.sum(1) * running[:, -1]
            some = pairs > 0
            out[begin : begin + step][some] = twice[some] / (2 * pairs[some])
        return out


@dataclass(frozen=True, kw_only=True)
class Sums:
    """A statistic that is made of sums over members.

    Attributes:
        parts_MK: What each member adds, shape (members, K).
        value: From sums of shape (..., K) to values of shape (...).
    """

    parts_MK: np.ndarray
    value: Callable[[np.ndarray], np.ndarray]

    def whole(self) -> float:
        """Of the rows as they are."""
        return float(self.value(self.parts_MK.sum(0)))


def resample(
    rankings: Sequence[Ranking], sums: Sequence[Sums], *, members: int, resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """AUCs and other statistics under the same draws.

    Args:
        rankings: One a scorer.
        sums: Any.
        members: Number of members, of whom codes run from 0.
        resamples: Number of draws.
        seed: Same seed, same draws.

    Returns:
        Shapes (len(rankings), R) and (len(sums), R).
    """
    aucs = np.full((len(rankings), resamples), np.nan)
    values = np.full((len(sums), resamples), np.nan)
    # One product of draws and everything that members add.
    ends = np.cumsum([0, *(one.parts_MK.shape[1] for one in sums)])
    parts = np.concatenate([np.zeros((members, 0)), *(one.parts_MK for one in sums)], axis=1)
    parts = parts.astype(np.float32)
    with ThreadPoolExecutor(_THREADS) as pool:
        for here, counts in draws(members, resamples, seed=seed):
            jobs = [pool.submit(ranking.aucs, counts) for ranking in rankings]
            added = counts.astype(np.float32) @ parts
            for i, one in enumerate(sums):
                values[i, here] = one.value(added[:, ends[i] : ends[i + 1]])
            for i, job in enumerate(jobs):
                aucs[i, here] = job.result()
    return aucs, values


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval; NaN where no resample had both classes."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
