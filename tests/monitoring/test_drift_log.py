"""The monitor's memory: run again, at once or halfway dead, nothing happens twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from brewhouse.drift.decision import Outcome
from brewhouse.drift.incidents import Status, Step
from brewhouse.drift.policy import DriftPolicy, Severity, load_drift_policy
from brewhouse.drift.signals import Kind, Signal, Window
from brewhouse.errors import DataError, LifecycleError, RegistryError
from brewhouse.platform.database import Database
from brewhouse.platform.drift_log import DriftLog
from tests.conftest import ROOT

START = date(2026, 1, 5)
Make = Callable[[], DriftLog]


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """A log over a database; the same one at every call. Models differ, so tests do not meet."""
    uri = f"sqlite:///{tmp_path / 'brewhouse.db'}"
    if request.param == "postgres":
        uri = request.getfixturevalue("postgres")
    model = request.node.name

    def now() -> datetime:
        return datetime(2026, 3, 1, tzinfo=UTC)

    return lambda: DriftLog(Database(uri), model, clock=now)


@pytest.fixture
def policy() -> DriftPolicy:
    return load_drift_policy("default", ROOT / "monitoring" / "policies")


def _window(number: int, value: float, effect: float = 0.0, *, version: str = "1") -> Window:
    start = START + timedelta(weeks=number)
    auc = {"value": value, "error": 0.005, "reference": 0.70, "reference_error": 0.001}
    return Window(
        version=version,
        start=start,
        end=start + timedelta(weeks=1),
        matured_until=start,
        signals=[
            Signal(name="auc", kind=Kind.PERFORMANCE, n=5000, **auc),
            Signal(name="item_age", kind=Kind.INPUT, n=5000, effect=effect),
        ],
    )


CALM = [0.70, 0.69, 0.71, 0.70, 0.70]
FALLEN = [*CALM, 0.66]


def _take(log: DriftLog, policy: DriftPolicy, values: list[float]) -> Any:
    found = None
    for number, value in enumerate(values):
        found = log.take(_window(number, value), policy)
    return found


def test_a_fall_is_one_incident_and_one_trigger_however_often(
    make: Make, policy: DriftPolicy
) -> None:
    first = _take(make(), policy, FALLEN)
    assert first.outcome is Outcome.TRIGGER
    for _ in range(5):
        assert _take(make(), policy, FALLEN) == first
    log = make()
    (trigger,) = log.triggers()
    assert trigger.window == (first.window[0], first.window[1])
    assert "performance/auc 0.660" in trigger.reason
    (kept,) = log.incidents()
    assert (kept.incident.key, kept.incident.severity) == ("performance/auc", "page")
    assert len(log.windows("1")) == len(log.evaluations()) == len(FALLEN)
    assert json.loads(json.dumps(log.evaluations()[-1]))["outcome"] == "trigger"


def test_monitors_at_once_write_a_window_once(make: Make, policy: DriftPolicy) -> None:
    _take(make(), policy, CALM)
    with ThreadPoolExecutor(8) as pool:
        logs = [make() for _ in range(8)]
        found = list(pool.map(lambda log: log.take(_window(5, 0.66), policy), logs))
    assert {e.outcome for e in found} == {Outcome.TRIGGER}
    log = make()
    assert len(log.triggers()) == len(log.incidents()) == 1
    assert len(log.windows("1")) == len(FALLEN)


def test_a_monitor_that_dies_leaves_nothing_half_done(
    make: Make, policy: DriftPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever row was the last to be written, the window is as if never taken."""
    _take(make(), policy, CALM)
    insert = DriftLog._insert
    for survives in range(4):
        left = [survives]

        def dies(self: Any, connection: Any, table: str, left: list[int] = left, **v: Any) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            insert(self, connection, table, **v)

        monkeypatch.setattr(DriftLog, "_insert", dies)
        with pytest.raises(KeyboardInterrupt):
            make().take(_window(5, 0.66), policy)
        monkeypatch.setattr(DriftLog, "_insert", insert)
        log = make()
        assert len(log.windows("1")) == len(log.evaluations()) == len(CALM)
        assert log.triggers() == log.incidents() == []
    assert make().take(_window(5, 0.66), policy).outcome is Outcome.TRIGGER


def test_a_trigger_starts_one_run(make: Make, policy: DriftPolicy) -> None:
    _take(make(), policy, FALLEN)
    (trigger,) = make().triggers()
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda n: make().started(trigger.trigger, f"run-{n}"), range(8)))
    assert len(set(runs)) == 1
    assert make().triggers()[0].run == runs[0]


def test_retrains_before_and_candidates_hold_a_trigger(make: Make, policy: DriftPolicy) -> None:
    log = make()
    _take(log, policy, FALLEN)
    after = log.take(_window(6, 0.66), policy)
    assert after.outcome is Outcome.INCIDENT
    (trigger,) = log.triggers()
    assert after.held[0] == f"the run of {trigger.trigger} has not ended"
    assert "cooldown" in after.held[1]
    log.ended(trigger.trigger, "FAILED", "no room")
    assert "cooldown" in log.take(_window(7, 0.66), policy).held[0]
    for number, value in enumerate(CALM):
        log.take(_window(number + 20, value, version="2"), policy, candidate="3")
    held = log.take(_window(25, 0.60, version="2"), policy, candidate="3")
    assert held.held[0] == "version 3 waits for a person already"
    assert len(log.triggers()) == 1


def test_what_people_do_to_incidents(make: Make, policy: DriftPolicy) -> None:
    log = make()
    _take(log, policy, FALLEN)
    (kept,) = log.incidents()
    number = kept.number
    log.act(number, Step.ACKNOWLEDGE, actor="ola", reason="looking")
    later = date(2026, 4, 1)
    log.act(number, Step.SNOOZE, actor="ola", reason="retraining runs", until=later)
    (kept,) = make().incidents()
    assert (kept.incident.status, kept.incident.until) == (Status.SNOOZED, later)
    assert kept.incident.reason.startswith("performance/auc 0.660")
    log.act(number, Step.DISMISS, actor="ola", reason="a test of ours")
    with pytest.raises(LifecycleError, match="is dismissed; snooze is only for"):
        log.act(number, Step.SNOOZE, actor="ola", reason="again", until=later)
    log.act(number, Step.RESOLVE, actor="ola", reason="done")
    assert make().incidents() == []
    assert [k.number for k in make().incidents(live=False)] == [number]
    with pytest.raises(RegistryError, match="there is no incident 999; there are"):
        log.act(999, Step.RESOLVE, actor="ola", reason="x")


def test_an_incident_closes_when_its_signal_is_calm(make: Make, policy: DriftPolicy) -> None:
    log = make()
    for number, effect in enumerate([0.0, 0.3, 0.3, 0.05, 0.05, 0.3, 0.3]):
        log.take(_window(number, 0.70, effect), policy)
    resolved, live = log.incidents(live=False)
    assert (resolved.incident.status, live.incident.status) == (Status.RESOLVED, Status.OPEN)
    assert resolved.number != live.number


def test_windows_come_in_order_and_are_measured_once(make: Make, policy: DriftPolicy) -> None:
    log = make()
    _take(log, policy, CALM)
    with pytest.raises(DataError, match="measured before with other numbers"):
        log.take(_window(2, 0.5), policy)
    odd = _window(2, 0.7).model_copy(update={"end": START + timedelta(weeks=2, days=3)})
    with pytest.raises(DataError, match="windows come in order"):
        log.take(odd, policy)


@pytest.mark.parametrize("table", ["drift_windows", "incident_steps", "triggers", "trigger_ends"])
def test_rows_are_only_added(make: Make, policy: DriftPolicy, table: str) -> None:
    log = make()
    _take(log, policy, FALLEN)
    log.ended(log.triggers()[0].trigger, "FAILED")
    for verb in (f"DELETE FROM {table}", f"UPDATE {table} SET at = 'never'"):
        with pytest.raises(DBAPIError, match="append-only"), log.database.writing() as connection:
            connection.execute(text(verb))


def test_a_dismissal_raises_the_threshold_from_the_next_window_on(
    make: Make, policy: DriftPolicy
) -> None:
    log = make()
    for number, effect in enumerate([0.3, 0.3, 0.0, 0.0]):
        log.take(_window(number, 0.7, effect), policy)
        if number == 1:
            (kept,) = log.incidents()
            log.act(kept.number, Step.DISMISS, actor="olga", reason="histories grow")
    assert log.incidents() == []
    for number in (4, 5):
        told = log.take(_window(number, 0.7, 0.3), policy).told[-1]
        assert told.reason.endswith("raised after 1 dismissed as noise")
        assert "0.3125 for 2 windows" in told.reason
    assert log.incidents() == []
    for number in (6, 7):
        log.take(_window(number, 0.7, 0.35), policy)
    assert [k.incident.key for k in log.incidents()] == ["input/item_age"]


def test_windows_that_were_missed_order_one_retraining(make: Make, policy: DriftPolicy) -> None:
    """The monitor was down for nine weeks: the cooldown passes within one run, one order stands."""
    log = make()
    _take(log, policy, [*FALLEN, *[0.66] * 9])
    assert [t.version for t in log.triggers()] == ["1"]


def test_an_order_of_a_person_counts_whatever_its_day(make: Make, policy: DriftPolicy) -> None:
    log = make()
    _take(log, policy, CALM)
    trigger = log.order("1", _window(5, 0.0).end + timedelta(days=1), actor="olga", reason="why")
    log.ended(trigger, "SUCCEEDED")
    found = log.take(_window(5, 0.66), policy)
    assert (found.outcome, found.trigger) == (Outcome.INCIDENT, "")
    assert "the last retraining was ordered on" in found.held[0]


def test_a_version_that_is_not_in_use_orders_nothing(make: Make, policy: DriftPolicy) -> None:
    log = make()
    for number, value in enumerate(FALLEN):
        found = log.take(_window(number, value), policy, champion=False)
    assert found.held == ("it is not the version in use",)
    assert log.triggers() == []


def test_a_window_is_told_as_it_was_judged(make: Make, policy: DriftPolicy) -> None:
    log = make()
    first = _take(log, policy, FALLEN)
    again = log.take(_window(5, 0.66), policy, candidate="9")
    assert again == first
    assert again.outcome is Outcome.TRIGGER


def test_how_a_run_ended_is_told_once_more_if_it_was_mended(make: Make) -> None:
    log = make()
    trigger = log.order("1", date(2026, 3, 1), actor="olga", reason="why")
    states = []
    for state in ("FAILED", "FAILED", "SUCCEEDED", "FAILED"):
        log.ended(trigger, state)
        states.append(log.triggers()[0].ended)
    assert states == ["FAILED", "FAILED", "SUCCEEDED", "SUCCEEDED"]


def test_a_snooze_that_is_over_opens_again(make: Make, policy: DriftPolicy) -> None:
    log = make()
    log.fault("1", "data/import", severity=Severity.PAGE, reason="not Parquet")
    log.act(1, Step.SNOOZE, actor="olga", reason="known", until=date(2026, 3, 1))
    log.renew()
    assert log.incident(1).incident.status is Status.SNOOZED
    log.clock = lambda: datetime(2026, 3, 2, 6, tzinfo=UTC)
    log.renew()
    log.renew()
    assert log.incident(1).incident.status is Status.OPEN
    assert [row["step"] for row in log.steps(1)] == ["open", "snooze", "renew"]


def test_faults_and_orders_stand_once(make: Make, policy: DriftPolicy) -> None:
    for _ in range(3):
        make().fault("1", "data/import", severity=Severity.PAGE, reason="not Parquet")
        make().order("1", date(2026, 3, 1), actor="olga", reason="the feed changed")
    log = make()
    assert [k.incident.key for k in log.incidents()] == ["data/import"]
    assert [t.reason for t in log.triggers()] == ["the feed changed"]
    log.mended("1", "data/import")
    log.mended("1", "data/import")
    assert log.incidents() == []
    assert [row["step"] for row in log.steps(1)] == ["open", "resolve"]
