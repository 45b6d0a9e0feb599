"""JSON API of the same actions as the pages; OpenAPI at `api/openapi.json`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from brewhouse.console.desk import Desk
from brewhouse.registry.approvals import Actor
from brewhouse.registry.entries import Entry
from brewhouse.registry.lifecycle import Act

if TYPE_CHECKING:
    from brewhouse.release.versions import Version

Number = Annotated[str, Path(description="Version", min_length=1, max_length=40)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Why a request was not answered."""

    kind: str = Field(description="Class of the error, such as LifecycleError")
    message: str = Field(description="The problem, the value and the remedy")


class PromotionOut(_Model):
    """The promote run of a version's newest order, as this console knows it."""

    state: Literal["none", "running", "failed", "submitted"]
    detail: str


class VersionOut(_Model):
    """A version as it stands."""

    model: str
    version: str
    state: str
    expiry: str
    revision: int = Field(description="What a decision about it must name")
    author: str
    source: str
    tags: dict[str, str]
    acts: list[str] = Field(description="Open to those who have the role")
    entries: list[Entry]
    promotion: PromotionOut


class DecisionIn(_Model):
    """A person's decision."""

    act: Literal["approve", "reject", "waive", "order"] = Field(
        description="`order` promotes an approved version, and rolls back to a retired one"
    )
    reason: str = Field(max_length=4000, description="Someone will ask in a year")
    revision: int = Field(ge=0, le=2**31 - 1, description="Revision that the decision is about")
    until: str = Field(default="", max_length=10, description="Last day of a waiver, YYYY-MM-DD")


class ChampionOut(_Model):
    """The version in use; empty if there is none."""

    version: str


class LedgerOut(_Model):
    """Entries, and what verification found if it was asked for."""

    entries: list[Entry]
    findings: list[str] | None


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": what}
    for code, what in {
        400: "The request is malformed, or its Host is not answered",
        401: "Nobody is signed in",
        403: "The actor may not; recorded",
        404: "There is no such version or incident",
        409: "The state does not allow it, or somebody decided first; recorded",
        413: "The body is too long",
        415: "The body is not JSON",
        422: "The request is not understood",
        503: "Registry or ledger cannot be reached, or evidence was changed",
    }.items()
}
router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["release"])


def desk_of(request: Request) -> Desk:
    """The desk behind a request."""
    found: Desk = request.app.state.desk
    return found


def _reader(request: Request) -> Actor:
    return desk_of(request).reader(request)


Reader = Annotated[Actor, Depends(_reader)]


def _out(desk: Desk, version: Version) -> VersionOut:
    promotion = desk.promotions.status(version)
    return VersionOut(**version.public(), promotion=PromotionOut(**asdict(promotion)))


@router.get("/versions")
def versions(request: Request, _actor: Reader) -> list[VersionOut]:
    """List versions, newest first."""
    desk = desk_of(request)
    return [_out(desk, v) for v in desk.release.versions()]


@router.get("/versions/{number}")
def version(request: Request, number: Number, _actor: Reader) -> VersionOut:
    """Tell one version."""
    desk = desk_of(request)
    return _out(desk, desk.release.version(number))


@router.get("/champion")
def champion(request: Request, _actor: Reader) -> ChampionOut:
    """Tell the version in use."""
    return ChampionOut(version=desk_of(request).release.champion())


@router.get("/ledger")
def ledger(
    request: Request,
    _actor: Reader,
    verify: Annotated[bool, Query(description="Check chain, evidence and weights too")] = False,
) -> LedgerOut:
    """List entries in order."""
    release = desk_of(request).release
    findings = release.verify() if verify else None
    return LedgerOut(entries=release.ledger.entries(), findings=findings)


@router.post("/versions/{number}/decisions")
def decide(request: Request, number: Number, decision: Annotated[DecisionIn, Body()]) -> VersionOut:
    """Decide about a version; an order starts its promote run."""
    desk = desk_of(request)
    actor = desk.writer(request, decision.act, number)
    found = desk.decide(
        request,
        actor,
        Act(decision.act),
        number,
        reason=decision.reason,
        revision=decision.revision,
        until=decision.until,
    )
    return _out(desk, found)


@router.post("/versions/{number}/promotion")
def promotion(request: Request, number: Number) -> VersionOut:
    """Start the promote run of a standing order again."""
    desk = desk_of(request)
    actor = desk.writer(request, "promotion", number)
    found = desk.release.version(number)
    desk.start(found, actor)
    return _out(desk, found)
