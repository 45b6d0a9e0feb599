"""All attention backends against transformers' own forward pass on ordinary prompts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brewhouse.model import losses
from brewhouse.model import ranker as ranker_module
from brewhouse.model.attention import use_tree_attention
from brewhouse.model.batch import TreeBatch, collate
from brewhouse.model.build import build_decoder
from brewhouse.model.plan import BACKENDS, Backend, TrunkCache
from brewhouse.model.ranker import Ranker
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.tree import TokenTree
from brewhouse.scoring.scorer import Scorer, tokens_needed
from tests.devices.trees import VOCABULARY
from tests.devices.trees import tree as random_tree

ANSWERS = [[5, 6, 7], [8, 9]]


trees = st.builds(
    random_tree,
    st.integers(0, 2**32 - 1),
    trunk=st.integers(1, 30),
    leaves=st.integers(1, 6),
)


class Plain:
    """transformers' Mixtral, untouched, on one ordinary prompt at a time."""

    def __init__(self) -> None:
        self.decoder = build_decoder("micro", vocab_size=VOCABULARY, begin=1, pad=0, seed=3)

    def logits(self, tree: TokenTree) -> torch.Tensor:
        """Answer logits of every leaf, (N, 3), -inf where there is no third answer."""
        rows = []
        for leaf in range(len(tree.row_N)):
            single = tree.single(leaf)
            out = self.decoder(input_ids=torch.from_numpy(single.tokens_T.astype(np.int64))[None])
            words = ANSWERS[int(tree.question_N[leaf])]
            row = out.logits[0, -1, words]
            rows.append(torch.nn.functional.pad(row, (0, 3 - len(words)), value=-torch.inf))
        return torch.stack(rows)


@pytest.fixture(scope="module")
def plain() -> Plain:
    return Plain()


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    return Ranker(build_decoder("micro", vocab_size=VOCABULARY, begin=1, pad=0, seed=3), ANSWERS)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    finite = torch.isfinite(one)
    assert torch.equal(finite, torch.isfinite(other))
    return float((one - other)[finite].abs().max())


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=12, deadline=None)
@given(many=st.lists(trees, min_size=1, max_size=4))
def test_scores_are_those_of_transformers_one_prompt_at_a_time(
    backend: Backend, many: list[TokenTree], ranker: Ranker, plain: Plain
) -> None:
    with torch.no_grad():
        together, _, _ = ranker(collate(many, backend=backend))
        assert apart(together, torch.cat([plain.logits(tree) for tree in many])) < 1e-4


@pytest.mark.parametrize("backend", ["dense", "split"])
@settings(max_examples=10, deadline=None)
@given(many=st.lists(trees, min_size=1, max_size=3))
def test_gradients_are_those_of_transformers_one_prompt_at_a_time(
    backend: Backend, many: list[TokenTree], ranker: Ranker, plain: Plain
) -> None:
    """Weighted cross-entropy of all leaves, summed over ordinary prompts for the reference."""
    ranker.zero_grad()
    plain.decoder.zero_grad()
    loss, _, _ = ranker(collate(many, backend=backend), "answers")
    loss.backward()
    total = sum(float(tree.weight_N.sum()) for tree in many)
    for tree in many:
        logits = plain.logits(tree)
        each = torch.nn.functional.cross_entropy(
            logits, torch.from_numpy(tree.label_N), reduction="none"
        )
        (each @ torch.from_numpy(tree.weight_N) / total).backward()
    ours = dict(ranker.decoder.named_parameters())
    theirs = dict(plain.decoder.named_parameters())
    flat = [
        torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in ps])
        for ps in (ours.values(), [theirs[name] for name in ours])
    ]
    assert float((flat[0] - flat[1]).norm() / flat[1].norm()) < 1e-4


@settings(max_examples=15, deadline=None)
@given(tree=trees, batch=st.integers(1, 12))
def test_a_kept_trunk_answers_like_a_whole_tree(
    ranker: Ranker, tree: TokenTree, batch: int
) -> None:
    ranker.eval()
    scorer = Scorer(ranker, None, QuestionBook(questions=(), readings={}))  # type: ignore[arg-type]
    whole = scorer.score([tree], batch_tokens=10_000)
    parts = scorer.score([tree], batch_tokens=min(batch, len(tree) - 1))
    assert apart(torch.from_numpy(whole.logits_NA), torch.from_numpy(parts.logits_NA)) < 1e-4
    # The meter: a trunk once and each leaf once, whole or in parts.
    assert whole.tokens == parts.tokens == tokens_needed([tree]) == len(tree)


def test_parts_hold_no_more_than_they_may(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass holds the trunk, or leaves up to the limit; never more, and few passes."""
    tree = random_tree(2, trunk=20, leaves=12, longest=3)
    scorer = Scorer(ranker, None, QuestionBook(questions=(), readings={}))  # type: ignore[arg-type]
    passes: list[int] = []
    run = scorer._run

    def counted(batch: TreeBatch) -> tuple[np.ndarray, int]:
        passes.append(len(batch.tokens_T))
        return run(batch)

    monkeypatch.setattr(scorer, "_run", counted)
    scorer.score([tree], batch_tokens=8)
    assert passes[0] == tree.trunk
    assert max(passes[1:]) <= 8
    assert len(passes) - 1 <= -(-(len(tree) - tree.trunk) // (8 - 3 + 1))


def test_chunked_loss_is_cross_entropy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Value and both gradients, over several chunks with a last one that is not full."""
    monkeypatch.setattr(losses, "CHUNK", 5)
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(13, 8, generator=generator, requires_grad=True)
    weight = torch.randn(11, 8, generator=generator, requires_grad=True)
    target = torch.randint(0, 11, (13,), generator=generator)
    found = []
    for loss in (
        losses.chunked_cross_entropy(states, weight, target) * 3,
        torch.nn.functional.cross_entropy(states @ weight.T, target, reduction="sum") * 3,
    ):
        found.append((loss.detach(), *torch.autograd.grad(loss, (states, weight))))
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert float(losses.chunked_cross_entropy(states[:0], weight, target[:0])) == 0.0


def test_a_kept_trunk_holds_one_pair_a_layer(ranker: Ranker) -> None:
    kept = TrunkCache()
    tree = random_tree(1, trunk=9, leaves=3)
    with torch.no_grad():
        ranker(collate([tree.leaves(0, 0)], backend="split", keep=kept))
    assert len(kept.layers) == ranker.decoder.config.num_hidden_layers
    assert kept.layers[0][0].shape[2] == 9


def test_expert_routing_drops_nothing_and_mixes_nothing(ranker: Ranker) -> None:
    """A leaf's logits are bit-identical whatever trees stand before it in a row of equal shape."""
    tree = random_tree(1, trunk=12, leaves=4)
    others = [random_tree(seed, trunk=12, leaves=4, longest=1) for seed in (5, 6)]
    with torch.no_grad():
        found = [ranker(collate([other, tree]))[0][4:] for other in others]
    assert apart(found[0], found[1]) < 1e-5


def test_padded_leaves_add_nothing_to_gradients(ranker: Ranker) -> None:
    """Leaves of very different length share tables in `split`; `dense` has none."""
    many = [random_tree(7, trunk=5, leaves=1, longest=1), random_tree(8, trunk=20, leaves=5)]
    found = []
    for backend in ("dense", "split"):
        ranker.zero_grad()
        ranker(collate(many, backend=backend), "answers")[0].backward()
        found.append(
            torch.cat([p.grad.flatten() for p in ranker.parameters() if p.grad is not None])
        )
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 1e-5


def test_grouped_heads_and_pretrained_loading_use_the_same_path() -> None:
    decoder = build_decoder("micro", vocab_size=VOCABULARY, begin=1, pad=0, seed=1)
    assert decoder.config.num_attention_heads > decoder.config.num_key_value_heads
    use_tree_attention(decoder)
    assert decoder.config._attn_implementation == "brewhouse_tree"


def test_many_answers_are_read_like_few(ranker: Ranker, monkeypatch: pytest.MonkeyPatch) -> None:
    """By question instead of by leaf: the same logits and gradients."""
    many = [random_tree(seed, trunk=20, leaves=6) for seed in (3, 4)]
    found = []
    for limit in (16, 1):
        monkeypatch.setattr(ranker_module, "_MANY_ANSWERS", limit)
        ranker.zero_grad()
        logits = ranker(collate(many))[0]
        ranker(collate(many), "answers")[0].backward()
        gradients = [p.grad.flatten() for p in ranker.parameters() if p.grad is not None]
        found.append((logits.detach(), torch.cat(gradients)))
    assert apart(found[0][0], found[1][0]) < 1e-5
    assert float((found[0][1] - found[1][1]).norm() / found[0][1].norm()) < 1e-5
