"""The three canonical tables every domain is mapped onto, and the place their types are cast."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from brewhouse.errors import DataError

TIMESTAMP = pa.timestamp("us", tz="UTC")

COLUMN_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "timestamp": TIMESTAMP,
}

MEMBER_CORE = {"member_id": pa.string(), "valid_from": TIMESTAMP}
ITEM_CORE = {
    "item_id": pa.string(),
    "valid_from": TIMESTAMP,
    "created_at": TIMESTAMP,
    "kind": pa.string(),
}
INTERACTIONS = {
    "interaction_id": pa.string(),
    "member_id": pa.string(),
    "item_id": pa.string(),
    "surface": pa.string(),
    "action": pa.string(),
    "session_id": pa.string(),
    "shown_at": TIMESTAMP,
    "event_at": TIMESTAMP,
    "created_at": TIMESTAMP,
    "origin": pa.string(),
    "weight": pa.float32(),
}
ORACLE = {
    "interaction_id": pa.string(),
    "action": pa.string(),
    "probability": pa.float64(),
    "probability_without_history": pa.float64(),
}

LOGGED, SAMPLED = "logged", "sampled"
"""Values of `origin`: what the log recorded, and negatives drawn by a recorded policy."""


def members_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Schema of versioned member profiles: one row per (member_id, valid_from)."""
    return _schema(MEMBER_CORE, columns)


def items_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Schema of versioned items: one row per (item_id, valid_from)."""
    return _schema(ITEM_CORE, columns)


def interactions_schema() -> pa.Schema:
    """Schema of the interaction log: one row per impression or event."""
    return _schema(INTERACTIONS, {})


def oracle_schema() -> pa.Schema:
    """Schema of a simulation's true action probabilities; only evaluation may read it."""
    return _schema(ORACLE, {})


def _schema(core: Mapping[str, pa.DataType], columns: Mapping[str, str]) -> pa.Schema:
    fields = [pa.field(name, kind, nullable=False) for name, kind in core.items()]
    fields += [pa.field(name, COLUMN_TYPES[kind]) for name, kind in columns.items()]
    return pa.schema(fields)


def conform(table: pa.Table, schema: pa.Schema, *, name: str) -> pa.Table:
    """Cast a table to a canonical schema, column by column.

    Args:
        table: Any Arrow table; columns beyond the schema are dropped.
        schema: One of the canonical schemas.
        name: What to call the table in an error.

    Raises:
        DataError: A column is missing, has a value of the wrong type, or holds nulls where none
            are allowed. Numbers are never read out of text: a text column under a numeric name is
            the mistake this catches.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            have = ", ".join(table.column_names)
            msg = f"{name}: column '{field.name}' is missing (found: {have}); map it in `source`"
            raise DataError(msg)
        column = table.column(field.name)
        columns.append(_cast(column, field, name))
    return pa.Table.from_arrays(columns, schema=schema)


def _cast(column: pa.ChunkedArray, field: pa.Field, name: str) -> pa.ChunkedArray:
    text_in = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    text_out = pa.types.is_string(field.type)
    numeric_out = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
    sample = next((v.as_py() for v in column if v.is_valid), None) if len(column) else None
    if (text_in and numeric_out) or (
        text_out and not text_in and not pa.types.is_null(column.type)
    ):
        msg = (
            f"{name}: column '{field.name}' is {column.type} (for example {sample!r}), expected "
            f"{field.type}; cast it in the domain's `source` query"
        )
        raise DataError(msg)
    try:
        cast = column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        msg = (
            f"{name}: column '{field.name}' is {column.type} (for example {sample!r}) and cannot "
            f"be read as {field.type}: {error}; cast it in the domain's `source` query"
        )
        raise DataError(msg) from error
    if not field.nullable and cast.null_count:
        msg = (
            f"{name}: column '{field.name}' has {cast.null_count} empty values of {len(cast)}; "
            "every row needs one"
        )
        raise DataError(msg)
    return cast
