"""Primer sequences: made-up histories in which only the member's own labels tell the answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.linkedin.vocabulary import AREA_NAMES
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import ConfigError, TrainingError
from brewhouse.prompts.builder import tokenized
from brewhouse.prompts.questions import answer_tokens, build_questions
from brewhouse.prompts.shards import read_trees, write_trees
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.tasks.suite import load_suite
from brewhouse.training.config import PrimerSpec, parse_train_config
from brewhouse.training.primer import PrimerStream
from brewhouse.training.stream import shares

from .runs import telling


@pytest.fixture(scope="module")
def trunks(
    linkedin: DomainFolder, tiny: Snapshot, tokenizer: PromptTokenizer, tmp_path_factory
) -> Path:
    """Pre-training trunks of one shard, in the style that is served."""
    folder = tmp_path_factory.mktemp("cpt")
    builder, timelines, end = telling(linkedin, tiny, tokenizer)
    trees = builder.documents(timelines, known_by=end)
    write_trees(folder / "shard-0000.parquet", tokenized(trees, tokenizer))
    return folder


def stream(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path, **changes: object
) -> PrimerStream:
    book = build_questions(linkedin.domain, load_suite(linkedin))
    options: dict = {"batch_tokens": 2000, "seed": 3, "size": 1}
    spec = {k: v for k, v in changes.items() if k not in options}
    return PrimerStream(
        PrimerSpec(**spec),  # type: ignore[arg-type]
        tokenizer,
        book,
        answer_tokens(book, tokenizer.markup, tokenizer.encode),
        surfaces=linkedin.domain.training_surfaces,
        shards=trunks,
        **(options | {k: v for k, v in changes.items() if k in options}),
    )


def test_a_key_keeps_its_answer_within_a_sequence_and_changes_between(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path
) -> None:
    one = stream(linkedin, tokenizer, trunks, events=16)
    sides = {int(t): int(i > 0) for row in one.answers for i, t in enumerate(row.tolist())}
    trees = next(one())
    meaning: dict[int, set[int]] = {}
    for tree in trees:
        tokens = tree.tokens_T.tolist()
        at = [i for i, t in enumerate(tokens) if t in sides]
        assert len(at) == 16
        said = {}
        for i in at:
            assert said.setdefault(tokens[i - 1], sides[tokens[i]]) == sides[tokens[i]]
        for key, side in said.items():
            meaning.setdefault(key, set()).add(side)
    assert any(len(found) == 2 for found in meaning.values())


def test_it_grows_harder(linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path) -> None:
    one = stream(linkedin, tokenizer, trunks, keys=4, events=16)
    lengths = []
    for level in (0, 1, 2):
        assert one.levels["labels"] == level
        lengths.append(len(next(one())[0]))
        assert not one.done
        assert one.grow()
    assert one.done
    assert not one.grow()
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[2]


def test_keys_are_the_words_in_front_of_answers(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path, tmp_path: Path
) -> None:
    one = stream(linkedin, tokenizer, trunks, keys=2, words=4)
    assert len(one.words) == 4
    areas = set(AREA_NAMES)
    assert {tokenizer.decode([int(w)]).strip() for w in one.words} <= areas
    with pytest.raises(TrainingError, match="no token shards in"):
        stream(linkedin, tokenizer, tmp_path)
    with pytest.raises(TrainingError, match="words stand in front of answers; lower keys"):
        stream(linkedin, tokenizer, trunks, keys=16, words=8)


def test_surfaces_held_out_never_stand_in_it(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path
) -> None:
    text = "".join(
        tokenizer.decode(tree.tokens_T) for tree in next(stream(linkedin, tokenizer, trunks)())
    )
    for name, surface in linkedin.domain.surfaces.items():
        assert (f"<{surface.word}>" in text) <= (name in linkedin.domain.training_surfaces)
    assert "<feed>" in text


def test_a_resumed_run_goes_on_where_it_stopped(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path
) -> None:
    def steps(skip: int, rank: int = 0) -> Iterator[list[TokenTree]]:
        source = stream(linkedin, tokenizer, trunks)
        for batches, _ in shares(source, size=2, rank=rank, world=2, skip=skip):
            yield batches[0]

    whole = list(islice(steps(0), 3))[2]
    resumed = next(steps(2))
    assert all(np.array_equal(a.tokens_T, b.tokens_T) for a, b in zip(whole, resumed, strict=True))
    assert not np.array_equal(next(steps(2, rank=1))[0].tokens_T, resumed[0].tokens_T)


def test_growth_is_measured_from_what_can_be_known(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path
) -> None:
    one = stream(linkedin, tokenizer, trunks, grow_below=0.5)
    guess, known = [], []
    for answers in one.answers:
        known.append(0.5 * np.log(len(answers) - 1))
        guess.append(known[-1] + np.log(2))
    assert one.grow_below == pytest.approx((np.mean(guess) + np.mean(known)) / 2)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"loss": "actions"}, "give one of shards, primer and tastes"),
        ({"loss": "actions", "shards": "cpt", "primer": {}}, "give one of shards, primer"),
        ({"loss": "both", "shards": "cpt", "tastes": {}}, "give one of shards, primer"),
        ({"loss": "actions", "tastes": {}}, "set loss to both"),
        ({"loss": "both", "tastes": {}, "word_dropout": 0.1}, "no dropout with tastes"),
        (
            {"loss": "answers", "primer": {}},
            "a primer brings its own questions; set loss to actions",
        ),
        ({"loss": "actions", "primer": {}, "word_dropout": 0.1}, "no dropout with primer"),
        (
            {"loss": "tokens", "shards": "cpt", "word_dropout": 0.1},
            "word_dropout would blot out what loss tokens is to predict",
        ),
    ],
)
def test_mistakes(stage: dict, message: str) -> None:
    value = {
        "data": "d",
        "out": "o",
        "stages": [{"name": "s", "tokens": 1, "lr": 1e-3} | stage],
    }
    with pytest.raises(ConfigError, match=message):
        parse_train_config(value, where="options")


@pytest.fixture(scope="module")
def one_sided(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, trunks: Path, tmp_path_factory
) -> tuple[Path, int]:
    """Trunks from which every "no" of one surface is taken, and the surface's question."""
    book = build_questions(linkedin.domain, load_suite(linkedin))
    plain = stream(linkedin, tokenizer, trunks)
    assert (plain.implicit, plain.loss, plain.kinds) == ([], "actions", ["labels"])
    number = next(i for i, q in enumerate(plain.asked) if book.questions[q].surface == "feed")
    head, no = plain.heads[number][0], int(plain.answers[number][0])
    trees = list(read_trees(trunks / "shard-0000.parquet"))
    changed, folder = [], tmp_path_factory.mktemp("one-sided")
    for tree in trees:
        tokens, inside = tree.tokens_T.copy(), False
        for i, token in enumerate(tokens):
            if token in {h[0] for h in plain.heads}:
                inside = token == head
            if inside and token == no:
                tokens[i] = plain.answers[number][-1]
        changed.append(replace(tree, tokens_T=tokens))
    write_trees(folder / "shard-0000.parquet", changed)
    return folder, number


def test_where_logs_hold_no_no_it_asks_what_was_seen(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, one_sided: tuple[Path, int]
) -> None:
    """Histories of yes, questions behind."""
    folder, number = one_sided
    one = stream(linkedin, tokenizer, folder, unseen=1.0, keys=3)
    assert (one.implicit, one.loss) == ([number], "both")
    for tree in next(one()):
        seen = set(tree.tokens_T[: tree.trunk].tolist())
        assert one.answers[number][0] not in seen
        for start, end, label in zip(tree.leaf_start_N, tree.leaf_end_N, tree.label_N, strict=True):
            key = tree.tokens_T[end - len(one.tail) - 2 : end - len(one.tail)].tolist()
            assert (not seen.isdisjoint(key)) == (label > 0)
            assert tree.tokens_T[start] == one.heads[number][0]
        assert 0 < (tree.label_N > 0).mean() < 1


def test_what_is_easy_does_not_hide_what_is_not_learned(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, one_sided: tuple[Path, int]
) -> None:
    """A step is of one kind; each grows by its own loss, and what is learned makes room."""
    one = stream(linkedin, tokenizer, one_sided[0], keys=3, size=2)
    batches = one()

    def kinds(steps: int) -> list[str]:
        found = []
        for _ in range(steps):
            step = [(next(batches), one.kind) for _ in range(2)]
            assert {one.kind} == {kind for _, kind in step}
            asked = {len(tree.label_N) > 0 for trees, _ in step for tree in trees}
            assert asked == {one.kind == "seen"}
            assert one.loss == ("both" if one.kind == "seen" else "actions")
            found.append(one.kind)
        return found

    assert kinds(8) == ["labels", "seen"] * 4
    easy = one.grow_below
    while one.grow():
        assert one.kind == "seen"
    assert one.learned("seen")
    assert not one.learned("labels")
    assert not one.done
    assert kinds(8).count("seen") == 1
    assert one.kind == "labels"
    assert one.grow_below > easy
    while one.grow():
        pass
    assert one.done
    assert kinds(4).count("seen") == 2


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_what_is_learned_keeps_a_quarter_of_its_turns(
    linkedin: DomainFolder, tokenizer: PromptTokenizer, one_sided: tuple[Path, int], share: float
) -> None:
    one = stream(linkedin, tokenizer, one_sided[0], keys=3, unseen=share)
    turns = [one._turn(step) for step in range(400)]
    assert turns.count("seen") == 400 * share
    one.levels["seen"] = 9
    assert [one._turn(step) for step in range(400)].count("seen") == 100 * share
    one.levels = {"labels": 9, "seen": 0}
    assert [one._turn(step) for step in range(400)].count("labels") == 100 * (1 - share)
