"""Random trees."""

from __future__ import annotations

import numpy as np

from brewhouse.prompts.tree import TokenTree

VOCABULARY = 97


def tree(seed: int, trunk: int, leaves: int, longest: int = 9) -> TokenTree:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, leaves)
    return TokenTree(
        member="m",
        tokens_T=rng.integers(2, VOCABULARY, trunk + lengths.sum()).astype(np.int32),
        trunk=trunk,
        leaf_start_N=trunk + np.cumsum(lengths) - lengths,
        branch_N=rng.integers(1, trunk + 1, leaves),
        question_N=rng.integers(0, 2, leaves),
        label_N=rng.integers(0, 2, leaves),
        weight_N=rng.random(leaves).astype(np.float32) + 0.1,
        row_N=tuple(f"{seed}-{i}" for i in range(leaves)),
    )
