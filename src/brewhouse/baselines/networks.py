"""DCN-v2, DIN and a causal sequence model, small, with one output a task.

Suffixes: B targets of a batch, L history events, W windows of a timeline, G groups of targets that
share one, D width, K tasks.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from brewhouse.baselines.inputs import Inputs
from brewhouse.baselines.layers import (
    EMBEDDING,
    GAPS,
    AttentionLayer,
    Cross,
    Shape,
    buckets,
    embedding,
    newest,
    together,
    tower,
    windows,
)

_HISTORY = 32
"""Newest known events that DIN reads."""
_WINDOW = 64
"""Events in a window of the sequence model: a target sees between half of them and all."""
_TOGETHER = 16
"""Targets of one window that are asked side by side."""


class Tables(nn.Module):
    """Inputs as tensors on the device of the model; they are looked up, never trained."""

    dense_QF: Tensor
    member_Q: Tensor
    item_Q: Tensor
    surface_Q: Tensor
    profile_Q: Tensor
    labels_QK: Tensor
    valid_QK: Tensor
    fields_IS: Tensor
    text_ID: Tensor
    profile_PD: Tensor
    words_PW: Tensor
    event_item_E: Tensor
    event_action_E: Tensor
    event_surface_E: Tensor
    event_hour_E: Tensor
    start_Q: Tensor
    end_Q: Tensor
    hour_Q: Tensor

    def __init__(self, inputs: Inputs) -> None:
        super().__init__()
        for name, value in vars(inputs).items():
            if isinstance(value, np.ndarray):
                self.register_buffer(name, torch.from_numpy(value), persistent=False)
        self.slots, self.sizes = inputs.slots, inputs.sizes


class Network(nn.Module):
    """Common part: embeddings of items, members and profiles; `out` has one output a task."""

    out: nn.Linear

    def __init__(
        self, inputs: Inputs, shape: Shape, *, ids: bool = True, text: bool = False
    ) -> None:
        """Prepare.

        Args:
            inputs: Tables.
            shape: Sizes.
            ids: Whether items, members and profile words have embeddings of their own.
            text: Whether texts of items and profiles come as vectors.
        """
        super().__init__()
        self.t = Tables(inputs)
        self.shape, self.ids, self.text = shape, ids, text
        size = inputs.sizes
        self.surface = embedding(size["surfaces"], EMBEDDING)
        if ids:
            self.field = embedding(size["fields"], EMBEDDING, padded=True)
            self.member = embedding(size["members"], EMBEDDING)
            self.word = embedding(size["words"], EMBEDDING, padded=True)
        self.vector = inputs.text_ID.shape[1]
        self.item_width = ids * EMBEDDING * len(inputs.slots) + text * self.vector
        self.dropout = nn.Dropout(shape.dropout)

    def item(self, items: Tensor) -> Tensor:
        """Embedding of items of any shape, fields side by side, then the text vector."""
        parts = []
        if self.ids:
            codes = self.t.fields_IS[items]
            every = self.field(codes)
            known = (codes > 0).unsqueeze(-1).to(every.dtype)
            for slots in self.t.slots:
                place = slice(slots[0], slots[-1] + 1)
                total = every[..., place, :].sum(-2)
                parts.append(total / known[..., place, :].sum(-2).clamp(min=1))
        if self.text:
            parts.append(self.t.text_ID[items])
        return torch.cat(parts, dim=-1)

    def profile(self, targets: Tensor) -> Tensor:
        """The member's profile at each target's moment."""
        which, parts = self.t.profile_Q[targets], []
        if self.ids:
            words = self.t.words_PW[which]
            known = (words > 0).sum(-1, keepdim=True).clamp(min=1)
            parts.append(self.word(words).sum(-2) / known)
        if self.text:
            parts.append(self.t.profile_PD[which])
        return torch.cat(parts, dim=-1)

    @property
    def profile_width(self) -> int:
        """Width of `profile`."""
        return self.ids * EMBEDDING + self.text * self.vector

    @staticmethod
    def groups(inputs: Inputs) -> np.ndarray | None:
        """Targets of one group share work and should share a batch; None: every target alone."""
        del inputs
        return None


class DCNv2(Network):
    """Low-rank cross layers beside a deep tower, DCN-v2 (arXiv:2008.13535, section 3.4).

    Reads dense features with embeddings of item, member and profile.
    """

    reads: ClassVar[dict[str, bool]] = {"ids": True, "text": False}

    def __init__(self, inputs: Inputs, shape: Shape) -> None:
        super().__init__(inputs, shape, **self.reads)
        wide = inputs.dense_QF.shape[1] + self.item_width + self.profile_width
        wide += EMBEDDING * (1 + self.ids)
        self.cross = Cross(wide, shape)
        self.deep = tower(wide, shape)
        self.out = nn.Linear(wide + shape.width, inputs.labels_QK.shape[1])

    def forward(self, targets: Tensor) -> Tensor:
        """Log-odds of targets, shape (B, K)."""
        t = self.t
        parts = [
            t.dense_QF[targets],
            self.item(t.item_Q[targets]),
            self.profile(targets),
            self.surface(t.surface_Q[targets]),
        ]
        if self.ids:
            parts.append(self.member(t.member_Q[targets]))
        x = torch.cat(parts, dim=-1)
        return self.out(self.dropout(torch.cat([self.cross(x), self.deep(x)], dim=-1)))


class DCNv2Text(DCNv2):
    """DCN-v2 with text vectors of item and profile instead of any learned identity."""

    reads: ClassVar[dict[str, bool]] = {"ids": False, "text": True}


class DIN(Network):
    """Attention of the target over the newest events known, DIN (arXiv:1706.06978, section 4.3)."""

    def __init__(self, inputs: Inputs, shape: Shape) -> None:
        super().__init__(inputs, shape, ids=True, text=False)
        self.action = embedding(inputs.sizes["actions"], EMBEDDING)
        self.gap = embedding(GAPS, EMBEDDING)
        self.mix_event = nn.Linear(self.item_width, shape.width // 2)
        own = 2 * EMBEDDING
        pair = 3 * (shape.width // 2) + own
        self.weigh = nn.Sequential(nn.Linear(pair, 32), nn.SiLU(), nn.Linear(32, 1))
        wide = inputs.dense_QF.shape[1] + self.item_width + self.profile_width + 2 * EMBEDDING
        self.deep = tower(wide + shape.width // 2 + own, shape)
        self.out = nn.Linear(shape.width, inputs.labels_QK.shape[1])

    def forward(self, targets: Tensor) -> Tensor:
        """Log-odds of targets, shape (B, K)."""
        t = self.t
        item = self.item(t.item_Q[targets])
        parts = [
            t.dense_QF[targets],
            item,
            self.profile(targets),
            self.surface(t.surface_Q[targets]),
            self.member(t.member_Q[targets]),
            self._interest(targets, item),
        ]
        return self.out(self.deep(torch.cat(parts, dim=-1)))

    def _interest(self, targets: Tensor, item: Tensor) -> Tensor:
        """Weighted sum of events, weights not normalised, so that their strength is kept."""
        events, known = newest(self.t.start_Q[targets], self.t.end_Q[targets], _HISTORY)
        if not len(self.t.event_item_E):
            known = torch.zeros_like(known)
        hours = self.t.hour_Q[targets].unsqueeze(1) - self._event(self.t.event_hour_E, events)
        past = self.mix_event(self.item(self._event(self.t.event_item_E, events)))
        own = torch.cat(
            [self.action(self._event(self.t.event_action_E, events)), self.gap(buckets(hours))], -1
        )
        asked = self.mix_event(item).unsqueeze(1).expand_as(past)
        weight = self.weigh(torch.cat([past, asked, past * asked, own], dim=-1))
        weight = torch.where(known.unsqueeze(-1), torch.sigmoid(weight), 0.0)
        return (weight * torch.cat([past, own], dim=-1)).sum(1) / _HISTORY**0.5

    def _event(self, values: Tensor, events: Tensor) -> Tensor:
        return values[events] if len(values) else torch.zeros_like(events)


class Sequence(Network):
    """A causal model over (item, action) pairs that is asked about the next item.

    Layers are those of HSTU (arXiv:2402.17152, section 3.2): pointwise attention with a bias,
    gated. The bias is by elapsed time and by likeness of items: their text vectors' cosine and
    which fields they share. A timeline is read once in overlapping windows; each target attends to
    the states of the events known at its moment, as the next position of the sequence would (the
    causal setting of SASRec, arXiv:1808.09781). No feature is counted by hand.
    """

    layers: nn.ModuleList
    ask: nn.ModuleList
    begin_Q: Tensor

    def __init__(self, inputs: Inputs, shape: Shape) -> None:
        super().__init__(inputs, shape, ids=True, text=True)
        width = shape.width
        self.action = embedding(inputs.sizes["actions"], width)
        self.where = embedding(inputs.sizes["surfaces"], width)
        self.told = nn.Linear(self.item_width, width)
        facts = 2 + 1 + len(inputs.slots)
        self.layers = nn.ModuleList(
            [AttentionLayer(width, facts, shape.dropout) for _ in range(shape.layers)]
        )
        self.ask = nn.ModuleList([AttentionLayer(width, facts, shape.dropout) for _ in range(2)])
        self.deep = tower(2 * width + self.profile_width + EMBEDDING, shape)
        self.out = nn.Linear(width, inputs.labels_QK.shape[1])
        self.register_buffer("begin_Q", torch.from_numpy(self.groups(inputs)), persistent=False)

    @staticmethod
    def groups(inputs: Inputs) -> np.ndarray:
        """The first event of each target's window: targets that share it are read together."""
        return windows(inputs.start_Q, inputs.end_Q, _WINDOW)

    def forward(self, targets: Tensor) -> Tensor:
        """Log-odds of targets, shape (B, K)."""
        t = self.t
        item = self.told(self.item(t.item_Q[targets]))
        asked = item + self.where(t.surface_Q[targets])
        if len(t.event_item_E):
            asked = self._history(targets, asked)
        parts = [asked, item, self.profile(targets), self.surface(t.surface_Q[targets])]
        return self.out(self.deep(torch.cat(parts, dim=-1)))

    def _history(self, targets: Tensor, asked: Tensor) -> Tensor:
        """Let targets look at the states of their windows, in groups of a window each."""
        t = self.t
        begin_W, window_B = torch.unique(self.begin_Q[targets], return_inverse=True)
        events = begin_W.unsqueeze(1) + torch.arange(_WINDOW, device=targets.device)
        events = events.clamp(max=len(t.event_item_E) - 1)
        states = self._read(events)
        group_B, place_B, window_G = together(window_B, _TOGETHER)
        shape = (len(window_G), _TOGETHER)
        who = torch.zeros(shape, dtype=torch.long, device=targets.device)
        who[group_B, place_B] = targets
        x = asked.new_zeros((*shape, asked.shape[-1])).index_put((group_B, place_B), asked)
        seen = events[window_G]
        place = begin_W[window_G].unsqueeze(1) + torch.arange(_WINDOW, device=targets.device)
        allowed = place.unsqueeze(1) < t.end_Q[who].unsqueeze(2)
        facts = self._facts(t.item_Q[who], t.hour_Q[who], seen)
        for layer in self.ask:
            x = layer(x, states, allowed, facts, of=window_G)
        return x[group_B, place_B]

    def _read(self, events: Tensor) -> Tensor:
        """States of events, shape (W, L, D); each sees itself and what was known before it."""
        t = self.t
        x = self.told(self.item(t.event_item_E[events]))
        x = x + self.action(t.event_action_E[events]) + self.where(t.event_surface_E[events])
        place = torch.arange(_WINDOW, device=events.device)
        allowed = (place.unsqueeze(0) <= place.unsqueeze(1)).expand(len(events), -1, -1)
        facts = self._facts(t.event_item_E[events], t.event_hour_E[events], events)
        for layer in self.layers:
            x = layer(x, x, allowed, facts)
        return x

    def _facts(self, item_NQ: Tensor, hour_NQ: Tensor, events_NL: Tensor) -> Tensor:
        """What attention is told of a pair: elapsed time, likeness of texts, fields shared."""
        t = self.t
        item_NL = t.event_item_E[events_NL]
        hours = (hour_NQ.unsqueeze(2) - t.event_hour_E[events_NL].unsqueeze(1)).clamp(min=0)
        gap = torch.log2(1 + hours) / 10
        alike = t.text_ID[item_NQ] @ t.text_ID[item_NL].transpose(1, 2)
        parts = [gap, gap * gap, alike]
        one, other = t.fields_IS[item_NQ].unsqueeze(2), t.fields_IS[item_NL].unsqueeze(1)
        for slots in t.slots:
            same = torch.zeros_like(gap, dtype=torch.bool)
            for a in slots:
                for b in slots:
                    same |= (one[..., a] == other[..., b]) & (one[..., a] > 0)
            parts.append(same.to(gap.dtype))
        return torch.stack(parts, dim=-1)


NETWORKS: dict[str, type[Network]] = {
    "dcn_v2": DCNv2,
    "din": DIN,
    "sequence": Sequence,
    "dcn_v2_text": DCNv2Text,
}
"""Network by the name of its baseline."""
