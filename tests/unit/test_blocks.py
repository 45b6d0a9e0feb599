"""The block mask against the whole attention matrix of its row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from brewhouse.model.blocks import BLOCK
from brewhouse.model.plan import TreePlan, tree_mask
from brewhouse.prompts.tree import TokenTree
from tests.devices.trees import tree

trees = st.builds(
    tree,
    st.integers(0, 2**32 - 1),
    trunk=st.integers(1, 700),
    leaves=st.integers(0, 30),
    longest=st.integers(1, 60),
)


def seen(plan: TreePlan) -> np.ndarray:
    """Whether each token of the row sees each, from the definition that every backend follows."""
    apart = plan.tree_T[:, None] != plan.tree_T[None]
    whole = torch.zeros(apart.shape, dtype=torch.bool)
    for number in range(int(plan.tree_T.max()) + 1):
        at = torch.nonzero(plan.tree_T == number)[:, 0]
        mask = tree_mask(plan.owner_T[at][None], plan.visible_T[at][None])[0, 0]
        whole[at[:, None], at[None]] = mask
    return whole.numpy()


@settings(max_examples=30, deadline=None)
@given(many=st.lists(trees, min_size=1, max_size=3))
def test_blocks_are_those_of_the_whole_matrix(many: list[TokenTree]) -> None:
    plan = TreePlan.of(many, backend="flex")
    whole = seen(plan)
    n, blocks = len(whole), -(-len(whole) // BLOCK)
    assert plan.blocks is not None
    q, k = torch.arange(n)[:, None], torch.arange(n)[None]
    assert np.array_equal(plan.block_mask.mask_mod(0, 0, q, k).numpy(), whole)
    padded = np.zeros((blocks * BLOCK, blocks * BLOCK), bool)
    padded[:n, :n] = whole
    by_block = padded.reshape(blocks, BLOCK, blocks, BLOCK)
    some, every = by_block.any((1, 3)), by_block.all((1, 3))
    part, full = (
        chosen(counts, at)
        for counts, at in (
            (plan.blocks.part_J, plan.blocks.part_JJ),
            (plan.blocks.full_J, plan.blocks.full_JJ),
        )
    )
    assert not (part & full).any()
    assert np.array_equal(part | full, some)
    assert not (full & ~every).any()


def test_whole_blocks_are_known() -> None:
    """Those of trunks are most of the work, and need no mask."""
    plan = TreePlan.of([tree(1, trunk=700, leaves=0)], backend="flex")
    assert plan.blocks is not None
    full = chosen(plan.blocks.full_J, plan.blocks.full_JJ)
    assert np.array_equal(full, np.tril(np.ones((6, 6), bool), -1) & (np.arange(6) < 5)[:, None])
    # Leaves that all branch at the end see the whole trunk: blocks of them see whole blocks of it.
    late = tree(2, trunk=300, leaves=40, longest=20)
    late = replace(late, branch_N=np.full(40, 300))
    plan = TreePlan.of([late], backend="flex")
    assert plan.blocks is not None
    full = chosen(plan.blocks.full_J, plan.blocks.full_JJ)
    assert full[3:-1, :2].all()
    assert not full[3:-1, 2].any()


def chosen(counts: torch.Tensor, at: torch.Tensor) -> np.ndarray:
    found = np.zeros(tuple(at.shape), bool)
    for row, (count, places) in enumerate(zip(counts.tolist(), at.tolist(), strict=True)):
        assert sorted(places) == list(range(len(places)))
        found[row, places[:count]] = True
    return found
