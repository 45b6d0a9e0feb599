"""What a person does to an incident: who may, with what reason."""

from __future__ import annotations

from datetime import date, timedelta
from enum import StrEnum

from brewhouse.drift.incidents import Step
from brewhouse.errors import ConfigError, PermissionDenied
from brewhouse.platform.drift_log import DriftLog, Kept
from brewhouse.registry.approvals import Actor, ApprovalPolicy, load_approvals
from brewhouse.release.settings import Settings

ROLE = "oncall"
LONGEST = timedelta(days=90)
"""A snooze that outlasts a quarter is a dismissal that nobody owns."""
STEPS = (Step.ACKNOWLEDGE, Step.SNOOZE, Step.DISMISS, Step.RESOLVE)


def handle(
    log: DriftLog,
    settings: Settings,
    actor: Actor,
    number: int,
    what: Step,
    *,
    reason: str,
    until: date | None = None,
    policy: ApprovalPolicy | None = None,
) -> Kept:
    """Do a step to an incident.

    Args:
        log: Holds it.
        settings: Names the policy that says who is on call.
        actor: Who.
        number: Incident.
        what: One of `STEPS`.
        reason: Why.
        until: Last day of a snooze.
        policy: In place of the one that settings name.

    Raises:
        PermissionDenied: The actor is not on call.
        ConfigError: The reason or the day will not do.
        UnknownIncidentError: There is no such incident.
        LifecycleError: It is not in a status for this step.
    """
    rules = policy or load_approvals(settings.approvals)
    if what not in STEPS:
        msg = f"{what} is the monitor's; a person may {', '.join(STEPS)}"
        raise ConfigError(msg)
    _check(rules, actor, what, reason)
    if what is Step.SNOOZE:
        today = log.clock().date()
        if until is None or not today <= until <= today + LONGEST:
            msg = f"a snooze may end from {today} to {today + LONGEST}, got {until}"
            raise ConfigError(msg)
    return log.act(
        number,
        what,
        actor=actor.name,
        reason=reason.strip(),
        until=until if what is Step.SNOOZE else None,
    )


def order(
    log: DriftLog, settings: Settings, actor: Actor, version: str, day: date, *, reason: str
) -> str:
    """Order a retraining as a person; return its trigger. One a person and day.

    Raises:
        PermissionDenied: The actor is not on call.
        ConfigError: The reason will not do.
    """
    _check(load_approvals(settings.approvals), actor, Act.RETRAIN, reason)
    return log.order(version, day, actor=actor.name, reason=reason.strip())


class Act(StrEnum):
    """What on-call does beside answering incidents."""

    RETRAIN = "retrain"


def _check(rules: ApprovalPolicy, actor: Actor, what: StrEnum, reason: str) -> None:
    if not rules.holds(actor, ROLE):
        msg = f"{actor.name} lacks the role {ROLE}; policy {rules.key} says who has it"
        raise PermissionDenied(msg)
    rules.check_reason(what, reason)
