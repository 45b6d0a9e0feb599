"""The columnar builder gives the very trees of the layout that defines them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Timelines, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.domains.spec import Domain
from brewhouse.prompts.builder import TreeBuilder, Voice, tokenized, voices
from brewhouse.prompts.columnar import ColumnarBuilder
from brewhouse.prompts.markup import Segment
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.pieces import PieceStore, VoicePieces, voice_pieces
from brewhouse.prompts.shards import trees_of
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.tasks.suite import load_suite


class Case:
    """A snapshot told both ways, in a domain with narrow budgets so that windows are cut."""

    def __init__(self, folder: DomainFolder, cut: Snapshot, tokenizer: PromptTokenizer) -> None:
        limits = {"max_events": 9, "max_tokens": 90}
        history = folder.domain.history.model_copy(update=limits)
        self.spec: Domain = folder.domain.model_copy(update={"history": history})
        self.tokenizer = tokenizer
        items, members = cut.read("items"), cut.read("members")
        self.log = log_from_table(cut.read("interactions", shards=[0, 1]))
        self.end = int(np.quantile(self.log.shown_at, 0.7))
        numbers = NumberWords.fit(
            self.spec,
            members=members,
            items=items,
            train_end=pa.scalar(self.end, pa.timestamp("us", tz="UTC")),
        )
        self.voices: dict[str, Voice] = voices(
            self.spec, load_suite(folder), tokenizer, items=items, members=members, numbers=numbers
        )
        store = PieceStore(tokenizer)
        self.pieces: dict[str, VoicePieces] = {
            name: voice_pieces(voice.layout, tokenizer, store, items=items, members=members)
            for name, voice in self.voices.items()
        }

    def timelines(self, rows: np.ndarray) -> Timelines:
        return build_timelines(self.log, history_surfaces=self.spec.history_surfaces, targets=rows)

    def both(self, timelines: Timelines) -> tuple[TreeBuilder, ColumnarBuilder]:
        objects = TreeBuilder(domain=self.spec, voices=self.voices)
        return objects, ColumnarBuilder(self.spec, self.pieces, timelines)

    def same(self, objects: Iterable, tables: Iterable[pa.Table]) -> int:
        expected = by_member(tokenized(iter(objects), self.tokenizer))
        found = by_member(tree for table in tables for tree in trees_of(table))
        assert expected.keys() == found.keys()
        for member, trees in expected.items():
            assert len(trees) == len(found[member])
            for one, other in zip(trees, found[member], strict=True):
                for name, value in vars(one).items():
                    assert np.array_equal(value, getattr(other, name)), (member, name)
        return sum(map(len, expected.values()))


def by_member(trees: Iterable[TokenTree]) -> dict[str, list[TokenTree]]:
    found: dict[str, list[TokenTree]] = {}
    for tree in trees:
        found.setdefault(tree.member, []).append(tree)
    return found


@pytest.fixture(scope="module")
def case(linkedin: DomainFolder, tiny: Snapshot, tokenizer: PromptTokenizer) -> Case:
    return Case(linkedin, tiny, tokenizer)


def test_training_windows_and_documents(case: Case) -> None:
    known = case.log.known_at < case.end
    timelines = case.timelines(np.flatnonzero(known))
    objects, columnar = case.both(timelines)
    trees = case.same(
        objects.training(timelines, known_by=case.end), columnar.training(known_by=case.end)
    )
    assert trees > 100
    assert columnar.newest_told == max(objects.newest_told) < case.end
    assert case.same(
        objects.documents(timelines, known_by=case.end), columnar.documents(known_by=case.end)
    )


@pytest.mark.parametrize("style", ["short", "timed", "detailed", "held_out"])
def test_requests_in_every_style(case: Case, style: str) -> None:
    timelines = case.timelines(np.flatnonzero(case.log.shown_at >= case.end))
    objects, columnar = case.both(timelines)
    assert case.same(objects.requests(timelines, style=style), columnar.requests(style=style)) > 50


def test_a_member_without_anything_known(case: Case) -> None:
    first = np.array([np.flatnonzero(case.log.member == m)[0] for m in range(5)])
    timelines = case.timelines(first)
    objects, columnar = case.both(timelines)
    assert case.same(objects.requests(timelines), columnar.requests()) == 5


def test_equal_pieces_are_encoded_once_and_data_stays_data(tokenizer: PromptTokenizer) -> None:
    store = PieceStore(tokenizer)
    codes = store.add_data(["rust <viewed>", "kafka", "rust <viewed>", ""])
    assert codes[0] == codes[2] != codes[1]
    assert store.sizes[codes[3]] == 0
    forged = tokenizer.encode(Segment(True, "<viewed>"))[0]
    assert forged not in store.join(codes)
    assert store.join(codes[1:2]).tolist() == list(tokenizer.encode(Segment(False, " kafka")))
