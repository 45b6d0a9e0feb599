"""Exactness: a leaf's score is that of the ordinary prompt, whatever its company."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brewhouse.errors import ModelError
from brewhouse.model.batch import collate
from brewhouse.model.build import build_decoder
from brewhouse.model.plan import tree_mask
from brewhouse.model.ranker import Ranker
from brewhouse.model.routing import load_balance_loss
from brewhouse.model.sizes import mixtral_config
from brewhouse.prompts.questions import Question, QuestionBook, Reading
from brewhouse.prompts.tree import TokenTree
from brewhouse.scoring.scorer import Scorer, parity

VOCABULARY = 97
ANSWERS = [[5, 6, 7], [8, 9]]


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    decoder = build_decoder("micro", vocab_size=VOCABULARY, begin=1, pad=0, seed=3)
    return Ranker(decoder, ANSWERS).eval()


class _Pad:
    pad = 0


@pytest.fixture(scope="module")
def scorer(ranker: Ranker) -> Scorer:
    return Scorer(ranker, _Pad(), QuestionBook(questions=(), readings={}))  # type: ignore[arg-type]


@st.composite
def trees(draw: st.DrawFn) -> TokenTree:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    trunk, leaves = int(rng.integers(1, 30)), int(rng.integers(1, 6))
    lengths = rng.integers(1, 6, leaves)
    return TokenTree(
        member="m",
        tokens_T=rng.integers(2, VOCABULARY, trunk + lengths.sum()).astype(np.int32),
        trunk=trunk,
        leaf_start_N=trunk + np.concatenate([[0], np.cumsum(lengths)[:-1]]),
        branch_N=rng.integers(1, trunk + 1, leaves),
        question_N=rng.integers(0, 2, leaves),
        label_N=np.zeros(leaves, np.int64),
        weight_N=np.ones(leaves, np.float32),
        row_N=tuple(f"r{i}" for i in range(leaves)),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(trees(), min_size=1, max_size=4))
def test_leaf_scores_equal_single_prompts(scorer: Scorer, many: list[TokenTree]) -> None:
    assert parity(scorer, many) < 1e-4


@settings(max_examples=25, deadline=None)
@given(st.lists(trees(), min_size=2, max_size=5), st.randoms())
def test_batch_mates_and_order_do_not_matter(
    scorer: Scorer, many: list[TokenTree], random: object
) -> None:
    alone = [scorer.score([tree]).logits_NA for tree in many]
    order = list(range(len(many)))
    random.shuffle(order)  # type: ignore[attr-defined]
    together = scorer.score([many[i] for i in order]).logits_NA
    expected = np.concatenate([alone[i] for i in order])
    finite = np.isfinite(expected)
    assert (finite == np.isfinite(together)).all()
    assert np.abs(together[finite] - expected[finite]).max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(trees(), st.integers(0, 2**32 - 1))
def test_a_leaf_never_sees_what_comes_after_its_branch(
    scorer: Scorer, tree: TokenTree, seed: int
) -> None:
    """Rewriting the unseen trunk and all other leaves leaves a leaf's logits as they were."""
    rng = np.random.default_rng(seed)
    before = scorer.score([tree]).logits_NA
    for leaf in range(len(tree.row_N)):
        tokens = rng.integers(2, VOCABULARY, len(tree)).astype(np.int32)
        seen = slice(0, int(tree.branch_N[leaf]))
        own = slice(int(tree.leaf_start_N[leaf]), int(tree.leaf_end_N[leaf]))
        tokens[seen], tokens[own] = tree.tokens_T[seen], tree.tokens_T[own]
        changed = TokenTree(**{**vars(tree), "tokens_T": tokens})
        after = scorer.score([changed]).logits_NA[leaf]
        finite = np.isfinite(after)
        assert np.abs(after[finite] - before[leaf][finite]).max() < 1e-4


def test_gradient_of_a_tree_is_the_sum_of_its_prompts(ranker: Ranker) -> None:
    tree = next(iter([_fixed_tree()]))

    def gradient(batch_trees: list[TokenTree]) -> torch.Tensor:
        ranker.zero_grad()
        for one in batch_trees:
            loss, count, _ = ranker(collate([one]), "answers")
            (loss * count).backward()
        return torch.cat([p.grad.flatten() for p in ranker.parameters() if p.grad is not None])

    whole = gradient([tree])
    single = gradient([tree.single(i) for i in range(len(tree.row_N))])
    assert (whole - single).norm() / single.norm() < 1e-4
    ranker.zero_grad()


def _fixed_tree() -> TokenTree:
    rng = np.random.default_rng(5)
    return TokenTree(
        member="m",
        tokens_T=rng.integers(2, VOCABULARY, 29).astype(np.int32),
        trunk=20,
        leaf_start_N=np.array([20, 23, 26]),
        branch_N=np.array([4, 12, 20]),
        question_N=np.array([0, 1, 0]),
        label_N=np.array([2, 1, 0]),
        weight_N=np.ones(3, np.float32),
        row_N=("a", "b", "c"),
    )


def test_scores_are_float32_log_odds_of_answer_words_only(ranker: Ranker, scorer: Scorer) -> None:
    tree = _fixed_tree()
    logits = scorer.score([tree]).logits_NA
    assert logits.dtype == np.float32
    assert np.isinf(logits[1, 2])
    with torch.no_grad():
        hidden, _ = ranker.hidden(collate([tree]))
        full = ranker.decoder.lm_head(hidden[tree.answer_at_N])
    assert np.allclose(logits[0], full[0, [5, 6, 7]], atol=1e-5)
    book = QuestionBook(
        questions=(Question(surface="s", word="s", answers=("a", "b", "c"), answer_of={}),),
        readings={"t": Reading(task="t", question=0, positive=(0, 2), negative=(1,))},
    )
    p = torch.softmax(torch.tensor(logits[0].astype(np.float64)), 0).numpy()
    assert book.log_odds("t", logits[:1])[0] == pytest.approx(
        np.log((p[0] + p[2]) / p[1]), abs=1e-5
    )


def test_mask_by_hand() -> None:
    owner = torch.tensor([[-1, -1, -1, 0, 0, 1, -2]])
    visible = torch.tensor([[1, 2, 3, 2, 2, 3, 0]])
    expected = torch.tensor(
        [
            [1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0, 0],
            [1, 1, 0, 1, 0, 0, 0],
            [1, 1, 0, 1, 1, 0, 0],
            [1, 1, 1, 0, 0, 1, 0],
            [0, 0, 0, 0, 0, 0, 1],
        ],
        dtype=torch.bool,
    )
    assert torch.equal(tree_mask(owner, visible)[0, 0], expected)


def test_load_balance_loss_is_one_when_even_and_grows_with_collapse() -> None:

    even = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)) * 1e-3
    one = torch.tensor([9.0, 8.0, -9.0, -9.0]).repeat(400, 1)
    assert float(load_balance_loss([even], experts=4, top_k=2)) == pytest.approx(1, abs=0.02)
    assert float(load_balance_loss([one], experts=4, top_k=2)) > 1.9


def test_unknown_size() -> None:
    with pytest.raises(ModelError, match="unknown model size 'huge'; choose one of micro, tiny"):
        mixtral_config("huge", vocab_size=10, begin=0, pad=0)
