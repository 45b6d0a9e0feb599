"""FlexAttention's block mask of a row of trees, made without the matrix of the row with itself.

What a token sees is two stretches of the row: of its tree's trunk up to its branch point, and of
its own leaf up to itself. Which blocks of the attention matrix hold anything follows from where
these begin and end; PyTorch's own `create_block_mask` would ask for every pair of tokens.

Suffixes: T tokens of the row, J blocks of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch

BLOCK = 128
"""Tokens of a block, FlexAttention's default."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """What every token of a row sees, and the blocks that follow from it; all tensors int32.

    Attributes:
        first_T, end_T: Stretch of the trunk that a token sees.
        own_T: Where its leaf begins; behind itself for tokens of trunks.
        part_J, part_JJ: How many blocks of keys each block of queries sees in part, and which:
            the first so many of its row.
        full_J, full_JJ: The same of blocks that all its queries see whole.
    """

    first_T: torch.Tensor
    end_T: torch.Tensor
    own_T: torch.Tensor
    part_J: torch.Tensor
    part_JJ: torch.Tensor
    full_J: torch.Tensor
    full_JJ: torch.Tensor

    @classmethod
    def of(cls, first_T: np.ndarray, end_T: np.ndarray, own_T: np.ndarray) -> Self:
        """From the stretches of every token."""
        at_T = np.arange(len(first_T))
        begins, ends = np.concatenate([first_T, own_T]), np.concatenate([end_T, at_T + 1])
        block = np.concatenate([at_T, at_T]) // BLOCK
        blocks = -(-len(first_T) // BLOCK)
        some = _covered(block, begins // BLOCK, -(-ends // BLOCK), ends > begins, blocks) > 0
        whole_from, whole_to = -(-begins // BLOCK), ends // BLOCK
        full = _covered(block, whole_from, whole_to, whole_to > whole_from, blocks) == BLOCK
        part = some & ~full
        return cls(
            first_T=_tensor(first_T),
            end_T=_tensor(end_T),
            own_T=_tensor(own_T),
            part_J=_tensor(part.sum(1)),
            part_JJ=_tensor(np.argsort(~part, axis=1, kind="stable")),
            full_J=_tensor(full.sum(1)),
            full_JJ=_tensor(np.argsort(~full, axis=1, kind="stable")),
        )

    def to(self, device: torch.device | str) -> Blocks:
        """Move all tensors."""
        return Blocks(**{k: v.to(device, non_blocking=True) for k, v in vars(self).items()})

    def mask(self) -> Any:
        """FlexAttention's `BlockMask`."""
        from torch.nn.attention.flex_attention import BlockMask

        first, end, own = self.first_T, self.end_T, self.own_T

        def sees(_b: Any, _h: Any, q: Any, k: Any) -> Any:
            return ((k >= first[q]) & (k < end[q])) | ((k >= own[q]) & (k <= q))

        return BlockMask.from_kv_blocks(
            self.part_J[None, None],
            self.part_JJ[None, None],
            self.full_J[None, None],
            self.full_JJ[None, None],
            BLOCK_SIZE=BLOCK,
            mask_mod=sees,
            seq_lengths=(len(first), len(first)),
        )


def _covered(
    row: np.ndarray, begin: np.ndarray, end: np.ndarray, real: np.ndarray, blocks: int
) -> np.ndarray:
    """How many stretches of each row of blocks reach over each block, (J, J)."""
    row, begin, end = row[real], begin[real], end[real]
    width = blocks + 1
    steps = np.bincount(row * width + begin, minlength=blocks * width)
    steps = steps - np.bincount(row * width + end, minlength=blocks * width)
    return np.cumsum(steps.reshape(blocks, width), axis=1)[:, :-1]


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int32))
