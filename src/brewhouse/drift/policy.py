"""Drift policies: YAML, what counts as drift, who is told, and when a model is trained again."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatch
from importlib.resources import files
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


RAISED = 1.25
"""By how much each dismissal of an incident as noise raises what its signal must exceed."""
MOST_RAISED = 2.0


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

    def raised(self, times: int) -> EffectRule:
        """The rule after so many of its incidents were dismissed as noise."""
        factor = min(MOST_RAISED, RAISED**times)
        return self.model_copy(update={"above": self.above * factor, "clear": self.clear * factor})


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

    def raised(self, times: int) -> FallRule:
        """The rule after so many of its incidents were dismissed as noise."""
        factor = min(MOST_RAISED, RAISED**times)
        return self.model_copy(update={"tolerated": self.tolerated * factor})


Rule = Annotated[EffectRule | FallRule, Field(discriminator="kind")]


class InputMethods(Strict):
    """How Evidently compares inputs of a window with those of the reference; never by its defaults.

    Both distances are effects: 0 for the same, whatever the number of rows.
    """

    numeric: Literal["wasserstein", "jensenshannon", "hellinger"] = Field(
        default="wasserstein", description="Wasserstein is in standard deviations of the reference"
    )
    categorical: Literal["jensenshannon", "hellinger"] = Field(default="jensenshannon")
    sample: int = Field(default=5000, ge=200, description="Rows at most of either side")
    most_values: int = Field(
        default=50, ge=2, description="Text columns with more values are not compared"
    )


class Economics(Strict):
    """What a retraining costs and what the metric is worth, in one unit of the owner's choice."""

    retrain_cost: float = Field(default=1.0, gt=0, description="Of one retraining")
    auc_week: float = Field(
        default=20.0, ge=0, description="Of 1.0 mean AUC for a week; at 20, .01 is worth .2 a week"
    )
    margin: float = Field(
        default=0.01, gt=0, description="Fall of the mean AUC that the gate would not let pass"
    )


class DriftPolicy(Strict):
    """YAML of a drift policy."""

    name: str
    version: int = Field(ge=1)
    window_days: int = Field(default=7, ge=1, description="Days of a window, judged as one")
    maturity_days: int = Field(
        default=3, ge=0, description="Days after which the label of a row shown is final"
    )
    sessions_per_day: int = Field(
        default=300, ge=1, description="Sessions scored again of each day, drawn by a hash"
    )
    inputs: InputMethods = InputMethods()
    economics: Economics = Economics()
    warm_up_windows: int = Field(
        default=4,
        ge=2,
        description="First windows of a metric that may fall: measured, never judged",
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


def load_drift_policy(name: str, folder: Path | None = None) -> DriftPolicy:
    """Load a policy by name from a folder, or from a YAML file.

    Args:
        name: Name, or path of a YAML file.
        folder: Where named ones are; those that come with the project if None.

    Raises:
        ConfigError: There is none, or it has mistakes.
    """
    folder = folder or Path(str(files("brewhouse.monitoring") / "policies"))
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
        about_performance = rule.signal.startswith(f"{Kind.PERFORMANCE}/")
        if isinstance(rule, FallRule) != about_performance:
            fitting = "fall" if about_performance else "effect"
            msg = f"{path}: rule {rule.signal}: kind {rule.kind} is never judged; make it {fitting}"
            raise ConfigError(msg)
    return found
