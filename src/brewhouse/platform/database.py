"""The database of decisions and incidents: SQLite in a file by default, Postgres in a cluster.

One writer at a time, under a lock of the database; a process that dies has written a whole
transaction or nothing. SQLAlchemy and Alembic.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse.errors import RegistryError

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory
    from sqlalchemy import Connection, Engine

_LOCK = 0x62726577
"""Advisory lock on Postgres that writers take."""

VERSION_TABLE = "brewhouse_version"
"""Where the schema's revision stands. Alembic's default name would be MLflow's too, and each takes
the other's revision for one it lacks."""

ENCODING = {"client_encoding": "utf8"}
"""Of connections to Postgres: one made without a locale holds bytes, of no encoding but ours."""


class Database:
    """A connection pool whose schema is up to date."""

    def __init__(self, uri: str) -> None:
        """Connect, and bring the schema up to date.

        Args:
            uri: SQLAlchemy URI, `sqlite:///FILE` or `postgresql+psycopg://...`.

        Raises:
            RegistryError: It cannot be reached.
        """
        from sqlalchemy.exc import OperationalError

        self.engine = _connect(uri)
        try:
            _migrate(self.engine)
        except OperationalError as error:
            cause = str(error.orig).splitlines()[0]
            msg = f"decisions database {self.engine.url!r}: {cause}; check the URI and the server"
            raise RegistryError(msg) from error

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection to read by."""
        with self.engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that no other writer shares."""
        from sqlalchemy import text

        with self.engine.begin() as connection:
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
        options = ENCODING if url.get_backend_name() == "postgresql" else {}
        return create_engine(url, pool_pre_ping=True, connect_args=options)
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": 60, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _plain(connection: Any, _record: Any) -> None:
        # Transactions begin where we say so, and are on disk when they end.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def _migrate(engine: Engine) -> None:
    """Bring the schema to the newest revision; several that start at once wait for one another.

    A revision of a later release is left as it is: tables are only ever added, so that this release
    reads them after a way back.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    scripts = ScriptDirectory.from_config(config)
    with _alone(engine), engine.connect() as connection:
        _carry_over(connection, scripts)
        if _revision(connection) in {None, *(one.revision for one in scripts.walk_revisions())}:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        connection.commit()


def _revision(connection: Connection, table: str = VERSION_TABLE) -> str | None:
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": table})
    return context.get_current_revision()


def _carry_over(connection: Connection, scripts: ScriptDirectory) -> None:
    """Note a revision that was written under Alembic's default name; that one stays as it is."""
    from alembic.runtime.migration import MigrationContext
    from sqlalchemy import inspect

    names = set(inspect(connection).get_table_names())
    # An empty table is what a process leaves that died in between.
    if _revision(connection) or not {"alembic_version", "ledger"} <= names:
        return
    own = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    own.stamp(scripts, _revision(connection, "alembic_version") or "base")
    connection.commit()


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
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
