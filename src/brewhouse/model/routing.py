"""How a mixture of experts spreads tokens over its experts, and the loss that keeps it even.

Suffixes: L layers, E experts, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over the ranks of a run."""

DEAD_SHARE = 0.1
"""An expert that takes less than this part of an even share counts as dead."""


def load_balance_loss(
    router: Sequence[torch.Tensor],
    *,
    experts: int,
    top_k: int,
    reduce: Reduce | None = None,
) -> torch.Tensor:
    """Auxiliary loss of Switch Transformers (arXiv:2101.03961, Eq. 4-6).

    1 where load is even, up to `experts / top_k` where it is not.

    Args:
        router: Router logits a layer, (T, E).
        experts: Number of experts a layer.
        top_k: Experts that answer a token.
        reduce: Sums over ranks. With it, load is counted over the tokens of all ranks, and the mean
            of the ranks' losses (what averaging of gradients makes of them) is the loss of their
            tokens taken together.
    """
    parts = [_load_and_probability(logits, top_k) for logits in router]
    load_LE = torch.stack([load for load, _ in parts]).detach()
    tokens = load_LE.new_tensor(float(len(router[0])))
    if reduce is not None:
        ranks = reduce(torch.ones_like(tokens))
        load_LE, tokens = reduce(load_LE), reduce(tokens) / ranks
    load_LE = load_LE / load_LE.sum(dim=1, keepdim=True)
    probability_LE = torch.stack([total for _, total in parts]) / tokens
    return experts * (load_LE * probability_LE).sum(dim=1).mean()


def _load_and_probability(logits: torch.Tensor, top_k: int) -> tuple[torch.Tensor, torch.Tensor]:
    probability = torch.softmax(logits.float(), dim=-1)
    chosen = torch.topk(probability, top_k, dim=-1).indices
    load = torch.zeros_like(probability).scatter_(1, chosen, 1.0).sum(0)
    return load, probability.sum(0)


def expert_counts(router: Sequence[torch.Tensor], *, top_k: int) -> torch.Tensor:
    """Routed tokens that each expert takes, a row a layer, (L, E) float32."""
    rows = []
    for logits in router:
        chosen = torch.topk(logits.detach(), top_k, dim=-1).indices
        rows.append(torch.bincount(chosen.reshape(-1), minlength=logits.shape[-1]).float())
    return torch.stack(rows)


@dataclass(frozen=True, kw_only=True)
class LayerLoad:
    """Load of one layer's experts.

    Attributes:
        share: Part of the routed tokens that each expert takes; sums to 1.
        cv: Coefficient of variation of the shares: 0 where load is even, sqrt(E - 1) where one
            expert takes all.
        entropy: Entropy of the shares over log E: 1 where even, 0 where one takes all.
        dead: Experts with less than `DEAD_SHARE` of an even share.
    """

    share: tuple[float, ...]
    cv: float
    entropy: float
    dead: tuple[int, ...]

    @classmethod
    def of(cls, counts: Sequence[float]) -> LayerLoad:
        """From counts of routed tokens; at least one must be positive."""
        total, experts = float(sum(counts)), len(counts)
        share = [float(c) / total for c in counts]
        variance = sum((s - 1 / experts) ** 2 for s in share) / experts
        entropy = -sum(s * math.log(s) for s in share if s > 0)
        return cls(
            share=tuple(round(s, 6) for s in share),
            cv=round(math.sqrt(variance) * experts, 4),
            entropy=round(entropy / math.log(experts), 4) if experts > 1 else 1.0,
            dead=tuple(i for i, s in enumerate(share) if s < DEAD_SHARE / experts),
        )


@dataclass(frozen=True, kw_only=True)
class RouterHealth:
    """Load of every layer over some stretch of training or scoring."""

    layers: tuple[LayerLoad, ...]

    @classmethod
    def of(cls, counts_LE: torch.Tensor | np.ndarray) -> RouterHealth:
        """From counts of routed tokens, (L, E)."""
        return cls(layers=tuple(LayerLoad.of(row) for row in counts_LE.tolist()))

    def metrics(self) -> dict[str, float]:
        """Flat values for a tracker: three a layer and the worst of all layers."""
        flat: dict[str, float] = {}
        for number, layer in enumerate(self.layers):
            flat[f"router_cv_layer{number}"] = layer.cv
            flat[f"router_entropy_layer{number}"] = layer.entropy
            flat[f"router_dead_layer{number}"] = len(layer.dead)
        flat["router_cv_max"] = max(layer.cv for layer in self.layers)
        flat["router_entropy_min"] = min(layer.entropy for layer in self.layers)
        flat["router_dead"] = sum(len(layer.dead) for layer in self.layers)
        return flat

    def warnings(self, *, max_cv: float) -> list[str]:
        """What is wrong, a line a layer; empty where load is healthy.

        Args:
            max_cv: Largest coefficient of variation that is not worth a warning.
        """
        found = []
        for number, layer in enumerate(self.layers):
            if layer.dead:
                which = ", ".join(map(str, layer.dead))
                found.append(
                    f"router of layer {number}: expert {which} takes next to no tokens "
                    f"(shares {_shown(layer.share)}); raise router_aux or lower lr"
                )
            elif layer.cv > max_cv:
                found.append(
                    f"router of layer {number}: load varies by {layer.cv:.2f} of its mean, more "
                    f"than {max_cv:g} (shares {_shown(layer.share)}); raise router_aux"
                )
        return found


def _shown(share: Sequence[float]) -> str:
    return " ".join(f"{s:.3f}" for s in share)
