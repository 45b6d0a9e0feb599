"""Do an item's words look like those of what the member engaged with before, as known at the time?

A naive Bayes ratio over words: how often the member met each word, against how often anybody would
have. One sort-merge counts every pair of a target and a word; no loop over rows. Suffixes: _V
words, _E known engaged events in the order of becoming known, _Q targets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from brewhouse.data.timelines import merge_count

_AT_ONCE = 100_000
_SMOOTHING = 0.5
_UNKNOWN = -9.0


@dataclass(frozen=True, kw_only=True)
class Words:
    """Which words each item holds, and what share of items holds each word.

    Attributes:
        items: TF-IDF of items, shape (items, V); only its pattern is used.
        idf_V: Inverse document frequency over items of the training window, as scikit-learn
            smooths it: 1 + log((1 + n) / (1 + n_V)).
    """

    items: csr_matrix
    idf_V: np.ndarray

    @property
    def share_V(self) -> np.ndarray:
        """Share of items that hold each word."""
        return np.exp(1.0 - self.idf_V)

    def of(self, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of (position in `items`, word)."""
        first, count = self.items.indptr[items], np.diff(self.items.indptr)[items]
        owner = np.repeat(np.arange(len(items)), count)
        inside = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return owner, self.items.indices[first[owner] + inside].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Engaged events: member and item codes, and the rank by which they became known, sorted."""

    member_E: np.ndarray
    item_E: np.ndarray
    rank_E: np.ndarray


def word_affinity(
    words: Words,
    known: Known,
    member_Q: np.ndarray,
    item_Q: np.ndarray,
    limit_Q: np.ndarray,
    *,
    window: int | None = None,
) -> dict[str, np.ndarray]:
    """Affinity of each target's member to the words of its item.

    Args:
        words: Words of items.
        known: Events that may be counted.
        member_Q: Member of each target.
        item_Q: Item of each target.
        limit_Q: Greatest rank known at the target's moment.
        window: Count only events within that many microseconds before; all by default.

    Returns:
        `lift` (mean over words of the log of observed against expected count), `best` (greatest
        such log), `seen` (idf-weighted share of words met before), `share` (idf-weighted mean share
        of events that hold the word), `events` (log of the number of events). Shape (Q,), float64.
    """
    owner, word = words.of(known.item_E)
    size = len(words.idf_V)
    key = known.member_E[owner] * size + word
    rank = known.rank_E[owner]
    order = np.lexsort((rank, key))
    pairs = (key[order], rank[order])
    order = np.lexsort((known.rank_E, known.member_E))
    events = (known.member_E[order], known.rank_E[order])
    parts = [
        _chunk(words, pairs, events, member_Q[part], item_Q[part], limit_Q[part], window)
        for part in np.array_split(np.arange(len(item_Q)), max(1, -(-len(item_Q) // _AT_ONCE)))
    ]
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


def _chunk(
    words: Words,
    pairs: tuple[np.ndarray, np.ndarray],
    events: tuple[np.ndarray, np.ndarray],
    member_Q: np.ndarray,
    item_Q: np.ndarray,
    limit_Q: np.ndarray,
    window: int | None,
) -> dict[str, np.ndarray]:
    targets, (owner, word) = len(item_Q), words.of(item_Q)
    asked = member_Q[owner] * len(words.idf_V) + word
    met = _between(*pairs, asked, limit_Q[owner], window)
    events_Q = _between(*events, member_Q, limit_Q, window)
    expected = events_Q[owner] * words.share_V[word]
    lift = np.log((met + _SMOOTHING) / (expected + _SMOOTHING))
    best = np.full(targets, _UNKNOWN)
    np.maximum.at(best, owner, lift)
    idf = words.idf_V[word]

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(owner, values, minlength=targets)

    held = np.maximum(total(np.ones(len(owner))), 1.0)
    weight = np.maximum(total(idf), 1e-9)
    return {
        "lift": total(lift) / held,
        "best": best,
        "seen": total(idf * (met > 0)) / weight,
        "share": total(idf * met / np.maximum(events_Q[owner], 1)) / weight,
        "events": np.log1p(events_Q),
    }


def _between(
    key: np.ndarray, rank: np.ndarray, key_Q: np.ndarray, limit_Q: np.ndarray, window: int | None
) -> np.ndarray:
    """Events with the key that were known at the limit, and not yet `window` before it."""
    end = merge_count(key, rank, key_Q, limit_Q)
    if window is None:
        return end - np.searchsorted(key, key_Q)
    return end - merge_count(key, rank, key_Q, limit_Q - 2 * window)
