"""A task: surface, question, answers, label rule and tier."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from brewhouse.domains.spec import Strict

Tier = Literal["T1", "T2"]


class TaskSpec(Strict):
    """One task as written in YAML; what is left out is filled from its surface."""

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
    phrase: str = Field(description="The question in words, for people and the table1 layout")
    metric: Literal["auc"] = Field(default="auc", description="Headline metric")
    higher_is_better: bool = Field(default=True, description="Direction of the headline metric")
    n_min: int = Field(default=200, ge=1, description="Rows below which no verdict is given")


class TaskFile(Strict):
    """A file of tasks that share a surface."""

    surface: str = Field(description="Surface the tasks ask about")
    owner: str = Field(default="ranking", description="Team that answers for the tasks")
    tasks: list[TaskSpec] = Field(min_length=1)


class Task(Strict):
    """A task with everything resolved. Hashable by name and version."""

    name: str
    version: int
    tier: Tier
    surface: str
    owner: str
    positive: tuple[str, ...]
    negative: tuple[str, ...]
    question: str | None
    answers: tuple[str, str] | None
    phrase: str
    metric: str
    higher_is_better: bool
    n_min: int

    @property
    def key(self) -> str:
        """Name and version, as manifests record it."""
        return f"{self.name}@{self.version}"
