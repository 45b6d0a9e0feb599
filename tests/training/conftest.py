"""Shards that a tiny model can learn from, made once a session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brewhouse.domains.loader import DomainFolder
from brewhouse.prompts.markup import Tagged
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.questions import QuestionBook, answer_tokens, build_questions
from brewhouse.prompts.shards import write_trees
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.tasks.suite import load_suite


@pytest.fixture(scope="session")
def shards(linkedin: DomainFolder, tokenizer: PromptTokenizer, tmp_path_factory) -> Path:
    """Shards in which the answer is told by the item: something a tiny model can learn."""
    folder = tmp_path_factory.mktemp("shards")
    book = build_questions(linkedin.domain, load_suite(linkedin))
    answers = answer_tokens(book, Tagged(), tokenizer.encode)
    rng = np.random.default_rng(0)
    trees = [_tree(rng, book, i) for i in range(600)]
    counts = write_trees(folder / "train" / "shard-0000.parquet", trees, batch=150)
    write_trees(folder / "cpt" / "shard-0000.parquet", trees[:100])
    tokenizer.save(folder / "tokenizer")
    ShardsManifest(
        domain={"name": "linkedin"},
        snapshot="sha256:0",
        split={},
        surfaces=[],
        tasks=[],
        last_known="",
        first_test="",
        counts={"train": counts},
        book=book,
        answers=answers,
        history={},
        style="short",
        numbers=NumberWords(members={}, items={}),
    ).write(folder)
    return folder


def _tree(rng: np.random.Generator, book: QuestionBook, number: int) -> TokenTree:
    trunk, leaves = int(rng.integers(3, 25)), int(rng.integers(1, 5))
    labels = rng.integers(0, 2, leaves)
    tokens = rng.integers(300, 700, trunk + 2 * leaves).astype(np.int32)
    tokens[trunk + 1 :: 2] = 400 + labels
    return TokenTree(
        member=f"m{number}",
        tokens_T=tokens,
        trunk=trunk,
        leaf_start_N=trunk + 2 * np.arange(leaves),
        branch_N=np.full(leaves, trunk),
        question_N=np.zeros(leaves, np.int64),
        label_N=labels,
        weight_N=np.ones(leaves, np.float32),
        row_N=tuple(f"{number}-{i}" for i in range(leaves)),
    )
