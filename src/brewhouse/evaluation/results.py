"""The schema of results.json: what a gate, a report and a person read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from brewhouse.errors import ConfigError
from brewhouse.files import read_json, write_json

SCHEMA_VERSION = 1


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Estimate(_Model):
    """A value with its interval; None where it cannot be computed."""

    value: float | None
    low: float | None = None
    high: float | None = None


class ScorerResult(_Model):
    """Metrics of one scorer on one task."""

    auc: Estimate
    gauc: float | None
    ndcg_at_10: float | None
    log_loss: float | None
    normalised_entropy: float | None
    ece: float | None


class SliceResult(_Model):
    """AUC of every scorer on part of a task's rows."""

    dimension: str
    value: str
    n: int
    positives: int
    auc: dict[str, float | None]


class TaskResult(_Model):
    """One task: rows, scorers, slices, differences."""

    name: str
    version: int
    tier: str
    surface: str
    phrase: str
    horizon_weeks: int
    n: int
    positives: int
    excluded: int = Field(description="Rows whose action counts neither as yes nor as no")
    members: int
    groups: int = Field(description="Members with both classes, those that count in GAUC")
    n_min: int
    higher_is_better: bool
    base_rate: float
    sampled_negatives: bool
    scorers: dict[str, ScorerResult]
    difference: dict[str, Estimate] = Field(description="AUC of the ranker minus that of a scorer")
    slices: list[SliceResult]
    reliability: dict[str, list[list[float]]]


class Check(_Model):
    """A property of the evaluation itself, such as the canary."""

    name: str
    value: float
    limit: float
    passed: bool
    detail: str


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
    code: str
    tasks: list[TaskResult]
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
            return cls.model_validate(read_json(path))
        except (OSError, ValueError) as error:
            msg = f"{path}: no results of schema version {SCHEMA_VERSION}: {error}"
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
