"""What a window tells about a model in use: one number a signal, with what it was measured on."""

from __future__ import annotations

from datetime import date
from enum import StrEnum
from typing import Any

from pydantic import Field

from brewhouse.domains.strict import Strict


class Kind(StrEnum):
    """What a signal is about, from the data to what members did."""

    DATA = "data"
    """Volume, nulls, schema, freshness: the pipeline's fault, not the world's."""
    INPUT = "input"
    """Prompts, profiles and items."""
    SCORE = "score"
    """What the model says."""
    ESTIMATE = "estimate"
    """Performance estimated before labels are there."""
    PERFORMANCE = "performance"
    """Performance on labels that have matured."""


class Signal(Strict):
    """A number of one window.

    Effects are distances from the reference that is bound to the version: 0 where nothing has
    changed, more the worse. Performance tells the metric itself with its standard error.
    """

    name: str
    kind: Kind
    surface: str = Field(default="", description="Empty for all surfaces together")
    effect: float | None = Field(default=None, description="None where it cannot be computed")
    value: float | None = None
    error: float | None = Field(default=None, ge=0, description="Standard error of the value")
    reference: float | None = Field(
        default=None, description="The value when the version was registered"
    )
    reference_error: float = Field(default=0.0, ge=0, description="Its standard error")
    n: int = Field(ge=0, description="Rows it was measured on")
    detail: dict[str, Any] = {}

    @property
    def key(self) -> str:
        """Names what is watched: incidents of the same key are one."""
        return f"{self.kind}/{self.name}" + (f"/{self.surface}" if self.surface else "")


class Window(Strict):
    """Signals of one window about one version.

    Attributes:
        start, end: Days, the end outside.
        matured_until: Labels of rows shown before it are complete.
    """

    version: str
    start: date
    end: date
    matured_until: date
    signals: list[Signal]
