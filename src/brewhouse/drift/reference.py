"""What a version is held against: bound to it at registration, and never measured again."""

from __future__ import annotations

from datetime import date
from typing import Literal

import numpy as np

from brewhouse.domains.strict import Strict
from brewhouse.drift.estimate import EstimateReference
from brewhouse.drift.measure import Performance
from brewhouse.drift.quality import DataReference
from brewhouse.drift.signals import Kind, Signal


class Reference(Strict):
    """The measures of a version's test rows.

    Attributes:
        model: Digest of the weights that scored them.
        tasks: Keys of the tasks, with their versions.
        start, end: Days of the test window, the end outside.
        inputs: By method and column, how far apart two halves of the test rows' members are.
        router: Share of tokens that each expert of each layer took; None without experts.
    """

    schema_version: Literal[2] = 2
    model: str
    tasks: list[str]
    start: date
    end: date
    performance: Performance
    estimate: EstimateReference
    data: DataReference
    inputs: dict[str, dict[str, float]] = {}
    router: list[list[float]] | None = None


def router_shares(load_LE: np.ndarray) -> list[list[float]]:
    """Share of tokens by expert, a list a layer."""
    total = np.maximum(load_LE.sum(1, keepdims=True), 1)
    found: list[list[float]] = (load_LE / total).tolist()
    return found


def router_drift(load_LE: np.ndarray | None, reference: Reference) -> list[Signal]:
    """How far tokens have moved between experts: total variation of the worst layer, 0 to 1."""
    if load_LE is None or reference.router is None:
        return []
    known = np.array(reference.router)
    moved = np.abs(np.array(router_shares(load_LE)) - known).sum(1) / 2
    layer = int(moved.argmax())
    return [
        Signal(
            name="router",
            kind=Kind.SCORE,
            effect=float(moved[layer]),
            n=int(load_LE[layer].sum()),
            detail={"layer": layer},
        )
    ]
