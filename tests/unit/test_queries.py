"""DuckDB's connection: what a query prints, and in which zone it reads times."""

from datetime import UTC, datetime

import pytest

from brewhouse.data.queries import connect, silence

# Long enough that a bar which may come at once does come.
LONG = "SELECT count(DISTINCT random()) FROM range(10000000)"
BAR = "SELECT current_setting('enable_progress_bar')"


def test_a_long_query_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with connect() as db:
        assert db.execute(BAR).fetchone() == (False,)
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
