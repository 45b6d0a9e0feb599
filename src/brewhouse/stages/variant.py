"""How shards of an evaluation may differ from those of a run: what a study turns one at a time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import Field

from brewhouse.data.splits import TemporalSplit, to_micros
from brewhouse.data.timelines import Log
from brewhouse.domains.spec import Domain
from brewhouse.domains.strict import Strict
from brewhouse.training.config import parse_settings


class Variant(Strict):
    """Changes to shards. The default is those that a run trains on."""

    training: bool = Field(
        default=True,
        description="Whether trees of training are written; without them the shards only ask, and "
        "words for numbers and proofs come from the model's own manifest",
    )
    max_events: int | None = Field(
        default=None, ge=0, description="Newest events of a history, in place of the domain's"
    )
    max_tokens: int | None = Field(
        default=None, ge=16, description="Token budget of a trunk, in place of the domain's"
    )
    frozen: bool = Field(
        default=False,
        description="Whether histories hold what was known when training ended and nothing newer",
    )
    probes: bool = Field(
        default=True, description="Whether some requests are told in every changed form too"
    )
    probe: str = Field(
        default="", description="Only this probe, in place of all of them and of other styles"
    )
    days: int | None = Field(
        default=None,
        ge=1,
        description="Ask about so many days from the end of training on, without a gap",
    )
    test_days: int | None = Field(
        default=None, ge=1, description="Days of each test window, in place of the domain's"
    )
    horizons_weeks: list[int] | None = Field(
        default=None, min_length=1, description="Test horizons, in place of the domain's"
    )

    @classmethod
    def parse(cls, value: dict[str, Any]) -> Variant:
        """Validate.

        Raises:
            ConfigError: A field is unknown or out of range.
        """
        # Numbers inside dictionaries reach a KFP step as floats.
        whole: dict[str, Any] = {k: int(v) if isinstance(v, float) else v for k, v in value.items()}
        if whole.get("horizons_weeks"):
            whole["horizons_weeks"] = [int(v) for v in whole["horizons_weeks"]]
        return parse_settings(cls, whole, where="variant")

    def domain(self, spec: Domain) -> Domain:
        """The domain with histories of this variant."""
        changes: dict[str, Any] = {}
        if self.max_events is not None:
            changes["max_events"] = self.max_events
        if self.max_tokens is not None:
            changes["max_tokens"] = self.max_tokens
        history = spec.history.model_copy(update=changes)
        defaults = spec.defaults
        if self.horizons_weeks is not None:
            defaults = defaults.model_copy(update={"horizons_weeks": self.horizons_weeks})
        if self.test_days is not None:
            defaults = defaults.model_copy(update={"test_days": self.test_days})
        if self.days is not None:
            window = {"gap_days": 0, "test_days": self.days, "horizons_weeks": [0]}
            defaults = defaults.model_copy(update=window)
        return spec.model_copy(update={"history": history, "defaults": defaults})

    def evidence(self, log: Log, split: TemporalSplit) -> Log:
        """The log with no evidence but what this variant lets histories hold.

        Rows stay where they are, so that targets keep their numbers: one that is no evidence is
        marked as not logged.
        """
        if not self.frozen:
            return log
        return replace(log, logged=log.logged & (log.known_at < to_micros(split.train_end)))
