"""DuckDB's connection: what a query prints, and in which zone it reads times."""

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from brewhouse.data.queries import connect, silence

# Long enough that a bar which may come at once does come.
LONG = "SELECT count(DISTINCT random()) FROM range(10000000)"
BAR = "SELECT current_setting('enable_progress_bar')"


def test_without_a_script_there_is_no_bar_either() -> None:
    """Which is where DuckDB has one by itself."""
    for opened, bar in (("duckdb", "True"), ("brewhouse.data.queries", "False")):
        code = f"import {opened} as of; print(*of.connect().execute({BAR!r}).fetchone())"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert told.stdout.strip() == bar, told.stderr


def test_a_long_query_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with connect() as db:
        # Which turns the bar on, and lets it come at once, even for the next setting.
        db.execute("SET progress_bar_time = 0")
        silence(db)
        capfd.readouterr()
        db.execute(LONG).fetchall()
        db.sql(LONG).to_arrow_table()
    assert capfd.readouterr() == ("", "")


def test_times_are_utc_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    with connect() as db:
        told = db.sql("SELECT TIMESTAMPTZ '2024-03-01 12:00:00' AS at").to_arrow_table()
    assert told.column("at").to_pylist() == [datetime(2024, 3, 1, 12, tzinfo=UTC)]
