"""Every distinct piece of text of a run, encoded once; prompts are then put together from codes.

A piece is what always stands together: the marks in front of an item, an item's text, the answer
behind it, a profile. Suffix: V item versions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from brewhouse.data.timelines import merge_count
from brewhouse.prompts.evidence import Version, profile_versions
from brewhouse.prompts.markup import Segment, data
from brewhouse.prompts.stream import StreamLayout
from brewhouse.prompts.tokenizer import PromptTokenizer

NOTHING = 0
"""Code of the piece without tokens."""


class PieceStore:
    """Token sequences by code; equal pieces share one."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        """Start with the piece without tokens."""
        self._tokenizer = tokenizer
        self._codes: dict[tuple[Segment, ...], int] = {(): NOTHING}
        self._tokens: list[Sequence[int]] = [()]
        self._frozen: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def add(self, segments: tuple[Segment, ...], *, begin: bool = False) -> int:
        """Code of a piece, with the begin token in front of it if asked for."""
        key = (Segment(True, ""), *segments) if begin else segments
        code = self._codes.get(key)
        if code is None:
            tokens = [self._tokenizer.begin] if begin else []
            for segment in segments:
                tokens.extend(self._tokenizer.encode(segment))
            code = self._put(key, tokens)
        return code

    def add_data(self, texts: Sequence[str]) -> np.ndarray:
        """Codes of user texts, made harmless; each distinct one is encoded once."""
        segments = {text: data(text) for text in dict.fromkeys(texts)}
        new = [s for s in dict.fromkeys(segments.values()) if (s,) not in self._codes]
        for segment, tokens in zip(new, self._tokenizer.encode_data(new), strict=True):
            self._put((segment,), tokens)
        return np.array([self._codes[segments[text],] for text in texts], np.int64)

    def _put(self, key: tuple[Segment, ...], tokens: Sequence[int]) -> int:
        code = self._codes[key] = len(self._tokens)
        self._tokens.append(tokens)
        self._frozen = None
        return code

    def mark(self) -> int:
        """Where the store is now, for `rewind`."""
        return len(self._tokens)

    def rewind(self, mark: int) -> None:
        """Forget the pieces that were added after a mark; their codes are given anew."""
        if mark < len(self._tokens):
            self._codes = dict(islice(self._codes.items(), mark))
            del self._tokens[mark:]
            self._frozen = None

    @property
    def sizes(self) -> np.ndarray:
        """Tokens of each piece, by code."""
        return self._arrays()[2]

    def join(self, codes: np.ndarray) -> np.ndarray:
        """Tokens of pieces one after another, int32."""
        tokens, starts, sizes = self._arrays()
        return tokens[ranges(starts[codes], sizes[codes])]

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if self._frozen is None:
            sizes = np.array([len(t) for t in self._tokens], np.int64)
            flat = np.fromiter((t for ts in self._tokens for t in ts), np.int32, int(sizes.sum()))
            self._frozen = flat, np.cumsum(sizes) - sizes, sizes
        return self._frozen


@dataclass(frozen=True, kw_only=True)
class ItemPieces:
    """Item versions, sorted by (item, valid_from), as histories and as questions tell them."""

    ids: np.ndarray
    first: np.ndarray
    item_V: np.ndarray
    valid_V: np.ndarray
    created_V: np.ndarray
    past_V: np.ndarray
    question_V: np.ndarray

    def at(self, item: np.ndarray, moment: np.ndarray) -> np.ndarray:
        """Version of each item (index into `ids`) valid before a moment, or its first one."""
        if len(self.ids) == len(self.item_V):
            return self.first[item]
        count = merge_count(self.item_V, self.valid_V, item, moment - 1)
        return np.maximum(count - 1, self.first[item])


@dataclass(frozen=True, kw_only=True)
class VoicePieces:
    """All pieces of one style.

    Attributes:
        past_head: Codes by (surface of the domain, age word, gap word); word 0 of a gap is none.
        update_head: By gap word.
        question_head: By (question, age word, gap word).
        past_tail: By action of the domain.
        question_tail: What stands between an item asked about and its answer.
        no_profile: Root of a member without a profile.
        versions: Profile versions by member, with the codes of root and update.
    """

    layout: StreamLayout
    store: PieceStore
    items: ItemPieces
    past_head: np.ndarray
    update_head: np.ndarray
    question_head: np.ndarray
    past_tail: np.ndarray
    question_tail: int
    no_profile: int
    versions: Mapping[str, Sequence[tuple[Version, int, int]]]
    age_limits: np.ndarray
    gap_limits: np.ndarray

    def age(self, elapsed: np.ndarray) -> np.ndarray:
        """Age word of each duration in microseconds."""
        return np.searchsorted(self.age_limits, np.maximum(elapsed, 0))

    def gap(self, elapsed: np.ndarray, told: np.ndarray) -> np.ndarray:
        """Gap word of each duration; 0 where there is nothing to tell."""
        if not len(self.gap_limits):
            return np.zeros(len(elapsed), np.int64)
        return np.where(told, np.searchsorted(self.gap_limits, np.maximum(elapsed, 0)), 0)


def voice_pieces(
    layout: StreamLayout,
    tokenizer: PromptTokenizer,
    store: PieceStore,
    *,
    items: pa.Table,
    members: pa.Table,
) -> VoicePieces:
    """Tell and encode everything that a style may say."""
    verbalizer, markup, domain = layout.verbalizer, layout.markup, layout.domain
    time, style = domain.time, verbalizer.style
    ages = [*(word for _, word in time.age.limits), time.age.beyond]
    gaps: list[str | None] = [None]
    if time.gap:
        gaps += [*(word for _, word in time.gap.limits[1:]), time.gap.beyond]

    def heads(words: Iterable[str], telling: Any) -> np.ndarray:
        def code(word: str, age: str, gap: str | None) -> int:
            told = (age if telling.age else None, gap if telling.gap else None)
            return store.add(markup.item(word, *told))

        return np.array([[[code(word, a, g) for g in gaps] for a in ages] for word in words])

    answers = [markup.answer(a.word) for a in domain.actions.values()]
    return VoicePieces(
        layout=layout,
        store=store,
        items=_item_pieces(layout, store, items),
        past_head=heads([s.word for s in domain.surfaces.values()], style.history),
        update_head=np.array(
            [store.add(markup.update(g if style.history.gap else None)) for g in gaps]
        ),
        question_head=heads([q.word for q in layout.book.questions], style.question),
        past_tail=np.array([store.add((*markup.answer_next(), a)) for a in answers]),
        question_tail=store.add(markup.answer_next()),
        no_profile=store.add(layout.root(None), begin=True),
        versions=_profile_pieces(layout, store, members),
        age_limits=_micros(time.age.limits),
        gap_limits=_micros(time.gap.limits) if time.gap else np.zeros(0, np.int64),
    )


def with_members(pieces: VoicePieces, members: pa.Table) -> VoicePieces:
    """The same with the profiles of other members; their pieces are added to the store."""
    return replace(pieces, versions=_profile_pieces(pieces.layout, pieces.store, members))


def _profile_pieces(
    layout: StreamLayout, store: PieceStore, members: pa.Table
) -> dict[str, list[tuple[Version, int, int]]]:
    return {
        member: [
            (v, store.add(layout.root(v), begin=True), store.add((data(v.update),)))
            for v in versions
        ]
        for member, versions in profile_versions(members, layout.verbalizer).items()
    }


def _micros(limits: Sequence[tuple[Any, str]]) -> np.ndarray:
    return np.array([int(limit.total_seconds() * 1_000_000) for limit, _ in limits], np.int64)


def _item_pieces(layout: StreamLayout, store: PieceStore, items: pa.Table) -> ItemPieces:
    items = items.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    ids, first, item = np.unique(
        items.column("item_id").to_numpy(zero_copy_only=False),
        return_index=True,
        return_inverse=True,
    )
    verbalizer = layout.verbalizer
    return ItemPieces(
        ids=ids,
        first=first,
        item_V=item,
        valid_V=_int64(items, "valid_from"),
        created_V=_int64(items, "created_at"),
        past_V=store.add_data(_tell(items, verbalizer.past, verbalizer.past_fields)),
        question_V=store.add_data(_tell(items, verbalizer.question, verbalizer.question_fields)),
    )


def _int64(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(name).cast(pa.timestamp("us", tz="UTC"))
    return pc.cast(column, pa.int64()).to_numpy()


def _tell(items: pa.Table, telling: Any, fields: Iterable[str]) -> list[str]:
    """Text of each item; rows that agree in all fields that are told are told once."""
    names = ["kind", *fields]
    frame = items.select(list(dict.fromkeys(names))).to_pandas()
    group = frame.groupby(list(frame.columns), dropna=False, sort=False).ngroup().to_numpy()
    _, first = np.unique(group, return_index=True)
    rows = items.take(pa.array(first)).to_pylist()
    texts = np.array([telling(row) for row in rows], dtype=object)
    return list(texts[pd.factorize(group)[0]] if len(texts) else texts)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the integer ranges [start, start + length)."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
