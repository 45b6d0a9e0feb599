"""Windows, evaluations, incidents and triggers in the database of decisions; rows are only added.

A window is written once with all that follows from it, in one transaction: a monitor that is run
again, or dies anywhere, changes nothing twice.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from brewhouse.drift.decision import Context, Evaluation, Finding, Outcome, Told, decide
from brewhouse.drift.incidents import Change, Incident, Status, Step, reconcile, step
from brewhouse.drift.policy import DriftPolicy, Severity
from brewhouse.drift.replay import dismissed_before, state_after
from brewhouse.drift.signals import Window
from brewhouse.errors import DataError, UnknownIncidentError
from brewhouse.files import canonical_json
from brewhouse.platform.drift_tables import day
from brewhouse.platform.drift_triggers import Triggers

if TYPE_CHECKING:
    from sqlalchemy import Connection

MONITOR = "monitor"


@dataclass(frozen=True, kw_only=True)
class Kept:
    """An incident with its number."""

    number: int
    incident: Incident


class DriftLog(Triggers):
    """What the monitor knows of one registered model."""

    # Reading

    def windows(self, version: str) -> list[Window]:
        """Windows of a version, oldest first."""
        with self.database.reading() as connection:
            return self._windows(connection, version)

    def newest(self) -> dict[str, tuple[Window, datetime]]:
        """Newest window of each version, and when it was judged."""
        with self.database.reading() as connection:
            found: dict[str, tuple[Window, datetime]] = {}
            for row in self._rows(connection, "drift_windows"):
                window = Window.model_validate_json(row["body"])
                found[window.version] = (window, datetime.fromisoformat(row["at"]))
            return found

    def incident(self, number: int) -> Kept:
        """One incident.

        Raises:
            UnknownIncidentError: There is none.
        """
        with self.database.reading() as connection:
            return self._incident(connection, number)

    def steps(self, number: int) -> list[dict[str, Any]]:
        """What was done to an incident, oldest first."""
        with self.database.reading() as connection:
            rows = self._rows(connection, "incident_steps")
            return [row for row in rows if int(row["incident"]) == number]

    def evaluations(self, version: str = "") -> list[dict[str, Any]]:
        """Every evaluation, fired or not, oldest first."""
        with self.database.reading() as connection:
            rows = self._rows(connection, "drift_evaluations", version=version)
            return [json.loads(row["body"]) for row in rows]

    def incidents(self, version: str = "", *, live: bool = True) -> list[Kept]:
        """Incidents as they stand, oldest first.

        Args:
            version: Of one version; of all if empty.
            live: Only those that are not resolved.
        """
        with self.database.reading() as connection:
            return self._incidents(connection, version, live=live)

    def last_run(self) -> tuple[datetime, str] | None:
        """When the monitor last came to its end, and which version it watched; None for never."""
        with self.database.reading() as connection:
            rows = self._rows(connection, "monitor_runs")
        return (datetime.fromisoformat(rows[-1]["at"]), rows[-1]["version"]) if rows else None

    # Writing

    def take(
        self, window: Window, policy: DriftPolicy, *, candidate: str = "", champion: bool = True
    ) -> Evaluation:
        """Judge a window and write down what follows; one that is there is told as it was judged.

        Args:
            window: Measured.
            policy: How it is judged.
            candidate: Version that waits for a person.
            champion: Whether the version is in use; only then may a retraining be ordered.

        Raises:
            DataError: A later window was judged before, or this one was measured otherwise.
        """
        with self.database.writing() as connection:
            earlier = self._windows(connection, window.version)
            known = next(
                (w for w in earlier if (w.start, w.end) == (window.start, window.end)), None
            )
            if known is not None and known != window:
                msg = (
                    f"window {window.start} to {window.end} of version {window.version} was "
                    "measured before with other numbers; a window is measured once its data are in"
                )
                raise DataError(msg)
            if known is not None:
                return self._judged(connection, window)
            if earlier and earlier[-1].end > window.start:
                msg = (
                    f"window {window.start} to {window.end} of version {window.version} begins "
                    f"before {earlier[-1].end}, to which it was judged; windows come in order"
                )
                raise DataError(msg)
            dismissed = self._dismissed(connection)
            context = Context(
                candidate=candidate,
                unfinished=self._unfinished(connection, window.version),
                champion=champion,
                retrains=self._retrains(connection),
                dismissed=dismissed_before(dismissed, window),
                noise=frozenset(dismissed),
            )
            state = state_after(policy, earlier, dismissed)
            evaluation, _ = decide(policy, window, state, context)
            self._add(connection, "drift_windows", window, body=window.model_dump_json())
            self._write(connection, window, evaluation, policy)
        return evaluation

    def ran(self, version: str) -> None:
        """Note that the monitor came to its end."""
        with self.database.writing() as connection:
            self._insert(connection, "monitor_runs", model=self.model, version=version)

    def renew(self) -> None:
        """Open again what was snoozed until a day that is over."""
        today = self.clock().date()
        with self.database.writing() as connection:
            for kept in self._incidents(connection, "", live=True):
                until = kept.incident.until
                if kept.incident.status is Status.SNOOZED and until is not None and today > until:
                    after = step(kept.incident, Step.RENEW)
                    reason = "the snooze has ended and nothing has closed it"
                    self._step(
                        connection, kept.number, Step.RENEW, after, actor=MONITOR, reason=reason
                    )

    def act(
        self, number: int, what: Step, *, actor: str, reason: str, until: date | None = None
    ) -> Kept:
        """Do a step to an incident.

        Raises:
            UnknownIncidentError: There is no such incident.
            LifecycleError: It is not in a status for this step.
        """
        with self.database.writing() as connection:
            kept = self._incident(connection, number)
            after = step(kept.incident, what, until=until)
            self._step(connection, number, what, after, actor=actor, reason=reason)
            return Kept(number=number, incident=after)

    def fault(self, version: str, key: str, *, severity: Severity, reason: str) -> None:
        """Open an incident without a window: nothing could be measured. One at a time."""
        with self.database.writing() as connection:
            standing = self._incidents(connection, version, live=True)
            if any(k.incident.key == key for k in standing):
                return
            known = self._incidents(connection, "", live=False)
            incident = Incident(
                version=version,
                key=key,
                severity=severity,
                status=Status.OPEN,
                opened=self.clock().date(),
                reason=reason,
            )
            number = max((k.number for k in known), default=0) + 1
            self._step(connection, number, Step.OPEN, incident, actor=MONITOR, reason=reason)

    def mended(self, version: str, key: str) -> None:
        """Close the incident that `fault` opened, if one stands."""
        with self.database.writing() as connection:
            for kept in self._incidents(connection, version, live=True):
                if kept.incident.key == key:
                    after = step(kept.incident, Step.RESOLVE)
                    reason = "the log could be read again"
                    self._step(
                        connection, kept.number, Step.RESOLVE, after, actor=MONITOR, reason=reason
                    )

    def succeeded(self, version: str) -> None:
        """Close what stands about other versions: nobody sees them any more."""
        with self.database.writing() as connection:
            for kept in self._incidents(connection, "", live=True):
                if kept.incident.version != version:
                    self._step(
                        connection,
                        kept.number,
                        Step.RESOLVE,
                        step(kept.incident, Step.RESOLVE),
                        actor=MONITOR,
                        reason=f"version {version} is in use",
                    )

    def _write(
        self, connection: Connection, window: Window, evaluation: Evaluation, policy: DriftPolicy
    ) -> None:
        body = canonical_json(_plain_evaluation(evaluation))
        self._add(
            connection,
            "drift_evaluations",
            window,
            policy=evaluation.policy,
            outcome=evaluation.outcome.value,
            body=body,
        )
        standing = self._incidents(connection, window.version, live=True)
        numbers = {k.incident.key: k.number for k in standing}
        following = max((k.number for k in self._incidents(connection, "", live=False)), default=0)
        today = self.clock().date()
        for change in reconcile([k.incident for k in standing], evaluation, today=today):
            number = numbers.get(change.after.key, 0)
            if change.step is Step.OPEN:
                following += 1
                number = following
            self._changed(connection, number, change)
        if evaluation.trigger:
            self._write_trigger(connection, window, evaluation, policy)

    def _changed(self, connection: Connection, number: int, change: Change) -> None:
        reason = {
            Step.OPEN: change.after.reason,
            Step.RESOLVE: "the signal is calm again",
            Step.RENEW: "the snooze has ended and the signal is open still",
        }[change.step]
        self._step(connection, number, change.step, change.after, actor=MONITOR, reason=reason)

    def _step(
        self,
        connection: Connection,
        number: int,
        what: Step,
        after: Incident,
        *,
        actor: str,
        reason: str,
    ) -> None:
        self._insert(
            connection,
            "incident_steps",
            incident=number,
            model=self.model,
            version=after.version,
            signal=after.key,
            step=what.value,
            status=after.status.value,
            severity=after.severity.value,
            opened=str(after.opened),
            until=str(after.until or ""),
            actor=actor,
            reason=reason,
        )

    # Rows

    def _incident(self, connection: Connection, number: int) -> Kept:
        found = {k.number: k for k in self._incidents(connection, "", live=False)}
        if number not in found:
            known = ", ".join(str(n) for n in sorted(found)) or "none"
            msg = f"there is no incident {number}; there are {known}"
            raise UnknownIncidentError(msg)
        return found[number]

    def _windows(self, connection: Connection, version: str) -> list[Window]:
        rows = self._rows(connection, "drift_windows", version=version)
        found = [Window.model_validate_json(row["body"]) for row in rows]
        return sorted(found, key=lambda w: w.start)

    def _incidents(self, connection: Connection, version: str, *, live: bool) -> list[Kept]:
        found: dict[int, Kept] = {}
        for row in self._rows(connection, "incident_steps", version=version):
            number = int(row["incident"])
            opened = found[number].incident.reason if number in found else row["reason"]
            incident = Incident(
                version=row["version"],
                key=row["signal"],
                severity=Severity(row["severity"]),
                status=Status(row["status"]),
                opened=day(row["opened"]),
                reason=opened,
                until=day(row["until"]) if row["until"] else None,
            )
            found[number] = Kept(number=number, incident=incident)
        kept = [found[number] for number in sorted(found)]
        return [k for k in kept if not (live and k.incident.status is Status.RESOLVED)]

    def _dismissed(self, connection: Connection) -> list[tuple[str, date]]:
        """Signals of incidents that were called noise, and when those had opened."""
        rows = self._rows(connection, "incident_steps")
        return [
            (row["signal"], day(row["opened"])) for row in rows if row["step"] == Step.DISMISS.value
        ]

    def _judged(self, connection: Connection, window: Window) -> Evaluation:
        """The evaluation of a window that is there."""
        rows = self._rows(connection, "drift_evaluations", version=window.version)
        mine = [r for r in rows if (r["window_start"], r["window_end"]) == _days(window)]
        return _evaluation(json.loads(mine[-1]["body"]))


def _days(window: Window) -> tuple[str, str]:
    return str(window.start), str(window.end)


def _evaluation(value: dict[str, Any]) -> Evaluation:
    start, end = (day(text) for text in value["window"])
    told = tuple(
        Told(
            **one
            | {
                "finding": Finding(one["finding"]),
                "severity": Severity(one["severity"]) if one["severity"] else None,
            }
        )
        for one in value["told"]
    )
    given = {"window": (start, end), "outcome": Outcome(value["outcome"]), "told": told}
    return Evaluation(**value | given | {"held": tuple(value["held"])})


def _plain_evaluation(evaluation: Evaluation) -> dict[str, Any]:
    found = asdict(evaluation)
    found["window"] = [str(one) for one in evaluation.window]
    return found
