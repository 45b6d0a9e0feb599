"""What pages and API share: who asks, whether they may, and the service beneath."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from brewhouse.console.config import ConsoleConfig, check_config
from brewhouse.console.guard import Guard
from brewhouse.console.identity import Identifier, UnknownActorError, address, identifier
from brewhouse.console.promotions import Promotions
from brewhouse.drift.incidents import Step
from brewhouse.errors import LifecycleError, PermissionDenied
from brewhouse.platform.drift_log import DriftLog, Kept
from brewhouse.registry.approvals import Actor
from brewhouse.registry.lifecycle import Act
from brewhouse.release.incidents import handle
from brewhouse.release.service import Release
from brewhouse.release.versions import Version

if TYPE_CHECKING:
    from starlette.requests import Request

SIGN_IN = "sign-in"


@dataclass(frozen=True, kw_only=True)
class Desk:
    """One console: its configuration and everything behind it."""

    config: ConsoleConfig
    release: Release
    identifier: Identifier
    guard: Guard
    promotions: Promotions
    drift: DriftLog

    @classmethod
    def open(cls, config: ConsoleConfig, release: Release) -> Desk:
        """Put a console together.

        Raises:
            ConfigError: The configuration would let anyone in.
        """
        check_config(config)
        return cls(
            config=config,
            release=release,
            identifier=identifier(config),
            guard=Guard(config, release.ledger, release.model),
            promotions=Promotions(release.settings),
            drift=DriftLog(release.ledger.database, release.model, clock=release.ledger.clock),
        )

    def reader(self, request: Request) -> Actor:
        """Who asks, if they may read.

        Raises:
            UnknownActorError: Nobody is signed in; recorded if somebody claims to be.
            PermissionDenied: They may not read; recorded.
        """
        try:
            actor = self.identifier.actor(request)
        except UnknownActorError as error:
            if error.claimed.name != "unknown":
                self.guard.record(request, error.claimed, SIGN_IN, "", str(error))
            raise
        if not self.release.policy.holds(actor, "viewer"):
            key = self.release.policy.key
            msg = f"{actor.name} lacks the role viewer; policy {key} says who has it"
            self.guard.record(request, actor, "view", "", msg)
            raise PermissionDenied(msg)
        return actor

    def writer(self, request: Request, act: str, number: str, *, token: str | None = None) -> Actor:
        """Who decides, if the request comes from this console.

        Args:
            request: The request.
            act: What they want, for the record.
            number: Version, for the record.
            token: Of the form; None where no form sent it.

        Raises:
            UnknownActorError: Nobody is signed in; recorded.
            PermissionDenied: The request does not come from here; recorded.
        """
        try:
            actor = self.identifier.actor(request)
        except UnknownActorError as error:
            self.guard.record(request, error.claimed, act, number, str(error))
            raise
        try:
            self.guard.check_source(request)
            if token is not None:
                self.guard.check_token(request, actor, token)
        except PermissionDenied as error:
            self.guard.record(request, actor, act, number, str(error))
            raise
        return actor

    def decide(
        self,
        request: Request,
        actor: Actor,
        act: Act,
        number: str,
        *,
        reason: str,
        revision: int,
        until: str,
    ) -> Version:
        """Take a decision; an order starts its promote run.

        Raises:
            BrewhouseError: As `Release.decide`; a run that cannot be started leaves the order.
        """
        found = self.release.decide(
            act,
            number,
            actor,
            reason=reason,
            revision=revision,
            until=until,
            address=address(request),
        )
        if act is Act.ORDER:
            self.promotions.start(found)
        return found

    def start(self, version: Version, actor: Actor) -> None:
        """Carry out a standing order again, where a run failed or died.

        Raises:
            PermissionDenied: The actor may not order promotions.
            LifecycleError: Nobody ordered it.
        """
        self.release.policy.authorize(actor, Act.ORDER, list(version.entries))
        if version.entries[-1].act != Act.ORDER:
            msg = f"version {version.version} is {version.state} and nobody ordered its promotion"
            raise LifecycleError(msg)
        self.promotions.start(version)

    def handle(
        self,
        request: Request,
        actor: Actor,
        number: int,
        what: Step,
        *,
        reason: str,
        until: date | None,
    ) -> Kept:
        """Do a step to an incident; refusals are recorded.

        Raises:
            BrewhouseError: As `release.incidents.handle`.
        """
        try:
            return handle(
                self.drift,
                self.release.settings,
                actor,
                number,
                what,
                reason=reason,
                until=until,
                policy=self.release.policy,
            )
        except (PermissionDenied, LifecycleError) as error:
            self.guard.record(request, actor, what.value, f"incident {number}", str(error))
            raise
