"""A task: surface, question, answers, label rule, metrics, margins, slices and tier."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from brewhouse.domains.strict import Strict

Tier = Literal["T1", "T2"]
MetricName = Literal["auc", "gauc", "ndcg_at_10", "log_loss", "normalised_entropy", "ece"]
HIGHER_IS_BETTER: dict[str, bool] = {
    "auc": True,
    "gauc": True,
    "ndcg_at_10": True,
    "log_loss": False,
    "normalised_entropy": False,
    "ece": False,
}


class MetricSpec(Strict):
    """A metric a task is judged by, and how much of it may be lost."""

    name: MetricName = Field(description="What is measured")
    margin: float = Field(
        default=0.01, gt=0, description="Loss of the metric that still counts as not worse"
    )
    higher_is_better: bool | None = Field(
        default=None, description="Direction; it must be that of the metric, and may be left out"
    )

    @model_validator(mode="after")
    def _direction(self) -> MetricSpec:
        known = HIGHER_IS_BETTER[self.name]
        if self.higher_is_better not in (None, known):
            word = str(known).lower()
            msg = f"{self.name} has higher_is_better: {word}; correct it or leave it out"
            raise ValueError(msg)
        return self

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if HIGHER_IS_BETTER[self.name] else -1


class HistoryRule(Strict):
    """Which rows a task is about, by the member's known interactions at their moment."""

    at_least: int = Field(default=0, ge=0, description="Fewest known interactions")
    at_most: int | None = Field(default=None, ge=0, description="Most known interactions")

    @model_validator(mode="after")
    def _order(self) -> HistoryRule:
        if self.at_most is not None and self.at_most < self.at_least:
            msg = f"at_most ({self.at_most}) is below at_least ({self.at_least}); no row is left"
            raise ValueError(msg)
        return self


class TaskSpec(Strict):
    """One task as written in YAML; what is left out is filled from its file and its surface."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Unique name")
    version: int = Field(default=1, ge=1, description="Raise it when the label rule changes")
    tier: Tier = Field(description="T1: in training; T2: surface or task absent from training")
    positive: list[str] = Field(min_length=1, description="Actions that count as yes")
    negative: list[str] | None = Field(
        default=None, description="Actions that count as no; default: all others of the surface"
    )
    question: str | None = Field(
        default=None, description="Words before the item; default: the surface's word"
    )
    answers: tuple[str, str] | None = Field(
        default=None, description="Words for yes and no; default: the action words themselves"
    )
    phrase: str = Field(
        min_length=1, description="The question in words, for people and the table1 layout"
    )
    candidates: Literal["logged", "sampled"] | None = Field(
        default=None,
        description="Whether negatives were shown to the member (logged) or drawn by the domain's "
        "policy (sampled); it must be what the domain does on the surface, and may be left out",
    )
    prior: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Natural share of yes where negatives are sampled: losses and calibration are "
        "then reported for it",
    )
    history: HistoryRule = Field(
        default=HistoryRule(), description="Rows it is about, by length of history"
    )
    slices: list[str] | None = Field(
        default=None, description="Slice dimensions; default: all that the domain has"
    )
    metrics: list[MetricSpec] = Field(
        default=[MetricSpec(name="auc")],
        min_length=1,
        description="Metrics that a gate may compare, the headline first",
    )
    n_min: int = Field(default=200, ge=1, description="Rows below which no verdict is given")
    owner: str | None = Field(default=None, description="Team; default: the file's")
    licence: str | None = Field(
        default=None, description="Of the data that labels it; default: the file's or the domain's"
    )


class TaskFile(Strict):
    """A file of tasks that share a surface."""

    surface: str = Field(description="Surface the tasks ask about")
    owner: str = Field(default="ranking", description="Team that answers for the tasks")
    licence: str | None = Field(default=None, description="Default: the domain's")
    tasks: list[TaskSpec] = Field(min_length=1)


class Task(Strict):
    """A task with everything resolved. Hashable by name and version."""

    name: str
    version: int
    tier: Tier
    surface: str
    owner: str
    licence: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    question: str | None
    answers: tuple[str, str] | None
    phrase: str
    candidates: Literal["logged", "sampled"]
    prior: float | None
    history: HistoryRule
    slices: tuple[str, ...]
    metrics: tuple[MetricSpec, ...]
    n_min: int

    @property
    def key(self) -> str:
        """Name and version, as manifests record it."""
        return f"{self.name}@{self.version}"
