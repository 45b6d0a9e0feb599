"""Drift policies: YAML, what counts as drift, who is told, and when a model is trained again."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.strict import Strict
from brewhouse.drift.signals import Kind, Signal
from brewhouse.errors import ConfigError


class Severity(StrEnum):
    """Whom an incident reaches."""

    TICKET = "ticket"
    WARNING = "warning"
    PAGE = "page"


class EffectRule(Strict):
    """An effect above its threshold for some windows one after another.

    It closes by itself when the effect stays below `clear` for as many windows (hysteresis).
    """

    kind: Literal["effect"]
    signal: str = Field(description="Pattern of signal keys, such as input/* or score/ece/feed")
    above: float = Field(gt=0, description="Effect size at which a window counts")
    clear: float = Field(gt=0, description="Effect size below which a window counts as calm")
    windows: int = Field(default=2, ge=1, description="Windows one after another")
    severity: Severity = Severity.TICKET
    retrain: bool = Field(default=False, description="Whether it may order a retraining")


class FallRule(Strict):
    """A metric on matured labels that has fallen, by a sequential test.

    Looked at every window, false alarms lie at least `windows_between_false_alarms` apart.
    """

    kind: Literal["fall"]
    signal: str = Field(description="Pattern of keys of performance signals")
    tolerated: float = Field(
        default=0.005, ge=0, description="Fall of the metric that is not worth a retraining"
    )
    windows_between_false_alarms: float = Field(
        default=104, gt=1, description="Declared budget: on average at least so many"
    )
    between_floor: float = Field(
        default=0.003, ge=0, description="Least standard deviation between windows"
    )
    severity: Severity = Severity.PAGE
    retrain: bool = True


Rule = Annotated[EffectRule | FallRule, Field(discriminator="kind")]


class DriftPolicy(Strict):
    """YAML of a drift policy."""

    name: str
    version: int = Field(ge=1)
    warm_up_windows: int = Field(
        default=4, ge=2, description="First windows of a version: measured, never judged"
    )
    least_rows: int = Field(default=200, ge=1, description="Signals on fewer rows are not judged")
    cooldown_days: int = Field(default=28, ge=0, description="Days between two retrainings")
    retrains_per_quarter: int = Field(default=2, ge=0, description="In any 91 days")
    inhibited_by: list[Kind] = Field(
        default=[Kind.DATA],
        description="While a signal of these kinds is in incident, nothing else is drift",
    )
    rules: list[Rule] = Field(min_length=1)

    @property
    def key(self) -> str:
        """Name and version, as evaluations tell it."""
        return f"{self.name}@{self.version}"

    def rule(self, signal: Signal) -> EffectRule | FallRule | None:
        """The first rule for a signal; None if it is only recorded."""
        return next((r for r in self.rules if fnmatch(signal.key, r.signal)), None)


def load_drift_policy(name: str, folder: Path) -> DriftPolicy:
    """Load a policy by name from a folder, or from a YAML file.

    Raises:
        ConfigError: There is none, or it has mistakes.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
        msg = f"no drift policy '{name}'; give one of {known or 'none'}, or a YAML file"
        raise ConfigError(msg)
    value, lines = read_yaml(path)
    found = parse_model(DriftPolicy, value, path=path, lines=lines)
    for rule in found.rules:
        if isinstance(rule, EffectRule) and rule.clear > rule.above:
            msg = f"{path}: rule {rule.signal}: clear {rule.clear} is above {rule.above}; lower it"
            raise ConfigError(msg)
    return found
