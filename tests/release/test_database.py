"""The schema's revision: kept under a name of its own, beside MLflow's, and carried over."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from brewhouse.platform.database import VERSION_TABLE, Database


def revisions(database: Database, table: str) -> list[str]:
    with database.reading() as connection:
        return list(connection.execute(text(f"SELECT version_num FROM {table}")).scalars())


def tables(database: Database) -> set[str]:
    with database.reading() as connection:
        found = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'"))
        return set(found.scalars())


@pytest.mark.parametrize("first", ["brewhouse", "mlflow"])
def test_mlflow_may_share_the_database(tmp_path: Path, first: str) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'both.db'}"
    if first == "brewhouse":
        Database(uri)
    MlflowClient(tracking_uri=uri, registry_uri=uri).create_registered_model("ranker")
    database = Database(uri)
    assert revisions(database, VERSION_TABLE) == ["0003"]
    assert revisions(database, "alembic_version") != ["0003"]
    assert {"ledger", "incident_steps", "registered_models"} <= tables(database)
    Database(uri)
    assert MlflowClient(tracking_uri=uri, registry_uri=uri).get_registered_model("ranker")


def test_a_database_of_an_earlier_release_goes_on_from_its_revision(tmp_path: Path) -> None:
    """Its revision stood under Alembic's default name, and stays there for the way back."""
    uri = f"sqlite:///{tmp_path / 'b.db'}"
    database = Database(uri)
    with database.writing() as connection:
        for line in (
            f"ALTER TABLE {VERSION_TABLE} RENAME TO alembic_version",
            "UPDATE alembic_version SET version_num = '0002'",
            "DROP TABLE trigger_ends",
            "DROP TABLE monitor_runs",
            "ALTER TABLE triggers DROP COLUMN maturity_days",
            "INSERT INTO refusals (at, actor, via, act, model, version, reason, address) "
            "VALUES ('t', 'a', 'v', 'approve', 'ranker', '1', 'r', 'x')",
        ):
            connection.execute(text(line))
    again = Database(uri)
    assert revisions(again, VERSION_TABLE) == ["0003"]
    assert revisions(again, "alembic_version") == ["0002"]
    assert {"trigger_ends", "monitor_runs"} <= tables(again)
    with again.reading() as connection:
        assert connection.execute(text("SELECT actor FROM refusals")).scalar() == "a"


def test_an_earlier_release_reads_what_a_later_one_made(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'b.db'}"
    with Database(uri).writing() as connection:
        connection.execute(text("CREATE TABLE of_tomorrow (id INTEGER)"))
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    again = Database(uri)
    assert revisions(again, VERSION_TABLE) == ["9999"]
    assert {"ledger", "of_tomorrow"} <= tables(again)


def test_a_carry_over_that_died_in_between_is_done_again(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'b.db'}"
    with Database(uri).writing() as connection:
        connection.execute(text(f"CREATE TABLE alembic_version AS SELECT * FROM {VERSION_TABLE}"))
        connection.execute(text(f"DELETE FROM {VERSION_TABLE}"))
    assert revisions(Database(uri), VERSION_TABLE) == ["0003"]


def test_a_postgres_without_an_encoding_keeps_what_is_written(postgres: str) -> None:
    """As `initdb` makes one where no locale is set."""
    plain = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with plain.connect() as connection:
        connection.execute(
            text("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
        )
    plain.dispose()
    uri = make_url(postgres).set(database="plain").render_as_string(hide_password=False)
    database = Database(uri)
    said = "größer als der Rand"
    with database.writing() as connection:
        connection.execute(
            text(
                "INSERT INTO refusals (at, actor, via, act, model, version, reason, address) "
                "VALUES ('t', 'a', 'v', 'approve', 'ranker', '1', :reason, 'x')"
            ),
            {"reason": said},
        )
    with database.reading() as connection:
        assert connection.execute(text("SELECT reason FROM refusals")).scalar() == said
    database.engine.dispose()
