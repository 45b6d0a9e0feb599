"""The ranker: a decoder read at answer positions, over answer words only, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from brewhouse.model.batch import TreeBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Ranker(nn.Module):
    """Wraps a causal decoder. Answers of question q are rows `answers[q]` of its LM head."""

    answer_ids_QA: torch.Tensor
    answer_mask_QA: torch.Tensor

    def __init__(self, decoder: PreTrainedModel, answers: Sequence[Sequence[int]]) -> None:
        """Wrap a decoder.

        Args:
            decoder: A causal language model with `model` and `lm_head`.
            answers: First token of every answer of every question.
        """
        super().__init__()
        self.decoder = decoder
        widest = max(len(row) for row in answers)
        ids = torch.zeros(len(answers), widest, dtype=torch.long)
        mask = torch.zeros(len(answers), widest, dtype=torch.bool)
        for q, row in enumerate(answers):
            ids[q, : len(row)] = torch.tensor(row)
            mask[q, : len(row)] = True
        self.register_buffer("answer_ids_QA", ids, persistent=False)
        self.register_buffer("answer_mask_QA", mask, persistent=False)

    def hidden(self, batch: TreeBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Last hidden states (B, L, D) and the router logits of each layer, (B*L, experts)."""
        out: Any = self.decoder.model(
            input_ids=batch.tokens_BL,
            attention_mask=batch.mask_B1LL,
            position_ids=batch.positions_BL,
            use_cache=False,
            output_router_logits=True,
        )
        return out.last_hidden_state, list(out.router_logits or ())

    def answer_logits(self, hidden_BLD: torch.Tensor, batch: TreeBatch) -> torch.Tensor:
        """Logits of each leaf's answer words, (N, A) float32; -inf where a question has fewer."""
        at_ND = hidden_BLD[batch.tree_N, batch.at_N].float()
        rows_NAD = self.decoder.lm_head.weight[self.answer_ids_QA[batch.question_N]].float()
        logits_NA = torch.einsum("nd,nad->na", at_ND, rows_NAD)
        return logits_NA.masked_fill(~self.answer_mask_QA[batch.question_N], -torch.inf)

    def forward(
        self, batch: TreeBatch, mode: str = "score", token_weight: float = 0.5
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Run a batch.

        Args:
            batch: Trees.
            mode: `score` gives answer logits (N, A); `answers` their weighted mean cross-entropy;
                `tokens` the next-token cross-entropy over trunks (continued pre-training); `both`
                adds the latter to the former, times `token_weight`.
            token_weight: Weight of the next-token loss in `both`.

        Returns:
            Result by mode, number of targets, router logits a layer.
        """
        hidden_BLD, router = self.hidden(batch)
        if mode == "tokens":
            loss, count = self._token_loss(hidden_BLD, batch)
            return loss, count, router
        logits_NA = self.answer_logits(hidden_BLD, batch)
        if mode == "score":
            return logits_NA, torch.tensor(len(logits_NA)), router
        each_N = nn.functional.cross_entropy(logits_NA, batch.label_N, reduction="none")
        loss = (each_N * batch.weight_N).sum() / batch.weight_N.sum().clamp_min(1e-9)
        if mode == "both":
            loss = loss + token_weight * self._token_loss(hidden_BLD, batch)[0]
        return loss, torch.tensor(len(each_N)), router

    def _token_loss(
        self, hidden_BLD: torch.Tensor, batch: TreeBatch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        target = batch.trunk_BL[:, 1:]
        states = hidden_BLD[:, :-1][target]
        logits = self.decoder.lm_head(states).float()
        loss = nn.functional.cross_entropy(logits, batch.tokens_BL[:, 1:][target])
        return loss, torch.tensor(len(states))


def load_balance_loss(
    router: Sequence[torch.Tensor], real_BL: torch.Tensor, *, experts: int, top_k: int
) -> torch.Tensor:
    """Auxiliary loss of Switch Transformers (arXiv:2101.03961, Eq. 4-6), padding left out.

    1 where load is even, up to `experts / top_k` where it is not.
    """
    real = real_BL.reshape(-1)
    losses = []
    for logits in router:
        probability = torch.softmax(logits[real].float(), dim=-1)
        chosen = torch.topk(probability, top_k, dim=-1).indices
        load = torch.zeros_like(probability).scatter_(1, chosen, 1.0).mean(0) / top_k
        losses.append(experts * (load * probability.mean(0)).sum())
    return torch.stack(losses).mean()


def router_load(
    router: Sequence[torch.Tensor], real_BL: torch.Tensor, *, top_k: int
) -> torch.Tensor:
    """Share of routed tokens each expert takes, a row a layer, (layers, experts)."""
    real = real_BL.reshape(-1)
    rows = []
    for logits in router:
        chosen = torch.topk(logits[real], top_k, dim=-1).indices
        count = torch.bincount(chosen.reshape(-1), minlength=logits.shape[-1]).float()
        rows.append(count / count.sum())
    return torch.stack(rows)
