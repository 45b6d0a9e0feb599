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


_MANY_ANSWERS = 16
"""With more answers a question than this, leaves share their rows of the LM head."""


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
        self.config = decoder.config
        # Filled by routers that are not transformers' own, layer by layer.
        self.routed: list[torch.Tensor] = []
        widest = max(len(row) for row in answers)
        ids = torch.zeros(len(answers), widest, dtype=torch.long)
        mask = torch.zeros(len(answers), widest, dtype=torch.bool)
        for q, row in enumerate(answers):
            ids[q, : len(row)] = torch.tensor(row)
            mask[q, : len(row)] = True
        is_answer = torch.zeros(decoder.config.vocab_size, dtype=torch.bool)
        is_answer[ids[mask]] = True
        device = decoder.lm_head.weight.device
        self.register_buffer("answer_ids_QA", ids.to(device), persistent=False)
        self.register_buffer("answer_mask_QA", mask.to(device), persistent=False)
        self.register_buffer("is_answer_V", is_answer.to(device), persistent=False)

    @property
    def head_dim(self) -> int:
        """Width of the decoder's attention heads."""
        width, heads = self.config.hidden_size, self.config.num_attention_heads
        return int(getattr(self.config, "head_dim", None) or width // heads)

    def hidden(self, batch: TreeBatch) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Last hidden states (T, D) and the router logits of each layer, (T, experts)."""
        self.routed.clear()
        out: Any = self.decoder.model(
            input_ids=batch.tokens_T[None],
            position_ids=batch.positions_T[None],
            use_cache=False,
            output_router_logits=True,
            tree=batch.plan,
        )
        router = list(getattr(out, "router_logits", None) or ()) or list(self.routed)
        return out.last_hidden_state[0], router

    def answer_logits(self, hidden_TD: torch.Tensor, batch: TreeBatch) -> torch.Tensor:
        """Logits of each leaf's answer words, (N, A) float32; -inf where a question has fewer."""
        at_ND = hidden_TD[batch.at_N].float()
        if self.answer_ids_QA.shape[1] > _MANY_ANSWERS:
            logits_NA = self._by_question(at_ND, batch.question_N)
        else:
            rows_NAD = self.decoder.lm_head.weight[self.answer_ids_QA[batch.question_N]].float()
            logits_NA = torch.einsum("nd,nad->na", at_ND, rows_NAD)
        return logits_NA.masked_fill(~self.answer_mask_QA[batch.question_N], -torch.inf)

    def _by_question(self, at_ND: torch.Tensor, question_N: torch.Tensor) -> torch.Tensor:
        """Logits of one question's leaves at a time: no leaf gathers rows of its own."""
        asked_Q = torch.unique(question_N)
        places = [torch.nonzero(question_N == q)[:, 0] for q in asked_Q]
        weight = self.decoder.lm_head.weight
        parts = [
            at_ND[place] @ weight[self.answer_ids_QA[q]].float().T
            for q, place in zip(asked_Q, places, strict=True)
        ]
        return torch.cat(parts)[torch.cat(places).argsort()]

    def totals(self, batch: TreeBatch, mode: str) -> torch.Tensor:
        """What the losses of a batch are divided by: weight of its leaves, number of its tokens.

        Returns:
            Two values, float64; 0 where the mode has no such loss.
        """
        leaves = batch.weight_N.sum() if mode in ("answers", "both") else 0.0
        tokens = 0.0 if mode == "answers" else self._targets(batch, only_answers=mode != "tokens")
        if isinstance(tokens, torch.Tensor):
            tokens = tokens.sum()
        return torch.tensor([float(leaves), float(tokens)], dtype=torch.float64)

    def forward(
        self,
        batch: TreeBatch,
        mode: str = "score",
        token_weight: float = 0.5,
        totals: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Run a batch.

        Args:
            batch: Trees.
            mode: `score` gives answer logits (N, A); `answers` their weighted mean cross-entropy;
                `tokens` the next-token cross-entropy over trunks (continued pre-training);
                `actions` the same over those trunk tokens that begin an answer word; `both` adds
                `actions` to `answers`, times `token_weight`.
            token_weight: Weight of the trunk's loss in `both`.
            totals: What sums of losses are divided by, as `totals` gives it, when the batch is a
                part of a larger one: of several micro-batches and ranks. Of this batch if None.

        Returns:
            Result by mode, number of targets, router logits a layer.
        """
        hidden_TD, router = self.hidden(batch)
        if mode == "score":
            logits_NA = self.answer_logits(hidden_TD, batch)
            return logits_NA, torch.tensor(len(logits_NA)), router
        weight, tokens = (self.totals(batch, mode) if totals is None else totals).tolist()
        if mode in ("tokens", "actions"):
            loss, count = self._token_loss(hidden_TD, batch, only_answers=mode == "actions")
            return loss / max(tokens, 1.0), count, router
        logits_NA = self.answer_logits(hidden_TD, batch)
        each_N = nn.functional.cross_entropy(logits_NA, batch.label_N, reduction="none")
        loss = (each_N * batch.weight_N).sum() / max(weight, 1e-9)
        if mode == "both":
            actions, _ = self._token_loss(hidden_TD, batch, only_answers=True)
            loss = loss + token_weight * actions / max(tokens, 1.0)
        return loss, torch.tensor(len(each_N)), router

    def _targets(self, batch: TreeBatch, *, only_answers: bool) -> torch.Tensor:
        """Which tokens of the row, from the second on, are targets of the trunk's loss."""
        # A trunk begins at position 0, so a later trunk token stands right behind its predecessor.
        target = batch.trunk_T[1:] & (batch.positions_T[1:] > 0)
        return target & self.is_answer_V[batch.tokens_T[1:]] if only_answers else target

    def _token_loss(
        self, hidden_TD: torch.Tensor, batch: TreeBatch, *, only_answers: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Sum of the trunk's losses and their number."""
        target = self._targets(batch, only_answers=only_answers)
        states_MD = hidden_TD[:-1][target]
        following = batch.tokens_T[1:][target]
        loss = chunked_cross_entropy(states_MD, self.decoder.lm_head.weight, following)
        return loss, torch.tensor(len(states_MD))
