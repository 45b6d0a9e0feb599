"""Next-token cross-entropy that never holds the logits of a whole batch."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

CHUNK = 1024
"""Positions whose logits are held at once."""


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy, a chunk at a time; gradients are computed in the forward pass.

    Memory is O(chunk x vocabulary) instead of O(positions x vocabulary), the idea of Liger-Kernel's
    fused linear cross-entropy (arXiv:2410.10989, section 3.2).
    """

    @staticmethod
    def forward(
        ctx: Any, states_MD: torch.Tensor, weight_VD: torch.Tensor, target_M: torch.Tensor
    ) -> torch.Tensor:
        total = states_MD.new_zeros((), dtype=torch.float32)
        grad_states = torch.empty_like(states_MD)
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, len(target_M), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (states_MD[part] @ weight_VD.T).float()
            target = target_M[part]
            total += nn.functional.cross_entropy(logits, target, reduction="sum")
            delta = torch.softmax(logits, dim=-1)
            delta[torch.arange(len(target), device=target.device), target] -= 1.0
            grad_states[part] = delta.to(weight_VD.dtype) @ weight_VD
            grad_weight += delta.T @ states_MD[part].float()
        ctx.save_for_backward(grad_states, grad_weight.to(weight_VD.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        grad_states, grad_weight = ctx.saved_tensors
        return grad_states * upstream[0], grad_weight * upstream[0], None


def chunked_cross_entropy(
    states_MD: torch.Tensor, weight_VD: torch.Tensor, target_M: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy of `states @ weight.T` summed over targets; 0 without targets.

    On CUDA by Liger-Kernel where it is installed, else by chunks.

    Args:
        states_MD: Last hidden states, any float dtype.
        weight_VD: LM head.
        target_M: Token ids, int64.
    """
    if states_MD.is_cuda and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        fused = LigerFusedLinearCrossEntropyLoss(reduction="sum")
        return torch.as_tensor(fused(weight_VD, states_MD, target_M))
    return torch.as_tensor(_ChunkedCrossEntropy.apply(states_MD, weight_VD, target_M))  # type: ignore[no-untyped-call]
