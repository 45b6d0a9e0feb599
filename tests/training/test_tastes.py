"""Made-up members: what they care for is told by their history alone, in pieces of real prompts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import TrainingError
from brewhouse.prompts.builder import tokenized
from brewhouse.prompts.markup import Plain
from brewhouse.prompts.shards import read_trees, write_trees
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.training.config import TasteSpec
from brewhouse.training.stream import shares
from brewhouse.training.tastes import TasteStream

from .runs import OPTIONS, telling, train, weights


@pytest.fixture(scope="module")
def told(
    linkedin: DomainFolder,
    tiny: Snapshot,
    tokenizer: PromptTokenizer,
    shards: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Shards of a simulated network."""
    folder = tmp_path_factory.mktemp("told")
    builder, timelines, end = telling(linkedin, tiny, tokenizer)
    for part, trees in (
        ("cpt", builder.documents(timelines, known_by=end)),
        ("train", builder.training(timelines, known_by=end)),
    ):
        write_trees(folder / part / "shard-0000.parquet", tokenized(trees, tokenizer))
    tokenizer.save(folder / "tokenizer")
    limits = linkedin.domain.history
    history = {"max_events": limits.max_events, "max_tokens": limits.max_tokens}
    replace(ShardsManifest.read(shards), history=history).write(folder)
    return folder


def stream(shards: Path, *, plain: bool = False, **changes: object) -> TasteStream:
    tokenizer = PromptTokenizer.load(shards / "tokenizer")
    if plain:
        tokenizer = PromptTokenizer(tokenizer.tokenizer, Plain())
    limits: dict = {"max_events": 20, "max_tokens": 200, "batch_tokens": 2000, "seed": 3}
    spec = {k: v for k, v in changes.items() if k not in limits}
    return TasteStream(
        TasteSpec.model_validate({"least": 3, "common": 0.3} | spec),
        tokenizer,
        ShardsManifest.read(shards).book,
        ShardsManifest.read(shards).answers,
        data=shards,
        **(limits | {k: v for k, v in changes.items() if k in limits}),
    )


def some(source: TasteStream, count: int = 8) -> list[TokenTree]:
    return [tree for batch in islice(source(), count) for tree in batch]


def blocks(source: TasteStream, tree: TokenTree) -> list[np.ndarray]:
    """The events of a trunk."""
    lines = {int(piece[0]) for piece in source.events.pieces}
    trunk = tree.tokens_T[len(source.root) : tree.trunk]
    return np.split(trunk, np.flatnonzero(np.isin(trunk, list(lines))))[1:]


def leaves(tree: TokenTree) -> list[np.ndarray]:
    return np.split(tree.tokens_T, tree.leaf_start_N)[1:]


@pytest.fixture(scope="module")
def of_yes_alone(told: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same where no trunk holds anything passed over."""
    folder = tmp_path_factory.mktemp("yes")
    for part in ("manifest.json", "tokenizer", "train"):
        (folder / part).symlink_to(told / part)
    no = {row[0] for row in ShardsManifest.read(told).answers}
    yes = {row[0]: row[-1] for row in ShardsManifest.read(told).answers}
    for path in sorted((told / "cpt").glob("*.parquet")):
        changed = []
        for tree in read_trees(path):
            tokens_T = tree.tokens_T.copy()
            for at in np.flatnonzero(np.isin(tokens_T, list(no))).tolist():
                tokens_T[at] = yes[int(tokens_T[at])]
            changed.append(replace(tree, tokens_T=tokens_T))
        write_trees(folder / "cpt" / path.name, changed)
    return folder


def test_where_nothing_is_passed_over_the_history_is_to_the_taste(of_yes_alone: Path) -> None:
    source = stream(of_yes_alone, words=1, noise=0, profile=0)
    assert not source.labelled
    members = 0
    for tree in some(source):
        events = [set(block[:-1].tolist()) for block in blocks(source, tree)]
        if len(events) < 2:
            continue
        shared = set.intersection(*events) & set(source.cared_for.tolist())
        assert shared
        for leaf, label in zip(leaves(tree), tree.label_N.tolist(), strict=True):
            if label:
                assert shared & set(leaf.tolist())
            else:
                assert not shared <= set(leaf.tolist())
        members += 1
        assert (tree.branch_N == tree.trunk).all()
    assert members > 5


def test_where_no_is_logged_members_differ_in_how_often_they_act(told: Path) -> None:
    source = stream(told, words=1, noise=0, profile=0, max_events=60, max_tokens=1000)
    assert source.labelled
    rows = {mark: source.answers[question].tolist() for mark, question in source.labelled.items()}
    no = {row[0] for row in rows.values()}
    # An item to the taste is acted on .65 of the time on average, another .15.
    asked = np.concatenate([tree.label_N > 0 for tree in some(source, 30)])
    assert 0.3 < asked.mean() < 0.47
    acted = {True: [], False: []}  # type: dict[bool, list[bool]]
    rates = []
    for tree in some(source, 30):
        events = [b for b in blocks(source, tree) if int(b[0]) in source.labelled]
        if len(events) < 20:
            continue
        common = max(source.cared_for, key=lambda w: sum(w in b for b in events))
        said = [int(b[-1]) not in no for b in events]
        about = [bool(common in b) for b in events]
        rates.append(np.mean(said))
        for a, s in zip(about, said, strict=True):
            acted[a].append(s)
    assert np.mean(acted[True]) > np.mean(acted[False]) + 0.2
    assert np.std(rates) > 0.1
    for mark, answer in ((int(b[0]), int(b[-1])) for t in some(source) for b in blocks(source, t)):
        assert answer in rows[mark]


def test_a_profile_names_what_was_done_most(of_yes_alone: Path) -> None:
    source = stream(of_yes_alone, words=1, noise=0, profile=1, max_events=12)
    hits = []
    for tree in some(source):
        events = blocks(source, tree)
        trunk = tree.tokens_T[len(source.root) : tree.trunk].tolist()
        first = next(
            (i for i, t in enumerate(trunk) if t == (events[0][0] if events else -1)), None
        )
        named = trunk[:first]
        assert len(named) == len(set(named))
        if len(events) > 1:
            shared = set.intersection(*(set(b[:-1].tolist()) for b in events))
            hits.append(bool(shared & set(named[:4])))
    assert np.mean(hits) > 0.9


def test_limits_hold_and_roots_are_those_of_real_prompts(told: Path) -> None:
    source = stream(told, max_events=5, max_tokens=300, questions=7)
    trees = some(source)
    assert max(len(blocks(source, tree)) for tree in trees) == 5
    for most in (40, 120):
        assert max(tree.trunk for tree in some(stream(told, max_tokens=most))) <= most
    assert {len(tree.label_N) for tree in trees} <= set(range(8))
    assert PromptTokenizer.load(told / "tokenizer").decode(source.root).endswith("<profile>")
    real = next(read_trees(sorted((told / "cpt").glob("*.parquet"))[0]))
    for tree in trees:
        assert tree.tokens_T[: len(source.root)].tolist() == source.root
        assert tree.tokens_T[0] == real.tokens_T[0]
        for leaf, question in zip(leaves(tree), tree.question_N.tolist(), strict=True):
            assert any(
                q == question and np.array_equal(leaf, piece)
                for q, piece in zip(source.asked, source.leaves.pieces, strict=True)
            )


def test_members_are_new_and_a_resumed_run_goes_on(told: Path) -> None:
    def steps(skip: int, rank: int = 0) -> Iterator[list[TokenTree]]:
        for batches, _ in shares(stream(told), size=2, rank=rank, world=2, skip=skip):
            yield batches[0]

    whole = list(islice(steps(0), 3))
    resumed = next(steps(2))
    assert [t.tokens_T.tolist() for t in whole[2]] == [t.tokens_T.tolist() for t in resumed]
    found = {t.tokens_T.tobytes() for step in [*whole, next(steps(2, rank=1))] for t in step}
    assert len(found) == sum(map(len, whole)) + len(next(steps(2, rank=1)))


def test_a_model_trains_on_them(told: Path, tmp_path: Path) -> None:
    stage = {"name": "tastes", "tastes": {"least": 3, "common": 0.3}, "loss": "both"}
    stages = [stage | {"tokens": 6000, "lr": 5e-3}, OPTIONS["stages"][1] | {"tokens": 2000}]
    ours, without = (
        weights(train(told, tmp_path / name, stages=part))
        for name, part in (("with", stages), ("without", stages[1:]))
    )
    assert any(not torch.equal(ours[k], without[k]) for k in ours)


def test_where_words_stand_everywhere_the_rarest_are_cared_for(told: Path) -> None:
    source = stream(told, common=1e-6, words=4)
    assert len(source.cared_for) == 4
    assert some(source, 1)


def test_no_says_no_in_whatever_words_and_place(told: Path) -> None:
    """A question of its own words has its yes in front; it hides nobody's history."""
    manifest = ShardsManifest.read(told)
    plain = stream(told)
    turned = [replace(q, answers=("will", "wont")) for q in manifest.book.questions]
    turned = [
        replace(q, answer_of={a: int(a == "none") for a in old.answer_of})
        for q, old in zip(turned, manifest.book.questions, strict=True)
    ]
    both = replace(manifest.book, questions=(*manifest.book.questions, *turned))
    # Words that no history tells.
    own = [[1, 2]] * len(turned)
    source = TasteStream(
        plain.spec,
        PromptTokenizer.load(told / "tokenizer"),
        both,
        [*manifest.answers, *own],
        data=told,
        max_events=20,
        max_tokens=200,
        batch_tokens=2000,
        seed=3,
    )
    assert source.labelled == plain.labelled
    number = len(manifest.book.questions)
    rng = np.random.default_rng(0)
    assert source._label(number, yes=True, rng=rng) == 0
    assert source._label(number, yes=False, rng=rng) == 1


def test_what_was_passed_over_where_nothing_is_asked_is_not_told(told: Path) -> None:
    manifest = ShardsManifest.read(told)
    first = manifest.book.questions[0]
    mark = stream(told).leaves.pieces[stream(told).asked.index(0)][0]
    unasked = replace(first, answer_of={a: i for a, i in first.answer_of.items() if a != "none"})
    book = replace(manifest.book, questions=(unasked, *manifest.book.questions[1:]))
    source = TasteStream(
        TasteSpec(least=3, common=0.3),
        PromptTokenizer.load(told / "tokenizer"),
        book,
        manifest.answers,
        data=told,
        max_events=20,
        max_tokens=200,
        batch_tokens=2000,
        seed=3,
    )
    noes = {row[0] for row in manifest.answers}
    ends = {int(b[-1]) for t in some(source) for b in blocks(source, t) if b[0] == mark}
    assert ends
    assert not ends & noes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"plain": True}, "borrowed tokenizer; leave the stage out"),
    ],
)
def test_mistakes(told: Path, changes: dict, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        stream(told, **changes)
