"""JSON API of drift: incidents, what can be done to them, and retrainings that were ordered."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from brewhouse.console.api import ERRORS, Reader, desk_of
from brewhouse.console.desk import Desk
from brewhouse.drift.incidents import Step
from brewhouse.platform.drift_log import Kept
from brewhouse.platform.drift_triggers import Trigger

Incident = Annotated[int, Path(description="Incident", ge=1, le=2**31 - 1)]
Doing = Literal["acknowledge", "snooze", "dismiss", "resolve"]
router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["drift"])


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class StepOut(_Model):
    """What was done to an incident."""

    at: str
    step: str
    status: str
    actor: str
    reason: str
    until: str


class IncidentOut(_Model):
    """An incident as it stands."""

    number: int
    version: str
    signal: str
    severity: str
    status: str
    opened: date = Field(description="Last day of the window in which it opened")
    reason: str
    until: date | None = Field(description="Last day of a snooze")
    steps: list[StepOut]


class StepIn(_Model):
    """What on-call does to an incident."""

    step: Doing
    reason: str = Field(max_length=4000, description="Someone will ask in a year")
    until: date | None = Field(default=None, description="Last day of a snooze")


class TriggerOut(_Model):
    """An order to train again; `run` is empty until it was started."""

    trigger: str
    version: str
    window_start: date
    window_end: date
    reason: str
    run: str


def _out(desk: Desk, kept: Kept) -> IncidentOut:
    one = kept.incident
    fields = ("at", "step", "status", "actor", "reason", "until")
    steps: list[dict[str, Any]] = [
        {name: row[name] for name in fields} for row in desk.drift.steps(kept.number)
    ]
    return IncidentOut(
        number=kept.number,
        version=one.version,
        signal=one.key,
        severity=one.severity.value,
        status=one.status.value,
        opened=one.opened,
        reason=one.reason,
        until=one.until,
        steps=[StepOut(**row) for row in steps],
    )


def _trigger(one: Trigger) -> TriggerOut:
    return TriggerOut(
        trigger=one.trigger,
        version=one.version,
        window_start=one.window[0],
        window_end=one.window[1],
        reason=one.reason,
        run=one.run,
    )


@router.get("/incidents")
def incidents(
    request: Request,
    _actor: Reader,
    everything: Annotated[
        bool, Query(alias="all", description="Those that are resolved too")
    ] = False,
) -> list[IncidentOut]:
    """List incidents, oldest first."""
    desk = desk_of(request)
    return [_out(desk, kept) for kept in desk.drift.incidents(live=not everything)]


@router.get("/incidents/{number}")
def incident(request: Request, number: Incident, _actor: Reader) -> IncidentOut:
    """Tell one incident."""
    desk = desk_of(request)
    return _out(desk, desk.drift.incident(number))


@router.get("/triggers")
def triggers(request: Request, _actor: Reader) -> list[TriggerOut]:
    """List retrainings that were ordered, oldest first."""
    return [_trigger(one) for one in desk_of(request).drift.triggers()]


@router.post("/incidents/{number}/steps")
def step(request: Request, number: Incident, doing: Annotated[StepIn, Body()]) -> IncidentOut:
    """Acknowledge, snooze, dismiss as noise or resolve an incident."""
    desk = desk_of(request)
    actor = desk.writer(request, doing.step, f"incident {number}")
    kept = desk.handle(
        request, actor, number, Step(doing.step), reason=doing.reason, until=doing.until
    )
    return _out(desk, kept)
