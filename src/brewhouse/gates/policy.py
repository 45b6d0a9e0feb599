"""Gate policies: YAML, one described model a kind of rule."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.spec import Strict


class MeanFloor(Strict):
    """The ranker's mean AUC over a tier must reach a floor."""

    kind: Literal["mean_floor"]
    tier: Literal["T1", "T2"] | None = None
    at_least: float = Field(ge=0, le=1)


class MeanLift(Strict):
    """The ranker's mean AUC must exceed that of another scorer by a margin."""

    kind: Literal["mean_lift"]
    over: str = Field(description="Scorer to compare with, such as popularity")
    tier: Literal["T1", "T2"] | None = None
    at_least: float


class Calibration(Strict):
    """Mean expected calibration error over T1 tasks with natural negatives stays below a limit."""

    kind: Literal["calibration"]
    at_most: float = Field(gt=0)


class EnoughRows(Strict):
    """A share of the tasks must have their `n_min` rows; else nothing can be concluded."""

    kind: Literal["enough_rows"]
    tier: Literal["T1", "T2"] | None = None
    share: float = Field(default=1.0, gt=0, le=1)


class CheckPassed(Strict):
    """A check of the evaluation must have passed."""

    kind: Literal["check"]
    name: str


class TiersProved(Strict):
    """The training manifest must prove the gap of T1 and the absence of T2."""

    kind: Literal["tiers_proved"]


class NonInferior(Strict):
    """Mean AUC over common tasks may not fall more than a margin below the champion's."""

    kind: Literal["non_inferior_to_champion"]
    margin: float = Field(ge=0)


Rule = Annotated[
    MeanFloor | MeanLift | Calibration | EnoughRows | CheckPassed | TiersProved | NonInferior,
    Field(discriminator="kind"),
]


class Policy(Strict):
    """A named, versioned list of rules."""

    name: str
    version: int = Field(ge=1)
    rules: list[Rule] = Field(min_length=1)


def load_policy(name_or_path: str) -> Policy:
    """Read a policy that comes with the project, by name, or a YAML file.

    Raises:
        ConfigError: No such policy, or one with mistakes (file, line, field).
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = Path(str(resources.files("brewhouse.gates") / "policies" / f"{name_or_path}.yaml"))
    value, lines = read_yaml(path)
    return parse_model(Policy, value, path=path, lines=lines)
