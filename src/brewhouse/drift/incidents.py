"""Incidents: what stays open between windows, and what people and the monitor do to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from enum import StrEnum

from brewhouse.drift.decision import Evaluation, Finding
from brewhouse.drift.policy import Severity
from brewhouse.errors import LifecycleError


class Status(StrEnum):
    """Where an incident stands."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    SNOOZED = "snoozed"
    DISMISSED = "dismissed"
    """Noise: stays quiet until its signal has been calm once, and counts against its threshold."""
    RESOLVED = "resolved"


class Step(StrEnum):
    """What can be done to an incident; `renew` and `resolve` also by the monitor."""

    OPEN = "open"
    ACKNOWLEDGE = "acknowledge"
    SNOOZE = "snooze"
    DISMISS = "dismiss"
    RESOLVE = "resolve"
    RENEW = "renew"


_LIVE = (Status.OPEN, Status.ACKNOWLEDGED, Status.SNOOZED)
_STEPS: dict[Step, tuple[tuple[Status | None, ...], Status]] = {
    Step.OPEN: ((None,), Status.OPEN),
    Step.ACKNOWLEDGE: ((Status.OPEN, Status.SNOOZED), Status.ACKNOWLEDGED),
    Step.SNOOZE: ((Status.OPEN, Status.ACKNOWLEDGED), Status.SNOOZED),
    Step.DISMISS: (_LIVE, Status.DISMISSED),
    Step.RESOLVE: ((*_LIVE, Status.DISMISSED), Status.RESOLVED),
    Step.RENEW: ((Status.SNOOZED,), Status.OPEN),
}


@dataclass(frozen=True, kw_only=True)
class Incident:
    """A finding that stands.

    Attributes:
        key: Signal key; of one version at most one incident a key is not resolved.
        opened: First window (its last day) in which it was open.
        until: Last day of a snooze.
    """

    version: str
    key: str
    severity: Severity
    status: Status
    opened: date
    reason: str
    until: date | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A step to one incident; `before` is None for a new one."""

    step: Step
    before: Incident | None
    after: Incident


def step(incident: Incident, what: Step, *, until: date | None = None) -> Incident:
    """Do a step.

    Raises:
        LifecycleError: It is not for an incident in this status.
    """
    allowed, status = _STEPS[what]
    if incident.status not in allowed:
        names = " or ".join(str(s) for s in allowed)
        msg = (
            f"incident {incident.key} of version {incident.version} is {incident.status}; "
            f"{what} is only for one that is {names}"
        )
        raise LifecycleError(msg)
    return replace(incident, status=status, until=until if what is Step.SNOOZE else None)


def reconcile(known: Sequence[Incident], evaluation: Evaluation, *, today: date) -> list[Change]:
    """What a window changes: opens, closes by itself, wakes what was snoozed.

    A signal that was not judged (few rows, broken data) changes nothing. Doing it twice with the
    same window changes nothing the second time.

    Args:
        known: Incidents of the version that are not resolved.
        evaluation: Of the window.
        today: For the end of a snooze.
    """
    standing: Mapping[str, Incident] = {i.key: i for i in known}
    changes = []
    for told in evaluation.told:
        incident = standing.get(told.key)
        if told.finding is Finding.OPEN and incident is None and told.severity is not None:
            opened = Incident(
                version=evaluation.version,
                key=told.key,
                severity=told.severity,
                status=Status.OPEN,
                opened=evaluation.window[1],
                reason=told.reason,
            )
            changes.append(Change(step=Step.OPEN, before=None, after=opened))
        elif told.finding is Finding.CALM and incident is not None:
            after = step(incident, Step.RESOLVE)
            changes.append(Change(step=Step.RESOLVE, before=incident, after=after))
        elif (
            told.finding is Finding.OPEN
            and incident is not None
            and incident.until is not None
            and today > incident.until
        ):
            after = step(incident, Step.RENEW)
            changes.append(Change(step=Step.RENEW, before=incident, after=after))
    return changes
