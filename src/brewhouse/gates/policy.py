"""Gate policies: YAML, one described model a kind of rule.

The rules follow what Schultzberg, Ankargren & Frånberg (arXiv:2402.11609) ask of a decision over
several metrics: all guardrails are not inferior, something is better, nothing deteriorates, and the
evaluation itself is sound.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.strict import Strict
from brewhouse.tasks.spec import MetricName

Tiers = Literal["T1", "T2"] | None
Reference = Literal["champion", "production"]


class MeanFloor(Strict):
    """The ranker's mean AUC over a tier must reach a floor."""

    kind: Literal["mean_floor"]
    tier: Tiers = None
    at_least: float = Field(ge=0, le=1)


class TaskFloor(Strict):
    """A metric of every task of a tier, or of the named ones, must reach a floor."""

    kind: Literal["task_floor"]
    metric: MetricName = "auc"
    tier: Tiers = None
    tasks: list[str] = Field(default=[], description="Names; all of the tier if empty")
    limit: float = Field(description="A floor where more is better, a ceiling where less is")


class MeanLift(Strict):
    """The ranker's mean AUC must exceed that of another scorer by a margin."""

    kind: Literal["mean_lift"]
    over: str = Field(description="Scorer to compare with, such as popularity")
    tier: Tiers = None
    at_least: float


class NonInferior(Strict):
    """On every task the metric may not lie more than a margin below that of a reference.

    PASS for a task whose interval lies above minus the margin, FAIL where it lies below, else
    INCONCLUSIVE with the rows that are missing. Every task must pass, so levels are not split.
    """

    kind: Literal["non_inferior"]
    to: Reference
    metric: MetricName | None = Field(
        default=None, description="One metric; all that each task names if empty"
    )
    tier: Tiers = None
    tasks: list[str] = Field(default=[], description="Names; all of the tier if empty")
    margin: float | None = Field(default=None, gt=0, description="Each task's own if empty")
    level: float = Field(default=0.95, gt=0.5, lt=1, description="Of the two-sided interval")


class MeanNonInferior(Strict):
    """Mean AUC over common tasks may not lie more than a margin below that of a reference."""

    kind: Literal["mean_non_inferior"]
    to: Reference
    tier: Tiers = None
    margin: float = Field(gt=0)
    level: float = Field(default=0.95, gt=0.5, lt=1)


class Success(Strict):
    """At least one of the measures is better than the reference's; claims are kept by Holm."""

    kind: Literal["success"]
    over: Reference
    measures: list[Literal["suite", "T1", "T2", "cold"]] = Field(
        min_length=1,
        description="Means of AUC: all tasks, a tier, or T1 tasks of members with fewer than 10 "
        "known interactions",
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Chance of any false claim")


class NoDeterioration(Strict):
    """No task is proved worse than the reference's; claims are kept by Holm."""

    kind: Literal["no_deterioration"]
    to: Reference
    tier: Tiers = None
    alpha: float = Field(default=0.05, gt=0, lt=0.5)


class SliceRegression(Strict):
    """No slice is proved to have lost more than a bound against the reference."""

    kind: Literal["slices"]
    to: Reference
    at_most: float = Field(gt=0, description="Loss of AUC that is put up with")
    dimensions: list[str] = Field(default=[], description="All if empty")
    tier: Tiers = None
    n_min: int = Field(default=200, ge=2, description="Rows below which a slice is not judged")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="Over all slices (Holm)")


class Calibration(Strict):
    """Mean calibration error over T1 tasks with a natural base rate stays below a limit."""

    kind: Literal["calibration"]
    at_most: float = Field(gt=0)


class Cost(Strict):
    """What a candidate costs to score stays below limits."""

    kind: Literal["cost"]
    tokens_at_most: float | None = Field(default=None, gt=0, description="Tokens a candidate")
    ms_at_most: float | None = Field(default=None, gt=0, description="Milliseconds a candidate")
    ratio_at_most: float | None = Field(
        default=None, gt=0, description="Tokens a candidate over those of the champion"
    )


class EnoughRows(Strict):
    """A share of the tasks must have their `n_min` rows; else nothing can be concluded."""

    kind: Literal["enough_rows"]
    tier: Tiers = None
    share: float = Field(default=1.0, gt=0, le=1)


class CheckPassed(Strict):
    """A check of the evaluation must have passed."""

    kind: Literal["check"]
    name: str


class ProbeCost(Strict):
    """A probe must cost something, or must not: proof that history is read and wording is not."""

    kind: Literal["probe"]
    name: str = Field(description="Such as shuffled_labels, or the name of a style")
    at_least: float | None = Field(default=None, description="AUC it must cost")
    at_most: float | None = Field(default=None, description="AUC it may cost")


class TiersProved(Strict):
    """The training manifest must prove the gap of T1 and the absence of T2."""

    kind: Literal["tiers_proved"]


Rule = Annotated[
    MeanFloor
    | TaskFloor
    | MeanLift
    | NonInferior
    | MeanNonInferior
    | Success
    | NoDeterioration
    | SliceRegression
    | Calibration
    | Cost
    | EnoughRows
    | CheckPassed
    | ProbeCost
    | TiersProved,
    Field(discriminator="kind"),
]


RULES: dict[str, type[Strict]] = {
    get_args(kind.model_fields["kind"].annotation)[0]: kind for kind in get_args(get_args(Rule)[0])
}
"""Models of rules by kind."""


class Policy(Strict):
    """A named, versioned list of rules."""

    name: str
    version: int = Field(ge=1)
    champion: Literal["required", "optional"] = Field(
        default="optional",
        description="Whether there must be a champion; where there may be none, rules that compare "
        "with it pass without one",
    )
    required_tasks: list[str] = Field(
        default=[], description="Tasks that results must hold, by name"
    )
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
