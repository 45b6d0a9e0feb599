"""Point-in-time count, recency, match and text features: what a conventional ranker is fed.

Every count is of events known before a target's moment, found by one sort-merge, never by a loop
over rows. Suffixes: _E logged events, _Q targets, _D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from scipy.sparse import csr_matrix
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer

from brewhouse.baselines.affinity import Known, Words, word_affinity
from brewhouse.data.timelines import Timelines, known_ranks, merge_count
from brewhouse.domains.spec import Domain

_DAY = 86_400_000_000
_SVD = 32
_RECENT = 30
_NEAR = 50
_AT_ONCE = 20_000
_LONG_AGO = 9.0
_WINDOWS = {"ever": None, "90d": 90 * _DAY}
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class FeatureTable:
    """Features of targets, float32, with a name a column."""

    names: tuple[str, ...]
    values_QF: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TextIndex:
    """TF-IDF and its truncated SVD, fitted on items that existed in the training window."""

    tfidf_items: csr_matrix
    item_D: np.ndarray
    vectorizer: TfidfVectorizer
    svd: TruncatedSVD

    @classmethod
    def fit(cls, texts: Sequence[str], known: np.ndarray, *, seed: int) -> TextIndex:
        """Fit on the known texts and transform all of them."""
        vectorizer = TfidfVectorizer(
            min_df=2, sublinear_tf=True, max_features=20_000, token_pattern=r"(?u)\b\w+\b"
        )
        vectorizer.fit([t for t, k in zip(texts, known, strict=True) if k])
        tfidf = vectorizer.transform(texts)
        size = min(_SVD, tfidf.shape[1] - 1)
        svd = TruncatedSVD(size, random_state=seed).fit(tfidf[np.flatnonzero(known)])
        return cls(
            tfidf_items=tfidf,
            item_D=svd.transform(tfidf).astype(np.float32),
            vectorizer=vectorizer,
            svd=svd,
        )


@dataclass(frozen=True, kw_only=True)
class KnownCounter:
    """For each target, the stretch of sorted log rows that share its key and were known by then."""

    rows: np.ndarray
    start_Q: np.ndarray
    end_Q: np.ndarray

    def all(self) -> np.ndarray:
        """Number of such rows."""
        return self.end_Q - self.start_Q

    def where(self, mask: np.ndarray) -> np.ndarray:
        """Number of such rows for which a mask over log rows holds."""
        sums = np.concatenate([[0], np.cumsum(mask[self.rows])])
        return sums[self.end_Q] - sums[self.start_Q]

    def newest(self, mask: np.ndarray) -> np.ndarray:
        """Log row of the newest such row for which the mask holds, -1 where there is none."""
        at = np.where(mask[self.rows], np.arange(len(self.rows)), -1)
        last = np.maximum.accumulate(np.concatenate([[-1], at]))[self.end_Q]
        rows = np.append(self.rows, -1)
        return rows[np.where(last >= self.start_Q, last, len(self.rows))]


class FeatureBuilder:
    """Builds features for targets of a log; holds what all tasks share."""

    def __init__(
        self,
        domain: Domain,
        timelines: Timelines,
        items: pa.Table,
        texts: Sequence[str],
        profiles: Sequence[str],
        *,
        train_end: int,
        seed: int,
        own_rows: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            domain: Says which item columns to match on.
            timelines: Log, history events and targets.
            items: First version of each item, in the order of `log.item_ids`.
            texts: Text of each such item.
            profiles: Profile text of each target's member at its moment.
            train_end: Microseconds; text models see nothing newer.
            seed: Seed of the SVD.
            own_rows: Rows of the log from this one on repeat others for a twin of their member:
                they count for the twin and for no item. By default all rows are the log's own.
        """
        self.domain, self.timelines, self.log = domain, timelines, timelines.log
        self.created = items.column("created_at").cast(pa.int64()).to_numpy()
        self.items = items
        self.text = TextIndex.fit(texts, self.created < train_end, seed=seed)
        self.limit_Q = 2 * timelines.moment_Q
        log = self.log
        self.own = np.arange(len(log)) < (len(log) if own_rows is None else own_rows)
        rows = np.flatnonzero(log.logged)
        rank = known_ranks(log)
        self.rows_E = rows[np.argsort(rank[rows], kind="stable")]
        self.rank_E = rank[self.rows_E]
        self.profiles = profiles
        self._shared: FeatureTable | None = None
        self._counters: dict[str, KnownCounter] = {}
        self._values: dict[str, list[np.ndarray]] = {}
        self._own: dict[tuple[str, ...], FeatureTable] = {}

    def shared(self) -> FeatureTable:
        """Features that do not depend on the task."""
        if self._shared is None:
            log, q = self.log, self.timelines.targets_Q
            columns: dict[str, np.ndarray] = {}
            age = (self.timelines.request_at_Q - self.created[log.item[q]]) / _DAY
            columns["item_age_days"] = np.log1p(np.maximum(age, 0))
            columns |= self._numeric() | self._recency() | self._counts("any", self.engaged)
            columns |= self._text() | self._words() | self._nearest()
            self._shared = FeatureTable(
                names=tuple(columns),
                values_QF=np.stack(list(columns.values()), axis=1).astype(np.float32),
            )
        return self._shared

    def for_task(self, positive: Sequence[str]) -> FeatureTable:
        """Counts of the task's own positive actions; tasks with the same actions share them."""
        actions = tuple(positive)
        if actions not in self._own:
            self._own[actions] = self._for_task(actions)
        return self._own[actions]

    def _for_task(self, positive: tuple[str, ...]) -> FeatureTable:
        mask = np.isin(
            self.log.action, [self.log.actions.index(a) for a in positive if a in self.log.actions]
        )
        columns = self._counts("task", mask)
        return FeatureTable(
            names=tuple(columns),
            values_QF=np.stack(list(columns.values()), axis=1).astype(np.float32),
        )

    def counter(self, name: str, key: np.ndarray, key_Q: np.ndarray) -> KnownCounter:
        """Counter of known logged events with each target's key; sorted once per name.

        Args:
            name: Names the key: the same name must mean the same arrays.
            key: Key of each log row.
            key_Q: Key of each target.
        """
        if name not in self._counters:
            order = np.argsort(key[self.rows_E], kind="stable")
            sorted_key = key[self.rows_E][order]
            self._counters[name] = KnownCounter(
                rows=self.rows_E[order],
                start_Q=np.searchsorted(sorted_key, key_Q),
                end_Q=merge_count(sorted_key, self.rank_E[order], key_Q, self.limit_Q),
            )
        return self._counters[name]

    def logged_counts(self, what: str) -> KnownCounter:
        """Counter by `item`, `member`, `item_surface` or `member_surface`."""
        log, q = self.log, self.timelines.targets_Q
        name, _, on_surface = what.partition("_")
        key = log.item if name == "item" else log.member
        if on_surface:
            key = key * len(log.surfaces) + log.surface
        counted = np.where(self.own, key, -2) if name == "item" else key
        return self.counter(what, counted, key[q])

    @cached_property
    def engaged(self) -> np.ndarray:
        """Per log row, whether the member did anything at all."""
        none = self.log.actions.index(NONE) if NONE in self.log.actions else -1
        return self.log.action != none

    def _counts(self, name: str, positive: np.ndarray) -> dict[str, np.ndarray]:
        columns = {}
        for what in ("item", "member", "member_surface"):
            counter = self.logged_counts(what)
            shown, acted = counter.all(), counter.where(positive)
            if name == "any":
                columns[f"{what}_shown"] = np.log1p(shown)
            columns[f"{what}_{name}_rate"] = (acted + 0.5) / (shown + 2.0)
        for column in self.domain.items.match:
            columns |= self._match(name, column, positive)
        return columns

    def _match(self, name: str, column: str, positive: np.ndarray) -> dict[str, np.ndarray]:
        """Past interactions of the member with items that share a value, best value of several."""
        pairs = self._same_value(column)
        shown = np.stack([sum(c.all() for c in counters) for counters in pairs])
        acted = np.stack([sum(c.where(positive) for c in counters) for counters in pairs])
        best = acted.argmax(0), np.arange(acted.shape[1])
        out = {
            f"match_{column}_{name}": np.log1p(acted[best]),
            f"match_{column}_{name}_rate": (acted[best] + 0.5) / (shown[best] + 2.0),
        }
        if name == "any":
            out[f"match_{column}_shown"] = np.log1p(shown.max(0))
            out[f"match_{column}_days"] = self._days_since(pairs, positive)
            everyone = self._same_value(column, by_member=False)
            shown = np.stack([sum(c.all() for c in counters) for counters in everyone])
            acted = np.stack([sum(c.where(positive) for c in counters) for counters in everyone])
            out[f"{column}_any"] = np.log1p(acted.max(0))
            out[f"{column}_any_rate"] = ((acted + 0.5) / (shown + 2.0)).max(0)
        return out

    def _same_value(self, column: str, *, by_member: bool = True) -> list[list[KnownCounter]]:
        """For each value of the target's item, counters of events with that value, by its place."""
        values = self.values(column)
        log, q = self.log, self.timelines.targets_Q
        total = int(max(v.max(initial=0) for v in values)) + 1
        base = log.member * total if by_member else np.zeros(len(log), np.int64)
        counted = np.ones(len(log), bool) if by_member else self.own
        who = "member" if by_member else "all"
        out = []
        for k, value in enumerate(values):
            present = value[log.item[q]] >= 0
            key_Q = np.where(present, base[q] + value[log.item[q]], -1)
            out.append(
                [
                    self.counter(
                        f"{column}.{who}.{k}.{j}",
                        np.where(counted & (other[log.item] >= 0), base + other[log.item], -2),
                        key_Q,
                    )
                    for j, other in enumerate(values)
                ]
            )
        return out

    def _days_since(self, pairs: list[list[KnownCounter]], mask: np.ndarray) -> np.ndarray:
        """Log of the days since the newest such event of any of the counters."""
        known = self.log.known_at
        newest = np.full(len(self.limit_Q), np.iinfo(np.int64).min)
        for counter in (c for counters in pairs for c in counters):
            row = counter.newest(mask)
            newest = np.where(row >= 0, np.maximum(newest, known[row]), newest)
        never = newest == np.iinfo(np.int64).min
        days = (self.timelines.request_at_Q - np.where(never, 0, newest)) / _DAY
        return np.where(never, _LONG_AGO, np.log1p(np.maximum(days, 0)))

    def values(self, column: str) -> list[np.ndarray]:
        """Codes of an item column; several arrays where it holds several values, -1 for none."""
        if column in self._values:
            return self._values[column]
        texts = [v or "" for v in self.items.column(column).to_pylist()]
        separator = self.domain.items.multi.get(column)
        split = [t.split(separator) if separator else [t] for t in texts]
        code: dict[str, int] = {}
        width = min(4, max(map(len, split), default=1))
        table = np.full((width, len(texts)), -1, np.int64)
        for i, parts in enumerate(split):
            for k, part in enumerate(parts[:width]):
                if part:
                    table[k, i] = code.setdefault(part, len(code))
        self._values[column] = list(table)
        return self._values[column]

    def _numeric(self) -> dict[str, np.ndarray]:
        q = self.timelines.targets_Q
        return {
            f"item_{name}": self.items.column(name).to_numpy(zero_copy_only=False)[self.log.item[q]]
            for name, spec in self.domain.items.columns.items()
            if spec.type in ("integer", "number")
        }

    def _recency(self) -> dict[str, np.ndarray]:
        """Days since the member's newest known event, and since the first."""
        t, log = self.timelines, self.log
        member = log.member[t.targets_Q]
        first = t.offsets[member]
        none = t.branch_Q == 0
        last = np.maximum(first + t.branch_Q - 1, 0)
        shown = log.shown_at[t.events_E] if len(t.events_E) else np.zeros(1, np.int64)
        top = len(shown) - 1
        since = (t.request_at_Q - shown[np.minimum(last, top)]) / _DAY
        tenure = (t.request_at_Q - shown[np.minimum(first, top)]) / _DAY
        return {
            "days_since_last": np.where(none, -1, np.log1p(np.maximum(since, 0))),
            "days_since_first": np.where(none, -1, np.log1p(np.maximum(tenure, 0))),
        }

    def _text(self) -> dict[str, np.ndarray]:
        """Similarity of the item to engaged history, to recent history, to the profile; its SVD."""
        t, log = self.timelines, self.log
        item = log.item[t.targets_Q]
        vector_D = self.text.item_D
        unit = vector_D / np.maximum(np.linalg.norm(vector_D, axis=1, keepdims=True), 1e-9)
        engaged = self.engaged[t.events_E]
        start = t.offsets[log.member[t.targets_Q]]
        end = start + t.branch_Q
        columns = {}
        for name, mask in (("engaged", engaged), ("passed", ~engaged)):
            steps = np.where(mask[:, None], unit[log.item[t.events_E]], 0).astype(np.float64)
            sums = np.concatenate([np.zeros((1, unit.shape[1])), np.cumsum(steps, axis=0)])
            columns[f"text_{name}"] = _cosine(sums[end] - sums[start], unit[item])
            recent = np.maximum(start, end - _RECENT)
            columns[f"text_{name}_recent"] = _cosine(sums[end] - sums[recent], unit[item])
        unique, inverse = np.unique(np.array(self.profiles, dtype=object), return_inverse=True)
        profile = self.text.vectorizer.transform(unique)[inverse]
        columns["text_profile"] = np.asarray(
            profile.multiply(self.text.tfidf_items[item]).sum(1)
        ).ravel()
        return columns | {f"item_svd_{d}": vector_D[item, d] for d in range(vector_D.shape[1])}

    def _words(self) -> dict[str, np.ndarray]:
        """Affinity to the item's words, over everything known and over the last 90 days."""
        log, q = self.log, self.timelines.targets_Q
        engaged = self.engaged[self.rows_E]
        rows = self.rows_E[engaged]
        known = Known(member_E=log.member[rows], item_E=log.item[rows], rank_E=self.rank_E[engaged])
        words = Words(items=self.text.tfidf_items, idf_V=self.text.vectorizer.idf_)
        return {
            f"words_{when}_{name}": value
            for when, window in _WINDOWS.items()
            for name, value in word_affinity(
                words, known, log.member[q], log.item[q], self.limit_Q, window=window
            ).items()
        }

    def _nearest(self) -> dict[str, np.ndarray]:
        """Cosine of the item with its nearest neighbours among the newest engaged events."""
        t, log = self.timelines, self.log
        vector_D = self.text.item_D
        unit = vector_D / np.maximum(np.linalg.norm(vector_D, axis=1, keepdims=True), 1e-9)
        item, engaged = log.item[t.targets_Q], self.engaged[t.events_E]
        start = t.offsets[log.member[t.targets_Q]]
        end = start + t.branch_Q
        best_Q5 = np.full((len(item), 5), -1.0, np.float32)
        for a in range(0, len(item) if len(engaged) else 0, _AT_ONCE):
            part = slice(a, a + _AT_ONCE)
            at_QL = end[part, None] - 1 - np.arange(_NEAR)
            known = (at_QL >= start[part, None]) & engaged[np.maximum(at_QL, 0)]
            past = log.item[t.events_E[np.maximum(at_QL, 0)]]
            near = np.einsum("qld,qd->ql", unit[past], unit[item[part]])
            near = np.where(known, near, -1.0)
            best_Q5[part] = np.partition(near, _NEAR - 5, axis=1)[:, -5:]
        return {"text_nearest": best_Q5.max(1), "text_nearest_5": best_Q5.mean(1)}


def _cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return (a * b).sum(1) / np.maximum(norm, 1e-9)
