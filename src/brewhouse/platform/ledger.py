"""The ledger in SQL: entries are appended, never changed.

Of decisions made at once on the same state one stands and the others are told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from brewhouse.errors import LifecycleError
from brewhouse.platform.database import Database
from brewhouse.registry.approvals import Actor
from brewhouse.registry.entries import GENESIS, Draft, Entry, Signer
from brewhouse.registry.lifecycle import State, after

if TYPE_CHECKING:
    from sqlalchemy import Connection

Clock = Callable[[], datetime]


def now() -> datetime:
    """Aware, UTC."""
    return datetime.now(UTC)


class Ledger:
    """Reads and appends entries; never changes one."""

    def __init__(self, uri: str, signer: Signer, *, clock: Clock = now) -> None:
        """Connect, and bring the schema up to date.

        Args:
            uri: SQLAlchemy URI, `sqlite:///FILE` or `postgresql+psycopg://...`.
            signer: Signs what is appended.
            clock: Tells the time.

        Raises:
            RegistryError: The database cannot be reached, or its schema is newer than this program.
        """
        self.signer, self.clock = signer, clock
        self.database = Database(uri)

    def entries(self, model: str = "", version: str = "") -> list[Entry]:
        """Entries in order, of one model or version if named."""
        with self.database.reading() as connection:
            return _read(connection, model, version)

    def append(self, drafts: Sequence[Draft]) -> list[Entry]:
        """Write acts as one: all of them or none.

        Raises:
            LifecycleError: A version's state does not allow its act, or changed since `revision`.
        """
        with self.database.writing() as connection:
            head = _read(connection)[-1:]
            number, previous = (head[0].number, head[0].hash) if head else (0, GENESIS)
            written = []
            for draft in drafts:
                number += 1
                entry = self._entry(connection, draft, number=number, previous=previous)
                connection.execute(_table("ledger").insert().values(asdict(entry)))
                previous = entry.hash
                written.append(entry)
        return written

    def _entry(self, connection: Connection, draft: Draft, *, number: int, previous: str) -> Entry:
        mine = _read(connection, draft.model, draft.version)
        if draft.revision is not None and draft.revision != len(mine):
            last = mine[-1] if mine else None
            did = f"{last.actor} did {last.act} at {last.at}" if last else "it is not there"
            msg = (
                f"version {draft.version} of {draft.model} changed since it was looked at "
                f"(revision {draft.revision}, now {len(mine)}): {did}; look again"
            )
            raise LifecycleError(msg)
        before = State(mine[-1].after) if mine else None
        state = after(draft.act, before, version=draft.version)
        taken = asdict(draft) | {
            "act": draft.act.value,
            "number": number,
            "at": self.clock().isoformat(timespec="microseconds"),
            "revision": len(mine) + 1,
            "before": before.value if before else "",
            "after": state.value,
            "previous": previous,
        }
        return self.signer.sign(Entry(**taken))

    def refuse(
        self, actor: Actor, act: str, *, model: str, version: str, reason: str, address: str = ""
    ) -> None:
        """Record that somebody was not let through."""
        row = {
            "at": self.clock().isoformat(timespec="microseconds"),
            "actor": actor.name[:200],
            "via": actor.via,
            "act": act[:40],
            "model": model[:200],
            "version": version[:40],
            "reason": reason[:500],
            "address": address,
        }
        row = {name: _text(value) for name, value in row.items()}
        with self.database.writing() as connection:
            connection.execute(_table("refusals").insert().values(row))

    def refusals(self) -> list[Mapping[str, Any]]:
        """Who was not let through, oldest first."""
        table = _table("refusals")
        with self.database.reading() as connection:
            rows = connection.execute(table.select().order_by(table.c.id))
            return [dict(row._mapping) for row in rows]


def _table(name: str) -> Any:
    from sqlalchemy import Column, Integer, MetaData, Table, Text

    if name not in _TABLES:
        columns = (
            [Column(f.name, Integer if f.type == "int" else Text) for f in fields(Entry)]
            if name == "ledger"
            else [
                Column("id", Integer, primary_key=True),
                *(Column(c, Text) for c in ("at", "actor", "via", "act", "model", "version")),
                *(Column(c, Text) for c in ("reason", "address")),
            ]
        )
        _TABLES[name] = Table(name, MetaData(), *columns)
    return _TABLES[name]


_TABLES: dict[str, Any] = {}


def _text(value: str) -> str:
    """What strangers send, as text that every database takes."""
    return value.encode("utf-8", "replace").decode().replace("\x00", "?")


def _read(connection: Connection, model: str = "", version: str = "") -> list[Entry]:
    table = _table("ledger")
    query = table.select().order_by(table.c.number)
    if model:
        query = query.where(table.c.model == model)
    if version:
        query = query.where(table.c.version == version)
    return [Entry(**row._mapping) for row in connection.execute(query)]
