"""Where the tokens of a row stand in their trees: what attention over trees needs to know.

Suffixes: T tokens of the row, H heads, D width of a head; B trees, L tokens of the longest tree, P
of the longest trunk, M leaf tokens of the widest tree; N leaves, S tokens of the longest.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch

from brewhouse.model.blocks import Blocks
from brewhouse.prompts.tree import TRUNK, TokenTree

Backend = Literal["dense", "split", "flex"]
BACKENDS: tuple[Backend, ...] = ("dense", "split", "flex")
FLEX_LEAST = 16
"""Narrowest head that FlexAttention's CUDA kernels take."""


@dataclass(frozen=True, kw_only=True)
class TrunkCache:
    """Keys and values of trunks, a pair a layer, each (B, H, P, D)."""

    layers: list[tuple[torch.Tensor, torch.Tensor]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TreePlan:
    """Where the tokens of a row stand in their trees. Tensors are int64.

    Attributes:
        backend: How attention is computed.
        tree_T, owner_T, visible_T, local_T: Tree of each token, its leaf within the tree (`TRUNK`
            in trunks), how many trunk tokens it sees, and its place in the tree.
        trunk_BP: Row index of each trunk token; padded with any index.
        leaf_BM: Row index of each leaf token of a tree; padded likewise.
        branch_BM: How many trunk tokens each of those sees; at least 1.
        own_NS: Row index of each token of a leaf; padded likewise.
        real_NS: Which of those are no padding, bool.
        slot_BM: Place of each leaf token in `own_NS`, flattened.
        back_NS: Place of each leaf token in `leaf_BM`, flattened.
        place_T: Place of each token in the trunks, then leaf tokens, flattened.
        blocks: What `flex` computes; None with other backends.
        keep: Receives the trunks' keys and values.
        reuse: Holds them; the row then holds leaves only.
    """

    backend: Backend
    tree_T: torch.Tensor
    owner_T: torch.Tensor
    visible_T: torch.Tensor
    local_T: torch.Tensor
    trunk_BP: torch.Tensor
    leaf_BM: torch.Tensor
    branch_BM: torch.Tensor
    own_NS: torch.Tensor
    real_NS: torch.Tensor
    slot_BM: torch.Tensor
    back_NS: torch.Tensor
    place_T: torch.Tensor
    blocks: Blocks | None = None
    keep: TrunkCache | None = None
    reuse: TrunkCache | None = None

    @classmethod
    def of(cls, trees: list[TokenTree], *, backend: Backend) -> Self:
        """Plan a row that holds the tokens of `trees` one after another."""
        sizes = np.array([len(tree) for tree in trees])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        trunks = np.array([tree.trunk for tree in trees])
        visible = np.concatenate([tree.visible_T() for tree in trees])
        lengths = [tree.leaf_end_N - tree.leaf_start_N for tree in trees]
        trunk_at, _ = _pad([s + np.arange(t) for s, t in zip(starts, trunks, strict=True)])
        leaf_at, wide = _pad(
            [s + np.arange(t, n) for s, t, n in zip(starts, trunks, sizes, strict=True)]
        )
        own_at, longest = _pad(
            [
                s + np.arange(a, e)
                for s, tree in zip(starts, trees, strict=True)
                for a, e in zip(tree.leaf_start_N, tree.leaf_end_N, strict=True)
            ]
        )
        # Leaf tokens in row order are, tree by tree and leaf by leaf, those of both layouts.
        flat_lengths = np.concatenate([*lengths, np.zeros(0, np.int64)]).astype(np.int64)
        slot = np.repeat(np.arange(len(flat_lengths)) * longest, flat_lengths) + _within(
            flat_lengths
        )
        back = np.repeat(np.arange(len(trees)) * wide, sizes - trunks) + _within(sizes - trunks)
        slot_at = np.zeros(leaf_at.size, np.int64)
        slot_at[back] = slot
        back_at = np.zeros(own_at.size, np.int64)
        back_at[slot] = back
        real = np.zeros(own_at.size, np.bool_)
        real[slot] = True
        place = np.empty(int(sizes.sum()), np.int64)
        in_trunk = np.concatenate([np.arange(len(tree)) < tree.trunk for tree in trees])
        place[in_trunk] = np.repeat(np.arange(len(trees)) * trunk_at.shape[1], trunks) + _within(
            trunks
        )
        place[~in_trunk] = trunk_at.size + back
        return cls(
            backend=backend,
            tree_T=_tensor(np.repeat(np.arange(len(trees)), sizes)),
            owner_T=_tensor(np.concatenate([tree.owner_T() for tree in trees])),
            visible_T=_tensor(visible),
            local_T=_tensor(_within(sizes)),
            trunk_BP=_tensor(trunk_at),
            leaf_BM=_tensor(leaf_at),
            branch_BM=_tensor(visible[leaf_at]).clamp_min(1),
            own_NS=_tensor(own_at),
            real_NS=torch.from_numpy(real.reshape(own_at.shape)),
            slot_BM=_tensor(slot_at.reshape(leaf_at.shape)),
            back_NS=_tensor(back_at.reshape(own_at.shape)),
            place_T=_tensor(place),
            blocks=_blocks(trees, starts, visible) if backend == "flex" else None,
        )

    def to(self, device: torch.device | str) -> TreePlan:
        """Move all tensors."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), torch.Tensor)
        }
        if self.blocks is not None:
            moved["blocks"] = self.blocks.to(device)
        return replace(self, **moved)

    @cached_property
    def sees_B1MP(self) -> torch.Tensor:
        """Added to the scores of leaf tokens against trunk tokens: 0 where seen, else -inf."""
        key = torch.arange(self._longest_trunk, device=self.branch_BM.device)
        hidden = key[None, None] >= self.branch_BM[:, :, None]
        seen = torch.zeros(hidden.shape, device=key.device).masked_fill_(hidden, -torch.inf)
        return seen[:, None]

    @property
    def _longest_trunk(self) -> int:
        if self.reuse is not None:
            return self.reuse.layers[0][0].shape[2]
        return self.trunk_BP.shape[1]

    @cached_property
    def padded_BL(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Row index of every token of each tree, padded with -1; and its mask (B, 1, L, L)."""
        trees, longest = int(self.tree_T.max()) + 1, int(self.local_T.max()) + 1
        at = torch.full((trees, longest), -1, device=self.tree_T.device)
        at[self.tree_T, self.local_T] = torch.arange(len(self.tree_T), device=at.device)
        owner = torch.where(at < 0, -2, self.owner_T[at])
        return at, tree_mask(owner, torch.where(at < 0, 0, self.visible_T[at]))

    @cached_property
    def block_mask(self) -> Any:
        """FlexAttention's mask over the row; plans of other backends have none."""
        if self.blocks is None:
            msg = f"a plan of backend {self.backend} has no block mask"
            raise ValueError(msg)
        return self.blocks.mask()


def _blocks(trees: list[TokenTree], starts: np.ndarray, visible_T: np.ndarray) -> Blocks:
    """Stretches that the tokens of a row see."""
    first = np.repeat(starts, [len(tree) for tree in trees])
    own = np.arange(len(first)) + 1
    for start, tree in zip(starts, trees, strict=True):
        lengths = tree.leaf_end_N - tree.leaf_start_N
        own[start + tree.trunk : start + len(tree)] = np.repeat(start + tree.leaf_start_N, lengths)
    return Blocks.of(first, first + visible_T, own)


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.int64))


def _pad(rows: list[np.ndarray]) -> tuple[np.ndarray, int]:
    longest = max((len(row) for row in rows), default=0)
    out = np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out, longest


def _within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... within each of some consecutive runs."""
    return np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def tree_mask(owner_BL: torch.Tensor, visible_BL: torch.Tensor) -> torch.Tensor:
    """Boolean attention mask, shape (B, 1, L, L): the definition that every backend follows.

    A token sees the trunk up to its branch point, and of its own leaf what stands before it and
    itself. Padding sees itself only.

    Args:
        owner_BL: Leaf of each token, -1 in the trunk, below -1 in padding.
        visible_BL: Number of trunk tokens each token sees.
    """
    key = torch.arange(owner_BL.shape[1], device=owner_BL.device)
    trunk = (owner_BL == TRUNK)[:, None, :] & (key[None, None, :] < visible_BL[:, :, None])
    same = (owner_BL[:, :, None] == owner_BL[:, None, :]) & (owner_BL >= 0)[:, None, :]
    mask = trunk | (same & (key[None, :] <= key[:, None])[None])
    return (mask | torch.eye(len(key), dtype=torch.bool, device=key.device)[None])[:, None]


def default_backend(device: torch.device | str, head_dim: int = FLEX_LEAST) -> Backend:
    """`flex` on CUDA, `split` elsewhere and for heads too narrow for FlexAttention's kernels.

    Args:
        device: Where the model is.
        head_dim: Width of its attention heads.
    """
    on_cuda = torch.device(device).type == "cuda"
    return "flex" if on_cuda and head_dim >= FLEX_LEAST else "split"
