"""Incidents: the steps that are allowed, and what a window changes."""

from __future__ import annotations

from datetime import date

import pytest

from brewhouse.drift.decision import Evaluation, Finding, Outcome, Told
from brewhouse.drift.incidents import Incident, Status, Step, reconcile, step
from brewhouse.drift.policy import Severity
from brewhouse.errors import LifecycleError

TODAY = date(2026, 3, 9)
ALLOWED = {
    Step.ACKNOWLEDGE: {Status.OPEN, Status.SNOOZED},
    Step.SNOOZE: {Status.OPEN, Status.ACKNOWLEDGED},
    Step.DISMISS: {Status.OPEN, Status.ACKNOWLEDGED, Status.SNOOZED},
    Step.RESOLVE: {Status.OPEN, Status.ACKNOWLEDGED, Status.SNOOZED, Status.DISMISSED},
    Step.RENEW: {Status.SNOOZED},
    Step.OPEN: set(),
}


def _incident(status: Status = Status.OPEN, *, until: date | None = None) -> Incident:
    return Incident(
        version="3",
        key="input/item_age",
        severity=Severity.TICKET,
        status=status,
        opened=date(2026, 3, 2),
        reason="r",
        until=until,
    )


def _evaluation(finding: Finding, key: str = "input/item_age") -> Evaluation:
    told = Told(key=key, finding=finding, reason="above", severity=Severity.TICKET)
    return Evaluation(
        policy="p@1",
        version="3",
        window=(date(2026, 3, 2), TODAY),
        outcome=Outcome.INCIDENT,
        told=(told,),
    )


@pytest.mark.parametrize("what", list(Step))
@pytest.mark.parametrize("status", list(Status))
def test_every_step_from_every_status(what: Step, status: Status) -> None:
    if status in ALLOWED[what]:
        assert step(_incident(status), what, until=TODAY).status is not status
    else:
        with pytest.raises(LifecycleError, match=f"is {status}; {what} is only for"):
            step(_incident(status), what)


@pytest.mark.parametrize(
    ("known", "finding", "steps"),
    [
        (None, Finding.OPEN, [Step.OPEN]),
        (None, Finding.OVER, []),
        (None, Finding.INHIBITED, []),
        (Status.OPEN, Finding.OPEN, []),
        (Status.OPEN, Finding.CALM, [Step.RESOLVE]),
        (Status.OPEN, Finding.OVER, []),
        (Status.OPEN, Finding.INHIBITED, []),
        (Status.OPEN, Finding.FEW_ROWS, []),
        (Status.ACKNOWLEDGED, Finding.CALM, [Step.RESOLVE]),
        (Status.DISMISSED, Finding.OPEN, []),
        (Status.DISMISSED, Finding.CALM, [Step.RESOLVE]),
        (Status.SNOOZED, Finding.OPEN, []),
    ],
)
def test_what_a_window_changes(known: Status | None, finding: Finding, steps: list[Step]) -> None:
    standing = [] if known is None else [_incident(known)]
    changes = reconcile(standing, _evaluation(finding), today=TODAY)
    assert [c.step for c in changes] == steps
    live = [c.after for c in changes if c.after.status is not Status.RESOLVED] or standing
    if finding is Finding.OPEN:
        assert reconcile(live, _evaluation(finding), today=TODAY) == []


def test_a_snooze_ends() -> None:
    snoozed = step(_incident(), Step.SNOOZE, until=date(2026, 3, 8))
    (change,) = reconcile([snoozed], _evaluation(Finding.OPEN), today=TODAY)
    assert (change.step, change.after.status, change.after.until) == (
        Step.RENEW,
        Status.OPEN,
        None,
    )
    later = step(_incident(), Step.SNOOZE, until=TODAY)
    assert reconcile([later], _evaluation(Finding.OPEN), today=TODAY) == []


def test_incidents_of_other_signals_are_left_alone() -> None:
    (change,) = reconcile([_incident()], _evaluation(Finding.OPEN, "score/ece"), today=TODAY)
    assert (change.step, change.after.key) == (Step.OPEN, "score/ece")
