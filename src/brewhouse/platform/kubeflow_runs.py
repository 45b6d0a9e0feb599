"""Runs of Kubeflow Pipelines and their steps, as the server tells them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

FINISHED = ("SUCCEEDED", "SKIPPED", "FAILED", "CANCELED")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One step of a run: `pods` are those that may hold its log."""

    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    pods: tuple[str, ...]
    error: str

    @property
    def seconds(self) -> float | None:
        """How long it took; None while it has not ended."""
        if self.started is None or self.ended is None:
            return None
        return (self.ended - self.started).total_seconds()


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run as the server tells it; `fresh` says whether this call started it."""

    id: str
    name: str
    state: str
    started: datetime | None
    ended: datetime | None
    error: str
    arguments: dict[str, Any]
    tasks: tuple[Task, ...] = ()
    fresh: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in FINISHED


def run_of(value: Any, *, fresh: bool = False) -> Run:
    """A run from the SDK's own."""
    details = (value.run_details.task_details if value.run_details else None) or []
    config = value.runtime_config
    return Run(
        id=str(value.run_id),
        name=str(value.display_name),
        state=str(value.state or "PENDING"),
        started=value.created_at,
        ended=value.finished_at if str(value.state) in FINISHED else None,
        error=str(value.error.message) if value.error else "",
        arguments=dict(config.parameters or {}) if config else {},
        tasks=tuple(_task(d) for d in details if _is_step(str(d.display_name))),
        fresh=fresh,
    )


def _is_step(name: str) -> bool:
    """Whether a node of the workflow is a step of ours, not what carries it out."""
    return not (name in ("root", "executor") or name.endswith("-driver") or "exit-handler" in name)


def _task(value: Any) -> Task:
    children = [str(child.pod_name) for child in value.child_tasks or [] if child.pod_name]
    own = [str(value.pod_name)] if value.pod_name else []
    return Task(
        name=str(value.display_name),
        state=str(value.state or "PENDING"),
        started=value.start_time,
        ended=value.end_time if str(value.state) in FINISHED else None,
        pods=(*children, *own),
        error=str(value.error.message) if value.error else "",
    )
