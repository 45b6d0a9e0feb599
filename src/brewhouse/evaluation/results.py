"""The schema of results.json: what a gate, a report and a person read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from brewhouse.errors import ConfigError
from brewhouse.files import read_json, write_json

SCHEMA_VERSION = 2
METRICS = ("auc", "gauc", "ndcg_at_10", "log_loss", "normalised_entropy", "ece")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Estimate(_Model):
    """A value with its interval; None where it cannot be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ScorerResult(_Model):
    """Metrics of one scorer on one task, each with its interval."""

    auc: Estimate
    gauc: Estimate
    ndcg_at_10: Estimate
    log_loss: Estimate
    normalised_entropy: Estimate
    ece: Estimate

    def of(self, metric: str) -> Estimate:
        """By name."""
        found: Estimate = getattr(self, metric)
        return found


class MetricRule(_Model):
    """A metric that the task may be compared by."""

    name: str
    margin: float
    higher_is_better: bool


class SliceResult(_Model):
    """AUC of every scorer on part of a task's rows."""

    dimension: str
    value: str
    n: int
    positives: int
    auc: dict[str, float | None]
    ranker: Estimate = Field(description="With its interval (Obuchowski, 1997)")
    difference: Estimate = Field(
        description="AUC of the ranker minus that of the production model, with its interval"
    )


class TaskResult(_Model):
    """One task: rows, scorers, slices, differences."""

    name: str
    version: int
    tier: str
    surface: str
    phrase: str
    owner: str = ""
    licence: str = ""
    horizon_weeks: int
    n: int
    positives: int
    excluded: int = Field(description="Rows whose action counts neither as yes nor as no")
    members: int
    groups: int = Field(description="Members with both classes, those that count in GAUC")
    n_min: int
    metrics: list[MetricRule] = Field(description="The headline first")
    base_rate: float
    sampled_negatives: bool
    prior: float | None = Field(
        default=None, description="Natural share of yes that losses and calibration are told for"
    )
    scorers: dict[str, ScorerResult]
    difference: dict[str, dict[str, Estimate]] = Field(
        description="Ranker minus scorer, paired, by scorer and metric of the task"
    )
    delong: dict[str, Estimate] = Field(
        default={}, description="The same of AUC by DeLong's method, a check of the bootstrap"
    )
    smallest_margin: float | None = Field(
        default=None,
        description="Margin of AUC against production that these rows support with power 0.8",
    )
    rows_digest: str = Field(description="Of row ids and labels")
    draws: dict[str, dict[str, list[int]]] = Field(
        default={},
        description="Metrics of the ranker and of production by resample, in millionths: where two "
        "results have the same rows and draws_digest, resamples are paired",
    )
    slices: list[SliceResult]
    reliability: dict[str, list[list[float]]]


class Check(_Model):
    """A property of the evaluation itself, such as the canary."""

    name: str
    value: float
    limit: float
    passed: bool
    detail: str


class PeerResult(_Model):
    """Another model that was asked the rows of a probe with as little known."""

    auc: float = Field(description="Mean over the probe's tasks")
    lead: Estimate = Field(description="The ranker's mean AUC from the changed prompts less this")


class ProbeResult(_Model):
    """The same rows scored from prompts that were changed on purpose."""

    name: str
    kind: Literal["history", "style"]
    tasks: int
    rows: int
    auc: float = Field(description="Mean over T1 tasks, from the changed prompts")
    ordinary_auc: float = Field(description="The same from the prompts that are served")
    cost: Estimate = Field(description="Ordinary minus changed")
    by_task: dict[str, float]
    ordinary_by_task: dict[str, float]
    peers: dict[str, PeerResult] = Field(
        default={}, description="Baselines by name, where they were asked with as little known"
    )


class Results(_Model):
    """Everything an evaluation found."""

    schema_version: int = SCHEMA_VERSION
    domain: str
    domain_version: int
    snapshot: str
    model: dict[str, Any]
    split: dict[str, Any]
    seed: int
    resamples: int
    draws_digest: str = Field(description="Of the members drawn from, the seed and their number")
    code: str
    tasks: list[TaskResult]
    capped: dict[int, list[TaskResult]] = Field(
        default={},
        description="The tasks again, on rows of members with at most so many known interactions",
    )
    probes: list[ProbeResult] = []
    checks: list[Check]
    cost: dict[str, float]
    router: dict[str, float] = {}
    proofs: list[str]
    notes: list[str]
    production: str = Field(
        default="", description="Scorer that stands in for the production model, if it was trained"
    )

    def write(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read back.

        Raises:
            ConfigError: There are no results, or of another schema.
        """
        try:
            value = read_json(path)
        except (OSError, ValueError) as error:
            msg = f"{path}: no results can be read: {error}; give a results.json of an evaluation"
            raise ConfigError(msg) from error
        version = value.get("schema_version") if isinstance(value, dict) else None
        if version != SCHEMA_VERSION:
            msg = (
                f"{path}: results of schema version {version}, but this release reads "
                f"{SCHEMA_VERSION}; evaluate the model again"
            )
            raise ConfigError(msg)
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            msg = f"{path}: {where}: {first['msg']}; evaluate the model again"
            raise ConfigError(msg) from error

    def mean_auc(self, scorer: str, tier: str | None = None) -> float | None:
        """Mean AUC over tasks where the scorer and the ranker both have one."""
        values = [
            task.scorers[scorer].auc.value
            for task in self.tasks
            if (tier is None or task.tier == tier)
            and scorer in task.scorers
            and task.scorers["ranker"].auc.value is not None
        ]
        known = [v for v in values if v is not None]
        return sum(known) / len(known) if known else None
