"""Trees as one row of tokens, without padding.

Suffixes: T tokens of the row, N leaves of all its trees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from brewhouse.model.plan import Backend, TreePlan, TrunkCache, default_backend
from brewhouse.prompts.tree import TokenTree


@dataclass(frozen=True, kw_only=True)
class TreeBatch:
    """A row of trees.

    Attributes:
        tokens_T, positions_T: Token ids and rotary positions.
        trunk_T: Whether a token stands in a trunk.
        plan: What each token sees.
        at_N: Row index of each leaf's last token, whose next token is the answer.
        question_N, label_N, weight_N: As in `TokenTree`.
    """

    tokens_T: torch.Tensor
    positions_T: torch.Tensor
    trunk_T: torch.Tensor
    plan: TreePlan
    at_N: torch.Tensor
    question_N: torch.Tensor
    label_N: torch.Tensor
    weight_N: torch.Tensor

    def to(self, device: torch.device | str) -> TreeBatch:
        """Move all tensors."""
        moved: dict[str, Any] = {k: v.to(device) for k, v in vars(self).items()}
        return TreeBatch(**moved)


def collate(
    trees: Sequence[TokenTree],
    *,
    backend: Backend | None = None,
    keep: TrunkCache | None = None,
    reuse: TrunkCache | None = None,
) -> TreeBatch:
    """Put trees into one row.

    Args:
        trees: At least one.
        backend: How attention is computed; the best for CPUs if None.
        keep: Receives the keys and values of the trunks, a layer at a time.
        reuse: Trunks kept before, of as many trees; `trees` then hold leaves only.
    """
    starts = np.concatenate([[0], np.cumsum([len(tree) for tree in trees])[:-1]])

    def joined(parts: list[np.ndarray], dtype: type) -> torch.Tensor:
        return torch.from_numpy(np.concatenate(parts).astype(dtype))

    return TreeBatch(
        tokens_T=joined([tree.tokens_T for tree in trees], np.int64),
        positions_T=joined([tree.positions_T() for tree in trees], np.int64),
        trunk_T=joined([np.arange(len(tree)) < tree.trunk for tree in trees], np.bool_),
        plan=replace(
            TreePlan.of(list(trees), backend=backend or default_backend("cpu")),
            keep=keep,
            reuse=reuse,
        ),
        at_N=joined([s + t.answer_at_N for s, t in zip(starts, trees, strict=True)], np.int64),
        question_N=joined([tree.question_N for tree in trees], np.int64),
        label_N=joined([tree.label_N for tree in trees], np.int64),
        weight_N=joined([tree.weight_N for tree in trees], np.float32),
    )
