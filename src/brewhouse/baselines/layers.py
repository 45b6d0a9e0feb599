"""Parts of the neural baselines: cross and attention layers, towers, windows of timelines.

Suffixes: B targets of a batch, Q targets of all, N groups of targets or windows, L history events.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

EMBEDDING = 12
GAPS = 20
_HEADS = 2


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes that a search may change."""

    width: int = 64
    rank: int = 32
    layers: int = 2
    dropout: float = 0.1


class AttentionLayer(nn.Module):
    """One HSTU layer: queries and gates from `x`, keys and values from the states they look at."""

    def __init__(self, width: int, facts: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.before = nn.LayerNorm(width)
        self.states = nn.LayerNorm(width)
        self.query = nn.Linear(width, 2 * width)
        self.key = nn.Linear(width, 2 * width)
        self.bias = nn.Linear(facts, _HEADS)
        # Pointwise attention of a score near zero gives next to no weight, hence no gradient.
        nn.init.ones_(self.bias.bias)
        self.after = nn.LayerNorm(width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        states: Tensor,
        allowed: Tensor,
        facts: Tensor,
        *,
        of: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: What asks, shape (N, Q, D).
            states: What is looked at, shape (N, L, D).
            allowed: Which states each may see, shape (N, Q, L).
            facts: What is known of each pair beside the states, shape (N, Q, L, facts).
            of: Which row of `states` each row of `x` looks at, shape (N,); by default its own.
        """
        key, value = functional.silu(self.key(self.states(states))).chunk(2, dim=-1)
        if of is not None:
            key, value = key[of], value[of]
        query, gate = functional.silu(self.query(self.before(x))).chunk(2, dim=-1)
        split = (_HEADS, self.width // _HEADS)
        query = query.reshape(*query.shape[:-1], *split).transpose(1, 2)
        score = query @ key.reshape(*key.shape[:-1], *split).permute(0, 2, 3, 1)
        score = score / split[1] ** 0.5 + self.bias(facts).movedim(-1, 1)
        weight = functional.silu(score) * allowed.unsqueeze(1)
        weight = weight / allowed.sum(-1).clamp(min=1).sqrt()[:, None, :, None]
        value = value.reshape(*value.shape[:-1], *split).transpose(1, 2)
        seen = (weight @ value).transpose(1, 2).flatten(-2)
        return x + self.dropout(self.out(self.after(seen) * gate))


class Cross(nn.Module):
    """x' = x0 * (U V x + b) + x, repeated."""

    def __init__(self, width: int, shape: Shape) -> None:
        super().__init__()
        self.down = nn.ModuleList(
            [nn.Linear(width, shape.rank, bias=False) for _ in range(shape.layers)]
        )
        self.up = nn.ModuleList([nn.Linear(shape.rank, width) for _ in range(shape.layers)])

    def forward(self, x0: Tensor) -> Tensor:
        """Shape (B, width) in and out."""
        x = x0
        for down, up in zip(self.down, self.up, strict=True):
            x = x0 * up(down(x)) + x
        return x


def embedding(size: int, width: int, *, padded: bool = False) -> nn.Embedding:
    """A table of small vectors; with `padded`, code 0 stays zero."""
    found = nn.Embedding(size, width, padding_idx=0 if padded else None)
    nn.init.normal_(found.weight, std=0.05)
    if padded:
        with torch.no_grad():
            found.weight[0] = 0
    return found


def tower(wide: int, shape: Shape) -> nn.Sequential:
    """Two layers down to `shape.width`."""
    return nn.Sequential(
        nn.Linear(wide, 2 * shape.width),
        nn.SiLU(),
        nn.Dropout(shape.dropout),
        nn.Linear(2 * shape.width, shape.width),
        nn.SiLU(),
    )


def newest(start_B: Tensor, end_B: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The newest `count` events of each prefix, newest first; 0 where there are fewer.

    Returns:
        Event numbers and whether each is one, shape (B, count).
    """
    at = end_B.unsqueeze(1) - 1 - torch.arange(count, device=end_B.device)
    known = at >= start_B.unsqueeze(1)
    return torch.where(known, at, 0), known


def windows(start_Q: np.ndarray, end_Q: np.ndarray, size: int) -> np.ndarray:
    """First event of the window that serves each target; windows overlap by half.

    Targets near each other in one timeline share a window, and each sees at least `size / 2` of its
    newest known events, or all there are.
    """
    step = size // 2
    skipped = np.maximum(end_Q - start_Q - size, 0)
    return start_Q + -(-skipped // step) * step


def together(window_B: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Deal targets into groups of at most `size` that share a window.

    Returns:
        Group of each target, its place in the group, and the window of each group.
    """
    count = torch.bincount(window_B)
    order = torch.argsort(window_B, stable=True)
    first = torch.cumsum(count, 0) - count
    rank = torch.empty_like(window_B)
    rank[order] = torch.arange(len(window_B), device=window_B.device) - first[window_B[order]]
    needed = (count + size - 1) // size
    offset = torch.cumsum(needed, 0) - needed
    window_G = torch.repeat_interleave(torch.arange(len(count), device=count.device), needed)
    return offset[window_B] + rank // size, rank % size, window_G


def buckets(hours: Tensor) -> Tensor:
    """Elapsed hours by their logarithm, for embeddings of `GAPS` sizes."""
    return torch.log2(1 + hours.clamp(min=0)).long().clamp(max=GAPS - 1)
