"""The ranker: a decoder read at answer positions, over answer words only, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from brewhouse.model.attention import use_tree_attention
from brewhouse.model.batch import TreeBatch
from brewhouse.model.losses import chunked_cross_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Ranker(nn.Module):
    """Wraps a causal decoder. Answers of question q are rows `answers[q]` of its LM head."""

    answer_ids_QA: torch.Tensor
    answer_mask_QA: torch.Tensor
    is_answer_V: torch.Tensor

    def __init__(self, decoder: PreTrainedModel, answers: Sequence[Sequence[int]]) -> None:
        """Wrap a decoder.

        Args:
            decoder: A causal language model with `model` and `lm_head`.
            answers: First token of every answer of every question.
        """
        super().__init__()
        use_tree_attention(decoder)
        self.decoder = decoder
        widest = max(len(row) for row in answers)
        ids = torch.zeros(len(answers), widest, dtype=torch.long)
        mask = torch.zeros(len(answers), widest, dtype=torch.bool)
        for q, row in enumerate(answers):
            ids[q, : len(row)] = torch.tensor(row)
            mask[q, : len(row)] = True
        self.register_buffer("answer_ids_QA", ids, persistent=False)
        self.register_buffer("answer_mask_QA", mask, persistent=False)
        is_answer = torch.zeros(decoder.config.vocab_size, dtype=torch.bool)
        is_answer[ids[mask]] = True
        self.register_buffer("is_answer_V", is_answer, persistent=False)

    def hidden(self, batch: TreeBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Last hidden states (T, D) and the router logits of each layer, (T, experts)."""
        out: Any = self.decoder.model(
            input_ids=batch.tokens_T[None],
            position_ids=batch.positions_T[None],
            use_cache=False,
            output_router_logits=True,
            tree=batch.plan,
        )
        return out.last_hidden_state[0], list(getattr(out, "router_logits", None) or ())

    def answer_logits(self, hidden_TD: torch.Tensor, batch: TreeBatch) -> torch.Tensor:
        """Logits of each leaf's answer words, (N, A) float32; -inf where a question has fewer."""
        at_ND = hidden_TD[batch.at_N].float()
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
                `tokens` the next-token cross-entropy over trunks (continued pre-training);
                `actions` the same over those trunk tokens that begin an answer word; `both` adds
                `actions` to `answers`, times `token_weight`.
            token_weight: Weight of the trunk's loss in `both`.

        Returns:
            Result by mode, number of targets, router logits a layer.
        """
        hidden_TD, router = self.hidden(batch)
        if mode in ("tokens", "actions"):
            loss, count = self._token_loss(hidden_TD, batch, only_answers=mode == "actions")
            return loss, count, router
        logits_NA = self.answer_logits(hidden_TD, batch)
        if mode == "score":
            return logits_NA, torch.tensor(len(logits_NA)), router
        each_N = nn.functional.cross_entropy(logits_NA, batch.label_N, reduction="none")
        loss = (each_N * batch.weight_N).sum() / batch.weight_N.sum().clamp_min(1e-9)
        if mode == "both":
            loss = loss + token_weight * self._token_loss(hidden_TD, batch, only_answers=True)[0]
        return loss, torch.tensor(len(each_N)), router

    def _token_loss(
        self, hidden_TD: torch.Tensor, batch: TreeBatch, *, only_answers: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        # A trunk begins at position 0, so a later trunk token stands right behind its predecessor.
        following = batch.tokens_T[1:]
        target = batch.trunk_T[1:] & (batch.positions_T[1:] > 0)
        if only_answers:
            target = target & self.is_answer_V[following]
        states_MD = hidden_TD[:-1][target]
        loss = chunked_cross_entropy(states_MD, self.decoder.lm_head.weight, following[target])
        return loss, torch.tensor(len(states_MD))


def load_balance_loss(router: Sequence[torch.Tensor], *, experts: int, top_k: int) -> torch.Tensor:
    """Auxiliary loss of Switch Transformers (arXiv:2101.03961, Eq. 4-6).

    1 where load is even, up to `experts / top_k` where it is not.
    """
    losses = []
    for logits in router:
        probability = torch.softmax(logits.float(), dim=-1)
        chosen = torch.topk(probability, top_k, dim=-1).indices
        load = torch.zeros_like(probability).scatter_(1, chosen, 1.0).mean(0) / top_k
        losses.append(experts * (load * probability.mean(0)).sum())
    return torch.stack(losses).mean()


def router_load(router: Sequence[torch.Tensor], *, top_k: int) -> torch.Tensor:
    """Share of routed tokens each expert takes, a row a layer, (layers, experts)."""
    rows = []
    for logits in router:
        chosen = torch.topk(logits, top_k, dim=-1).indices
        count = torch.bincount(chosen.reshape(-1), minlength=logits.shape[-1]).float()
        rows.append(count / count.sum())
    return torch.stack(rows)
