"""Rows of the monitor's tables about one registered model; they are only added."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from brewhouse.drift.signals import Window
from brewhouse.platform.database import Database
from brewhouse.platform.ledger import now

if TYPE_CHECKING:
    from sqlalchemy import Connection


class Tables:
    """Reads and adds rows."""

    def __init__(
        self, database: Database, model: str, *, clock: Callable[[], datetime] = now
    ) -> None:
        self.database, self.model, self.clock = database, model, clock

    def _rows(
        self, connection: Connection, table: str, *, version: str = ""
    ) -> list[dict[str, Any]]:
        from sqlalchemy import text

        query = f"SELECT * FROM {table} WHERE model = :model"
        query += " AND version = :version" if version else ""
        given = {"model": self.model} | ({"version": version} if version else {})
        rows = connection.execute(text(f"{query} ORDER BY id"), given)
        return [dict(row._mapping) for row in rows]

    def _add(self, connection: Connection, table: str, window: Window, **values: Any) -> None:
        self._insert(
            connection,
            table,
            model=self.model,
            version=window.version,
            window_start=str(window.start),
            window_end=str(window.end),
            **values,
        )

    def _insert(self, connection: Connection, table: str, **values: Any) -> None:
        from sqlalchemy import column, insert
        from sqlalchemy import table as named

        row = {"at": self.clock().isoformat(timespec="microseconds")} | values
        connection.execute(insert(named(table, *(column(name) for name in row))).values(row))


def day(text: str) -> date:
    """A day as rows keep it."""
    return date.fromisoformat(text)
