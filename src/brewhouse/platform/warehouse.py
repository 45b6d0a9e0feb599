"""Tables of a snapshot in Postgres, where Feast's offline store may be: a schema a snapshot.

Snapshots never change, so neither do their schemas: a retraining on the past and the newest log
lie side by side, and whoever finds a schema whole reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from brewhouse.errors import DataError

WHOLE = "whole"
"""Table that is made last: the mark of completeness."""
_BATCH = 50_000
_TYPES: list[tuple[Any, str]] = [
    (pa.types.is_string, "text"),
    (pa.types.is_large_string, "text"),
    (pa.types.is_boolean, "boolean"),
    (pa.types.is_integer, "bigint"),
    (pa.types.is_floating, "double precision"),
    (pa.types.is_timestamp, "timestamptz"),
]


def schema_of(digest: str) -> str:
    """Name of a snapshot's schema."""
    return f"snapshot_{digest.removeprefix('sha256:')[:16]}"


def load(
    connection: Mapping[str, Any], schema: str, tables: Mapping[str, Iterable[pa.Table]]
) -> bool:
    """Write tables into a schema; return whether there was anything to do.

    Either all of it is there afterwards or nothing is; of two that write at once one waits and
    finds it whole.

    Args:
        connection: `host`, `port`, `dbname`, `user`, `password`, `sslmode` of libpq.
        schema: Of the snapshot.
        tables: Parts of each table, all of one schema.

    Raises:
        DataError: A column has a type that Postgres is not given here, or the server refuses.
    """
    import psycopg
    from psycopg import sql

    try:
        with psycopg.connect(**connection) as link, link.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(hashtext(%s))", (schema,))
            cursor.execute("SELECT to_regclass(%s)", (f"{schema}.{WHOLE}",))
            if (cursor.fetchone() or (None,))[0] is not None:
                return False
            cursor.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            for name, parts in tables.items():
                _write(cursor, sql.Identifier(schema, name), parts)
            mark = sql.SQL("CREATE TABLE {} ()").format(sql.Identifier(schema, WHOLE))
            cursor.execute(mark)
    except psycopg.Error as error:
        told = str(error).splitlines()[0]
        msg = f"the warehouse at {connection.get('host')} did not take {schema}: {told}"
        raise DataError(msg) from error
    return True


def _write(cursor: Any, table: Any, parts: Iterable[pa.Table]) -> None:
    from psycopg import sql

    made = False
    for part in parts:
        if not made:
            columns = [
                sql.SQL("{} {}").format(sql.Identifier(field.name), sql.SQL(_type(field)))
                for field in part.schema
            ]
            wanted = sql.SQL("CREATE TABLE {} ({})").format(table, sql.SQL(", ").join(columns))
            cursor.execute(wanted)
            made = True
        names = sql.SQL(", ").join(sql.Identifier(name) for name in part.column_names)
        with cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, names)) as copy:
            for batch in part.to_batches(max_chunksize=_BATCH):
                for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    copy.write_row(row)


def _type(field: pa.Field) -> str:
    kind, suffix = field.type, ""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind):
        kind, suffix = kind.value_type, "[]"
    for matches, name in _TYPES:
        if matches(kind):
            return name + suffix
    msg = f"column {field.name} has type {field.type}, which has no counterpart in Postgres here"
    raise DataError(msg)
