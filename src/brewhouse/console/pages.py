"""The pages: server-rendered, usable without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from functools import lru_cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException

from brewhouse.console.desk import Desk
from brewhouse.console.evidence import evidence, part
from brewhouse.console.guard import SESSION, new_session
from brewhouse.errors import (
    BrewhouseError,
    ConfigError,
    LifecycleError,
    PermissionDenied,
    TamperError,
)
from brewhouse.registry.approvals import Actor
from brewhouse.registry.lifecycle import Act, State
from brewhouse.release.dossier import PARTS
from brewhouse.release.versions import Version

router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
EXPERIMENT = "brewhouse"
RUNS = 100
ROWS = 200
_REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""A dossier's page is data: it may be looked at and nothing else."""
_TOLD = {
    Act.APPROVE: "Approve",
    Act.REJECT: "Reject",
    Act.WAIVE: "Waive the verdict",
    Act.ORDER: "Promote",
}


@router.get("/")
def candidates(request: Request) -> Response:
    """Versions with their verdicts, those that wait first."""
    desk, actor = open_desk(request)
    found = desk.release.versions()
    waiting = [v for v in found if v.state in (State.PENDING_APPROVAL, State.EVALUATED)]
    return render(
        request, desk, actor, "candidates.html", versions=found, waiting=waiting, here="candidates"
    )


@router.get("/versions/{number}")
def version(request: Request, number: str) -> Response:
    """The evidence of a version, and what may be decided about it."""
    desk, actor = open_desk(request)
    return _version(request, desk, actor, desk.release.version(number))


@router.get("/versions/{number}/dossier/{name}")
def dossier(request: Request, number: str, name: str) -> Response:
    """A part of the dossier."""
    desk, _ = open_desk(request)
    found = desk.release.version(number)
    try:
        content, kind = part(found, name)
    except KeyError as error:
        raise HTTPException(404, f"the dossier has no part '{name}'") from error
    return Response(content, media_type=kind, headers={"Content-Security-Policy": _REPORT_POLICY})


@router.post("/versions/{number}/decisions")
def decide(
    request: Request,
    number: str,
    act: str = Form(""),
    reason: str = Form(""),
    revision: str = Form(""),
    until: str = Form(""),
    token: str = Form(""),
) -> Response:
    """Take a decision; what was typed is shown again where it cannot be taken."""
    desk: Desk = request.app.state.desk
    actor = desk.writer(request, act, number, token=token)
    if act not in _TOLD or not revision.isdecimal():
        msg = f"the form asks for '{act[:40]}' at revision '{revision[:20]}'; open the page again"
        raise ConfigError(msg)
    try:
        desk.decide(
            request,
            actor,
            Act(act),
            number,
            reason=reason,
            revision=int(revision),
            until=until,
        )
    except (ConfigError, LifecycleError, PermissionDenied, TamperError) as error:
        typed = {"act": act, "reason": reason, "until": until}
        found = desk.release.version(number)
        return _version(request, desk, actor, found, error=error, typed=typed)
    return RedirectResponse(f"{base_of(request)}/versions/{number}", 303)


@router.post("/versions/{number}/promotion")
def promotion(request: Request, number: str, token: str = Form("")) -> Response:
    """Start the promote run of a standing order again."""
    desk: Desk = request.app.state.desk
    actor = desk.writer(request, "promotion", number, token=token)
    desk.start(desk.release.version(number), actor)
    return RedirectResponse(f"{base_of(request)}/versions/{number}", 303)


@router.get("/champion")
def champion(request: Request) -> Response:
    """Champions, the newest first, and the way back to each."""
    desk, actor = open_desk(request)
    reigns = [e for e in desk.release.ledger.entries(desk.release.model) if e.act == Act.PROMOTE]
    return render(
        request,
        desk,
        actor,
        "champion.html",
        champion=desk.release.champion(),
        reigns=list(reversed(reigns)),
        states={v.version: v.state.value for v in desk.release.versions()},
        here="champion",
    )


@router.get("/ledger")
def ledger(request: Request, verify: bool = False) -> Response:
    """The record of decisions and refusals, verified on demand."""
    desk, actor = open_desk(request)
    entries = desk.release.ledger.entries()
    return render(
        request,
        desk,
        actor,
        "ledger.html",
        entries=list(reversed(entries))[:ROWS],
        count=len(entries),
        refusals=list(reversed(desk.release.ledger.refusals()))[:ROWS],
        findings=desk.release.verify() if verify else None,
        here="ledger",
    )


@router.get("/runs")
def runs(request: Request) -> Response:
    """Runs that made candidates."""
    desk, actor = open_desk(request)
    registry = desk.release.registry
    of_run = {v.run_id: v.version for v in registry.versions(desk.release.model).values()}
    found = registry.runs(EXPERIMENT, RUNS)
    return render(request, desk, actor, "runs.html", runs=found, of_run=of_run, here="runs")


def problem(request: Request, code: int, message: str, headers: Mapping[str, str]) -> Response:
    """A page that says what went wrong."""
    text = (
        _templates()
        .get_template("problem.html")
        .render(base=base_of(request), code=code, message=message, actor=None, here="", config=None)
    )
    return HTMLResponse(text, code, headers=dict(headers))


def open_desk(request: Request) -> tuple[Desk, Actor]:
    """The desk, and who reads."""
    desk: Desk = request.app.state.desk
    return desk, desk.reader(request)


def base_of(request: Request) -> str:
    """Path under which a proxy serves the console."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def _version(
    request: Request,
    desk: Desk,
    actor: Actor,
    found: Version,
    *,
    error: BrewhouseError | None = None,
    typed: Mapping[str, str] | None = None,
) -> Response:
    today = desk.release.ledger.clock().date()
    last = today + timedelta(days=desk.release.policy.waiver_days)
    rollback = found.state is State.RETIRED
    codes = {ConfigError: 422, LifecycleError: 409, PermissionDenied: 403, TamperError: 503}
    return render(
        request,
        desk,
        actor,
        "version.html",
        code=200 if error is None else codes[type(error)],
        version=found,
        evidence=evidence(found),
        parts=PARTS,
        may=desk.release.may(actor, found),
        told=_TOLD | ({Act.ORDER: "Roll back to this version"} if rollback else {}),
        promotion=desk.promotions.status(found),
        ordered=found.entries[-1].act == Act.ORDER,
        policy=desk.release.policy,
        champion=desk.release.champion(),
        first_day=today.isoformat(),
        last_day=last.isoformat(),
        error=str(error) if error else "",
        typed=typed or {"act": "", "reason": "", "until": ""},
        here="candidates",
    )


def render(
    request: Request, desk: Desk, actor: Actor, template: str, *, code: int = 200, **values: Any
) -> Response:
    """A page, with what every page shows, and a session for its forms."""
    known = request.cookies.get(SESSION, "")
    session = known or new_session()
    text = (
        _templates()
        .get_template(template)
        .render(
            base=base_of(request),
            actor=actor,
            config=desk.config,
            token=desk.guard.token(actor, session),
            model=desk.release.model,
            **values,
        )
    )
    response = HTMLResponse(text, code)
    if not known:
        response.set_cookie(
            SESSION,
            session,
            httponly=True,
            samesite="strict",
            secure=desk.config.secure,
            path=base_of(request) or "/",
        )
    return response


@lru_cache(maxsize=1)
def _templates() -> Environment:
    folder = str(files("brewhouse.console") / "templates")
    found = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["number"] = lambda v, digits=3: "n/a" if v is None else f"{v:.{digits}f}"
    found.filters["moment"] = lambda text: str(text)[:16].replace("T", " ")
    found.filters["short"] = lambda digest: str(digest).removeprefix("sha256:")[:12]
    return found
