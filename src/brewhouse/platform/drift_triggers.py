"""Orders to train again: written once, started once, and kept in mind until their run has ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from brewhouse.drift.decision import Evaluation
from brewhouse.drift.policy import DriftPolicy
from brewhouse.drift.signals import Window
from brewhouse.files import sha256_json
from brewhouse.platform.drift_tables import Tables, day

if TYPE_CHECKING:
    from sqlalchemy import Connection

SUCCEEDED, FAILED = "SUCCEEDED", "FAILED"
ORDERED = "order-"
"""Prefix of triggers that a person wrote."""


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """A reasoned order to train again.

    Attributes:
        run: Empty until a run was started for it.
        ended: How the run ended, `SUCCEEDED` or `FAILED`; empty until then.
        maturity_days: Of the policy that it follows from; None where a person ordered it.
    """

    trigger: str
    version: str
    window: tuple[date, date]
    reason: str
    run: str = ""
    ended: str = ""
    maturity_days: int | None = None


class Triggers(Tables):
    """Orders to train one registered model again."""

    def triggers(self) -> list[Trigger]:
        """Orders, oldest first."""
        with self.database.reading() as connection:
            return self._triggers(connection)

    def order(self, version: str, when: date, *, actor: str, reason: str) -> str:
        """Order a retraining as a person; return its trigger. One a person and day."""
        trigger = f"{ORDERED}{sha256_json([self.model, version, str(when), actor])[:12]}"
        with self.database.writing() as connection:
            known = {row["trigger_id"] for row in self._rows(connection, "triggers")}
            if trigger not in known:
                self._insert(
                    connection,
                    "triggers",
                    model=self.model,
                    version=version,
                    window_start=str(when),
                    window_end=str(when),
                    trigger_id=trigger,
                    policy=f"ordered by {actor}",
                    reason=reason,
                )
        return trigger

    def started(self, trigger: str, run: str) -> str:
        """Note the run that a trigger started; the first one stands, and is returned."""
        with self.database.writing() as connection:
            if known := self._runs(connection).get(trigger):
                return known
            self._insert(connection, "trigger_runs", trigger_id=trigger, run_id=run)
        return run

    def ended(self, trigger: str, state: str, reason: str = "") -> None:
        """Note how a trigger's run ended; a failed one that was mended may end once more."""
        with self.database.writing() as connection:
            if self._ends(connection).get(trigger) not in (state, SUCCEEDED):
                self._insert(
                    connection, "trigger_ends", trigger_id=trigger, state=state, reason=reason
                )

    def _triggers(self, connection: Connection) -> list[Trigger]:
        runs, ends = self._runs(connection), self._ends(connection)
        return [
            Trigger(
                trigger=row["trigger_id"],
                version=row["version"],
                window=(day(row["window_start"]), day(row["window_end"])),
                reason=row["reason"],
                run=runs.get(row["trigger_id"], ""),
                ended=ends.get(row["trigger_id"], ""),
                maturity_days=row["maturity_days"],
            )
            for row in self._rows(connection, "triggers")
        ]

    def _write_trigger(
        self, connection: Connection, window: Window, evaluation: Evaluation, policy: DriftPolicy
    ) -> None:
        key = [self.model, window.version, str(window.start), str(window.end)]
        self._add(
            connection,
            "triggers",
            window,
            trigger_id=f"drift-{sha256_json(key)[:12]}",
            policy=evaluation.policy,
            reason=evaluation.trigger,
            maturity_days=policy.maturity_days,
        )

    def _retrains(self, connection: Connection) -> tuple[date, ...]:
        """Days on which retrainings were ordered."""
        return tuple(trigger.window[1] for trigger in self._triggers(connection))

    def _unfinished(self, connection: Connection, version: str) -> str:
        """A trigger of a version whose run has not ended; empty if there is none."""
        found = [
            trigger.trigger
            for trigger in self._triggers(connection)
            if trigger.version == version and not trigger.ended
        ]
        return found[-1] if found else ""

    def _runs(self, connection: Connection) -> dict[str, str]:
        from sqlalchemy import text

        rows = connection.execute(text("SELECT trigger_id, run_id FROM trigger_runs"))
        return {row.trigger_id: row.run_id for row in rows}

    def _ends(self, connection: Connection) -> dict[str, str]:
        from sqlalchemy import text

        rows = connection.execute(text("SELECT trigger_id, state FROM trigger_ends ORDER BY id"))
        return {row.trigger_id: row.state for row in rows}
