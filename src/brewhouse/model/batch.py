"""Trees as padded tensors.

Shapes: B trees, L tokens of the longest, N leaves of the whole batch, A answers of the widest
question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from brewhouse.prompts.tree import TRUNK, TokenTree


@dataclass(frozen=True, kw_only=True)
class TreeBatch:
    """A batch of trees. `mask` is added to attention scores: 0 where a query (row) sees a key."""

    tokens_BL: torch.Tensor
    positions_BL: torch.Tensor
    mask_B1LL: torch.Tensor
    real_BL: torch.Tensor
    trunk_BL: torch.Tensor
    tree_N: torch.Tensor
    at_N: torch.Tensor
    question_N: torch.Tensor
    label_N: torch.Tensor
    weight_N: torch.Tensor

    def to(self, device: torch.device | str) -> TreeBatch:
        """Move all tensors."""
        return TreeBatch(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})


def collate(trees: Sequence[TokenTree], *, pad: int) -> TreeBatch:
    """Pad trees to the longest. A padded position sees itself only, and nobody sees it."""
    b, longest = len(trees), max(len(tree) for tree in trees)
    tokens = np.full((b, longest), pad, np.int64)
    positions = np.zeros((b, longest), np.int64)
    owner = np.full((b, longest), -2, np.int64)
    visible = np.zeros((b, longest), np.int64)
    for i, tree in enumerate(trees):
        n = len(tree)
        tokens[i, :n] = tree.tokens_T
        positions[i, :n] = tree.positions_T()
        owner[i, :n] = tree.owner_T()
        visible[i, :n] = tree.visible_T()
    leaves = [len(tree.row_N) for tree in trees]
    return TreeBatch(
        tokens_BL=torch.from_numpy(tokens),
        positions_BL=torch.from_numpy(positions),
        mask_B1LL=additive(tree_mask(torch.from_numpy(owner), torch.from_numpy(visible))),
        real_BL=torch.from_numpy(owner != -2),
        trunk_BL=torch.from_numpy(owner == TRUNK),
        tree_N=torch.from_numpy(np.repeat(np.arange(b), leaves)),
        at_N=torch.from_numpy(np.concatenate([tree.answer_at_N for tree in trees])),
        question_N=torch.from_numpy(np.concatenate([tree.question_N for tree in trees])),
        label_N=torch.from_numpy(np.concatenate([tree.label_N for tree in trees])),
        weight_N=torch.from_numpy(np.concatenate([tree.weight_N for tree in trees])),
    )


def tree_mask(owner_BL: torch.Tensor, visible_BL: torch.Tensor) -> torch.Tensor:
    """Boolean attention mask, shape (B, 1, L, L).

    A token sees the trunk up to its branch point, and of its own leaf what stands before it and
    itself.

    Args:
        owner_BL: Leaf of each token, -1 in the trunk, below -1 in padding.
        visible_BL: Number of trunk tokens each token sees.
    """
    key = torch.arange(owner_BL.shape[1])
    trunk = (owner_BL == TRUNK)[:, None, :] & (key[None, None, :] < visible_BL[:, :, None])
    same = (owner_BL[:, :, None] == owner_BL[:, None, :]) & (owner_BL >= 0)[:, None, :]
    mask = trunk | (same & (key[None, :] <= key[:, None])[None])
    return (mask | torch.eye(len(key), dtype=torch.bool)[None])[:, None]


def additive(mask: torch.Tensor) -> torch.Tensor:
    """Float form of a boolean mask: 0 or -inf. Converted once here, not in every layer."""
    return torch.zeros(mask.shape, dtype=torch.float32).masked_fill_(~mask, -torch.inf)
