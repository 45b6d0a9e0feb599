"""The ledger in SQL: SQLite in a file by default, Postgres in a cluster; SQLAlchemy and Alembic.

One writer at a time appends, under a lock of the database, so that of decisions made at once on the
same state one stands and the others are told. A process that dies has written a whole entry or
nothing.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse.errors import LifecycleError, RegistryError
from brewhouse.registry.approvals import Actor
from brewhouse.registry.entries import GENESIS, Draft, Entry, Signer
from brewhouse.registry.lifecycle import State, after

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_LOCK = 0x62726577
"""Advisory lock on Postgres that writers take."""
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
        from sqlalchemy.exc import OperationalError

        self.signer, self.clock, self.uri = signer, clock, uri
        self._engine = _connect(uri)
        try:
            _migrate(self._engine, uri)
        except OperationalError as error:
            cause = str(error.orig).splitlines()[0]
            msg = f"decisions database {self._engine.url!r}: {cause}; check the URI and the server"
            raise RegistryError(msg) from error

    def entries(self, model: str = "", version: str = "") -> list[Entry]:
        """Entries in order, of one model or version if named."""
        with self._engine.connect() as connection:
            return _read(connection, model, version)

    def append(self, drafts: Sequence[Draft]) -> list[Entry]:
        """Write acts as one: all of them or none.

        Raises:
            LifecycleError: A version's state does not allow its act, or changed since `revision`.
        """
        with self._writing() as connection:
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
        with self._writing() as connection:
            connection.execute(_table("refusals").insert().values(row))

    def refusals(self) -> list[Mapping[str, Any]]:
        """Who was not let through, oldest first."""
        table = _table("refusals")
        with self._engine.connect() as connection:
            rows = connection.execute(table.select().order_by(table.c.id))
            return [dict(row._mapping) for row in rows]

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction that no other writer shares."""
        from sqlalchemy import text

        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:k)"), {"k": _LOCK})
            elif connection.dialect.name == "sqlite":
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


def _connect(uri: str) -> Engine:
    from sqlalchemy import create_engine, event
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
    except ArgumentError as error:
        msg = (
            "the decisions database has no valid URI; give sqlite:///FILE or postgresql+psycopg://"
        )
        raise RegistryError(msg) from error
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 60, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _plain(connection: Any, _record: Any) -> None:
        # Transactions begin where we say so, and are on disk when they end.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def _migrate(engine: Engine, uri: str) -> None:
    """Bring the schema to the newest revision; several that start at once wait for one another."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with _alone(engine, uri), engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


@contextmanager
def _alone(engine: Engine, uri: str) -> Iterator[None]:
    from sqlalchemy import text

    if engine.dialect.name == "sqlite":
        path = Path(f"{engine.url.database}.lock")
        with path.open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(:k)"), {"k": _LOCK + 1})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:k)"), {"k": _LOCK + 1})


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
