"""Attention over prompt trees, one interface over several backends; all are exact.

Every backend answers the same question for a row of tokens that holds any number of trees without
padding: each token attends to the trunk up to what it may see and, inside a leaf, to the leaf up to
itself. What differs is how.

- `dense`: PyTorch's SDPA with a boolean mask over padded trees; the reference.
- `split`: trunks by causal SDPA without a mask; leaves against their trunk and themselves. No score
  between two leaves is ever computed, and the trunk's keys can be kept and asked again.
- `flex`: FlexAttention with a block mask over the unpadded row; compiled on CUDA.

Suffixes: T tokens of the row, H heads, G key heads, D width of a head; B trees, L tokens of the
longest tree, P of the longest trunk, M leaf tokens of the widest tree; N leaves, S tokens of the
longest.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn import functional

from brewhouse.model.plan import TreePlan

NAME = "brewhouse_tree"
"""Name under which transformers knows `tree_attention`."""


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    tree: TreePlan,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention in the form transformers calls it: (1, H, T, D) -> (1, T, H, D)."""
    out = _RUN[tree.backend](query, key, value, scaling, tree, int(module.layer_idx))  # type: ignore[arg-type]
    return out, None


def _dense(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, tree: TreePlan, _layer: int
) -> torch.Tensor:
    at_BL, mask = tree.padded_BL
    q, k, v = (x[0][:, at_BL.clamp_min(0)].transpose(0, 1) for x in (q, k, v))
    out_BHLD = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    out_BLHD = out_BHLD.transpose(1, 2)
    return out_BLHD[tree.tree_T, tree.local_T][None]


def _split(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, tree: TreePlan, layer: int
) -> torch.Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    q_HTD, k_HTD, v_HTD = q[0], k[0], v[0]
    if tree.reuse is not None:
        k_BHPD, v_BHPD = tree.reuse.layers[layer]
        leaves_BHMD = _leaves(q_HTD, k_HTD, v_HTD, k_BHPD, v_BHPD, scaling, tree)
        return leaves_BHMD.transpose(1, 2).flatten(0, 1)[tree.place_T][None]
    q_BHPD, k_BHPD, v_BHPD = (x[:, tree.trunk_BP].transpose(0, 1) for x in (q_HTD, k_HTD, v_HTD))
    # Padding stands behind the trunk, so a causal mask hides it from every real token.
    trunk_BHPD = functional.scaled_dot_product_attention(
        q_BHPD, k_BHPD, v_BHPD, is_causal=True, scale=scaling
    )
    if tree.keep is not None:
        tree.keep.layers.append((k_BHPD, v_BHPD))
    parts = [trunk_BHPD.transpose(1, 2).flatten(0, 1)]
    if tree.own_NS.numel():
        leaves_BHMD = _leaves(q_HTD, k_HTD, v_HTD, k_BHPD, v_BHPD, scaling, tree)
        parts.append(leaves_BHMD.transpose(1, 2).flatten(0, 1))
    return torch.cat(parts)[tree.place_T][None]


def _leaves(
    q_HTD: torch.Tensor,
    k_HTD: torch.Tensor,
    v_HTD: torch.Tensor,
    k_BHPD: torch.Tensor,
    v_BHPD: torch.Tensor,
    scaling: float,
    tree: TreePlan,
) -> torch.Tensor:
    """Leaf tokens against their trunk and their own leaf, one softmax over both: (B, H, M, D)."""
    q_BHMD = q_HTD[:, tree.leaf_BM].transpose(0, 1)
    k_NHSD, v_NHSD = (x[:, tree.own_NS].transpose(0, 1) for x in (k_HTD, v_HTD))
    attend = _LeafAttention.apply if q_HTD.device.type == "cpu" else _leaf_attention
    return attend(q_BHMD, k_BHPD, v_BHPD, k_NHSD, v_NHSD, scaling, tree)


def _leaf_attention(
    q_BHMD: torch.Tensor,
    k_BHPD: torch.Tensor,
    v_BHPD: torch.Tensor,
    k_NHSD: torch.Tensor,
    v_NHSD: torch.Tensor,
    scaling: float,
    tree: TreePlan,
) -> torch.Tensor:
    """The same in plain operations, for devices without the fused kernel."""
    s = k_NHSD.shape[2]
    own_BHMS = _to_slots(_own_scores(q_BHMD, k_NHSD, scaling, tree), tree)
    scores = (q_BHMD * scaling) @ k_BHPD.transpose(2, 3) + tree.sees_B1MP.to(q_BHMD.dtype)
    weight = torch.cat([scores, own_BHMS], -1).softmax(-1, dtype=torch.float32).to(q_BHMD.dtype)
    own_NHSD = _to_leaves(weight[..., -s:], tree) @ v_NHSD
    return weight[..., :-s] @ v_BHPD + _to_slots(own_NHSD, tree)


def _own_scores(
    q_BHMD: torch.Tensor, k_NHSD: torch.Tensor, scaling: float, tree: TreePlan
) -> torch.Tensor:
    """Scores within leaves, (N, H, S, S), -inf for later keys."""
    s = k_NHSD.shape[2]
    later = torch.ones(s, s, dtype=torch.bool, device=k_NHSD.device).triu_(1)
    scores = (_to_leaves(q_BHMD, tree) * scaling) @ k_NHSD.transpose(2, 3)
    return scores.masked_fill(later, -torch.inf)


def _to_leaves(x_BHMX: torch.Tensor, tree: TreePlan) -> torch.Tensor:
    """(B, H, M, X) -> (N, H, S, X)."""
    return x_BHMX.transpose(1, 2).flatten(0, 1)[tree.back_NS].transpose(1, 2)


def _to_slots(x_NHSX: torch.Tensor, tree: TreePlan) -> torch.Tensor:
    """(N, H, S, X) -> (B, H, M, X)."""
    return x_NHSX.transpose(1, 2).flatten(0, 1)[tree.slot_BM].transpose(1, 2)


class _LeafAttention(torch.autograd.Function):
    """Leaf attention by PyTorch's fused CPU kernel: no score against a trunk is ever stored.

    The kernel gives the output over the trunk alone and its log-sum-exp; the few scores within a
    leaf are joined by theirs. Backward, the kernel is given the joined output and log-sum-exp, with
    which its weights are those of the one softmax over both parts; ring attention
    (arXiv:2310.01889) rests on the same fact.
    """

    @staticmethod
    def forward(  # noqa: D102
        ctx: Any,
        q_BHMD: torch.Tensor,
        k_BHPD: torch.Tensor,
        v_BHPD: torch.Tensor,
        k_NHSD: torch.Tensor,
        v_NHSD: torch.Tensor,
        scaling: float,
        tree: TreePlan,
    ) -> torch.Tensor:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        mask = tree.sees_B1MP.to(q_BHMD.dtype)
        trunk, trunk_lse = kernel(q_BHMD, k_BHPD, v_BHPD, 0.0, False, attn_mask=mask, scale=scaling)
        scores = _own_scores(q_BHMD, k_NHSD, scaling, tree).float()
        own_lse = scores.logsumexp(-1, keepdim=True)
        own = (scores - own_lse).exp().to(v_NHSD.dtype) @ v_NHSD
        own, own_lse = _to_slots(own, tree), _to_slots(own_lse, tree)
        trunk_lse = trunk_lse[..., None]
        lse = torch.logaddexp(trunk_lse, own_lse)
        out = trunk * (trunk_lse - lse).exp().to(trunk.dtype)
        out += own * (own_lse - lse).exp().to(own.dtype)
        ctx.save_for_backward(q_BHMD, k_BHPD, v_BHPD, k_NHSD, v_NHSD, out, lse)
        ctx.scaling, ctx.tree = scaling, tree
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: torch.Tensor) -> Any:  # noqa: D102
        q, k, v, k_own, v_own, out, lse = ctx.saved_tensors
        tree, scaling = ctx.tree, ctx.scaling
        grad = upstream[0].contiguous()
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        mask = tree.sees_B1MP.to(q.dtype)
        flat = lse[..., 0].contiguous()
        grad_q, grad_k, grad_v = kernel(
            grad, q, k, v, out, flat, 0.0, False, attn_mask=mask, scale=scaling
        )
        # Padding repeats a real token's rows; it must not add to a leaf's gradient.
        grad_own = _to_leaves(grad, tree) * tree.real_NS[:, None, :, None]
        weight = (_own_scores(q, k_own, scaling, tree) - _to_leaves(lse, tree)).exp().to(q.dtype)
        delta = (grad_own * _to_leaves(out, tree)).sum(-1, keepdim=True)
        slope = weight * (grad_own @ v_own.transpose(2, 3) - delta) * scaling
        grad_q_own = (slope @ k_own).transpose(1, 2)[tree.real_NS]
        grad_q = grad_q.transpose(1, 2).flatten(0, 1).contiguous()
        grad_q.index_add_(0, tree.back_NS[tree.real_NS], grad_q_own)
        b, _, m, _ = q.shape
        return (
            grad_q.unflatten(0, (b, m)).transpose(1, 2),
            grad_k,
            grad_v,
            slope.transpose(2, 3) @ _to_leaves(q, tree),
            weight.transpose(2, 3) @ grad_own,
            None,
            None,
        )


@cache
def _flex_kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    if not compiled:
        return flex_attention
    # A kernel for each width of heads, dtype, and with gradients or without; and should there be
    # too many, an error, for what PyTorch would fall back to holds the whole matrix.
    limits = torch._dynamo.config
    limits.recompile_limit = max(limits.recompile_limit, 64)
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)


def _flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, tree: TreePlan, _layer: int
) -> torch.Tensor:
    kernel = _flex_kernel(q.is_cuda)
    out = kernel(
        q,
        k,
        v,
        block_mask=tree.block_mask,
        scale=scaling,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out.transpose(1, 2)


_RUN = {"dense": _dense, "split": _split, "flex": _flex}


def use_tree_attention(decoder: Any) -> None:
    """Make a decoder read trees: all its attention layers go through `tree_attention`."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
    decoder.set_attn_implementation(NAME)
