"""Pages of drift: what stands, why, and what on-call does about it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException

from brewhouse.console.desk import Desk
from brewhouse.console.pages import base_of, open_desk, render
from brewhouse.drift.incidents import Status, Step
from brewhouse.errors import BrewhouseError, ConfigError, LifecycleError, PermissionDenied
from brewhouse.registry.approvals import Actor
from brewhouse.release.incidents import LONGEST, ROLE, STEPS

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
WINDOWS = 60
_TOLD = {
    Step.ACKNOWLEDGE: "Acknowledge",
    Step.SNOOZE: "Snooze",
    Step.DISMISS: "Dismiss as noise",
    Step.RESOLVE: "Resolve",
}
_OPEN_TO = {
    Status.OPEN: STEPS,
    Status.ACKNOWLEDGED: (Step.SNOOZE, Step.DISMISS, Step.RESOLVE),
    Status.SNOOZED: (Step.ACKNOWLEDGE, Step.DISMISS, Step.RESOLVE),
    Status.DISMISSED: (Step.RESOLVE,),
    Status.RESOLVED: (),
}
_CODES = {ConfigError: 422, LifecycleError: 409, PermissionDenied: 403}


@router.get("/drift")
def drift(request: Request) -> Response:
    """Incidents that stand, retrainings, and the windows that were judged."""
    desk, actor = open_desk(request)
    everything = desk.drift.incidents(live=False)
    standing = [k for k in everything if k.incident.status is not Status.RESOLVED]
    return render(
        request,
        desk,
        actor,
        "drift.html",
        standing=standing,
        past=[k for k in reversed(everything) if k.incident.status is Status.RESOLVED][:WINDOWS],
        triggers=list(reversed(desk.drift.triggers())),
        evaluations=list(reversed(desk.drift.evaluations()))[:WINDOWS],
        here="drift",
    )


@router.get("/drift/incidents/{number}")
def incident(request: Request, number: str) -> Response:
    """One incident: why, its history, and what may be done."""
    desk, actor = open_desk(request)
    return _incident(request, desk, actor, _number(number))


@router.post("/drift/incidents/{number}/steps")
def step(
    request: Request,
    number: str,
    act: str = Form(""),
    reason: str = Form(""),
    until: str = Form(""),
    token: str = Form(""),
) -> Response:
    """Do a step; what was typed is shown again where it cannot be done."""
    desk: Desk = request.app.state.desk
    place = _number(number)
    actor = desk.writer(request, act, f"incident {place}", token=token)
    typed = {"act": act, "reason": reason, "until": until}
    try:
        if act not in set(STEPS):
            msg = f"the form asks for '{act[:40]}'; open the page again"
            raise ConfigError(msg)
        desk.handle(request, actor, place, Step(act), reason=reason, until=_day(until))
    except (ConfigError, LifecycleError, PermissionDenied) as error:
        return _incident(request, desk, actor, place, error=error, typed=typed)
    return RedirectResponse(f"{base_of(request)}/drift/incidents/{place}", 303)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise HTTPException(404, f"there is no incident '{text[:40]}'")
    return int(text)


def _day(text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        msg = f"a snooze needs its last day as YYYY-MM-DD, got {text[:40]!r}"
        raise ConfigError(msg) from error


def _incident(
    request: Request,
    desk: Desk,
    actor: Actor,
    number: int,
    *,
    error: BrewhouseError | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    kept = desk.drift.incident(number)
    one = kept.incident
    told = [
        (evaluation["window"], finding)
        for evaluation in reversed(desk.drift.evaluations(one.version))
        for finding in evaluation["told"]
        if finding["key"] == one.key
    ]
    today = desk.release.ledger.clock().date()
    on_call = desk.release.policy.holds(actor, ROLE)
    return render(
        request,
        desk,
        actor,
        "incident.html",
        code=200 if error is None else _CODES[type(error)],
        kept=kept,
        steps=desk.drift.steps(number),
        told=told[:WINDOWS],
        may=_OPEN_TO[one.status],
        names=_TOLD,
        refused="" if on_call else f"{actor.name} lacks the role {ROLE}",
        policy=desk.release.policy,
        first_day=today.isoformat(),
        last_day=(today + LONGEST).isoformat(),
        error=str(error) if error else "",
        typed=typed or {"act": "", "reason": "", "until": ""},
        here="drift",
    )
