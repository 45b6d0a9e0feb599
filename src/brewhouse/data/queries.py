"""DuckDB as every query here opens it: bounded, silent, off the network."""

import duckdb

SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "4GB",
    "autoinstall_known_extensions": False,
}


def connect() -> duckdb.DuckDBPyConnection:
    """A database in memory, of this process alone; times are read and told in UTC."""
    connection = duckdb.connect(config=SETTINGS)
    connection.execute("SET TimeZone = 'UTC'")
    silence(connection)
    return connection


def silence(connection: duckdb.DuckDBPyConnection) -> None:
    """Keep the progress bar off, which would stand in the midst of what `--json` prints.

    DuckDB draws it on standard output, terminal or not, once a query takes two seconds, where
    Python runs without a script: `python -c`, a notebook.
    """
    connection.execute("SET enable_progress_bar = false")
