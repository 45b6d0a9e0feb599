"""Requests of batch scoring: which items a member may be shown, where and when."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from brewhouse.data.schema import SAMPLED, TIMESTAMP, conform, interactions_schema
from brewhouse.data.snapshot import Snapshot
from brewhouse.errors import ConfigError, DataError

SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("member_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("surface", pa.string(), nullable=False),
        pa.field("at", TIMESTAMP, nullable=False),
    ]
)
"""One row a candidate. Rows with the same `request_id` are one request: one member, surface and
moment."""


def read_requests(path: Path, *, surface: str = "", at: datetime | None = None) -> pa.Table:
    """Read candidates from Parquet or CSV.

    Args:
        path: Columns `member_id` and `item_id`; `surface`, `at` and `request_id` where they differ
            between rows. Without `request_id`, rows of one member, surface and moment are one
            request.
        surface: Surface of all rows, where the file has no such column.
        at: Moment of all rows, likewise; aware.

    Returns:
        A table of `SCHEMA`, rows in the order of the file.

    Raises:
        ConfigError: The file cannot be read, or says nothing of surface or moment.
        DataError: A column is missing or has the wrong type, or rows of a request disagree.
    """
    table = _read(path)
    if "surface" not in table.column_names:
        if not surface:
            msg = f"{path} has no column 'surface'; add it, or name the surface of all rows"
            raise ConfigError(msg)
        table = table.append_column("surface", pa.array([surface] * len(table), pa.string()))
    if "at" not in table.column_names:
        if at is None:
            msg = f"{path} has no column 'at'; add it, or give the moment of all rows"
            raise ConfigError(msg)
        table = table.append_column("at", pa.array([at] * len(table), TIMESTAMP))
    return _checked(table, str(path))


def cross(members: Path, items: Path, *, surface: str, at: datetime) -> pa.Table:
    """Every member with every item: one request a member.

    Args:
        members: Parquet or CSV with a column `member_id`.
        items: The same with `item_id`.
        surface: Where all would be shown.
        at: When; aware.
    """
    lists = []
    for path, name in ((members, "member_id"), (items, "item_id")):
        table = _read(path)
        wanted = pa.schema([pa.field(name, pa.string(), nullable=False)])
        lists.append(pc.unique(conform(table, wanted, name=str(path)).column(name)))
    rows, columns = len(lists[0]), len(lists[1])
    place = pa.array(np.repeat(np.arange(rows), columns))
    candidate = pa.array(np.tile(np.arange(columns), rows))
    table = pa.table(
        {
            "member_id": lists[0].take(place),
            "item_id": lists[1].take(candidate),
            "surface": pa.array([surface] * (rows * columns), pa.string()),
            "at": pa.array([at] * (rows * columns), TIMESTAMP),
        }
    )
    return _checked(table, f"{members} x {items}")


def check_requests(
    requests: pa.Table, snapshot: Snapshot, surfaces: Iterable[str], excluded: Iterable[str]
) -> None:
    """Refuse what cannot be scored, before any work is done.

    Args:
        requests: Of `SCHEMA`.
        snapshot: Profiles and items.
        surfaces: Surfaces that questions are asked about.
        excluded: Members outside the allowed regions.

    Raises:
        DataError: A member or item is not in the snapshot, a member lies outside the allowed
            regions, or nothing is asked about a surface.
    """
    asked = sorted(set(surfaces))
    why = f"no task asks about it; the tasks ask about {', '.join(asked)}"
    _refuse_unknown(requests, "surface", pa.array(asked, pa.string()), why)
    for name, kind in (("member_id", "members"), ("item_id", "items")):
        known = pc.unique(snapshot.read(kind, columns=[name]).column(name))
        why = f"it is not among the {kind} of the snapshot; import a newer one, or leave it out"
        _refuse_unknown(requests, name, known, why)
    outside = pc.is_in(
        requests.column("member_id"), value_set=pa.array(list(excluded), pa.string())
    )
    why = "the member lies outside the allowed regions; leave the rows out"
    _refuse(requests, "member_id", outside, why)


def as_interactions(requests: pa.Table, *, action: str) -> pa.Table:
    """Requests as rows behind a log, none of them evidence: what timelines can be asked about.

    Args:
        requests: Of `SCHEMA`, with a column `row` that names each.
        action: Stands where none has happened; any that the domain knows.
    """
    count = len(requests)
    at = requests.column("at")
    columns = {
        "interaction_id": requests.column("row"),
        "member_id": requests.column("member_id"),
        "item_id": requests.column("item_id"),
        "surface": requests.column("surface"),
        "action": pa.array([action] * count, pa.string()),
        # The log's own sessions must not be taken for these.
        "session_id": pc.binary_join_element_wise("request", requests.column("request_id"), "\n"),
        "shown_at": at,
        "event_at": at,
        "created_at": at,
        "origin": pa.array([SAMPLED] * count, pa.string()),
        "weight": pa.array(np.ones(count), pa.float32()),
    }
    return pa.table(columns, schema=interactions_schema())


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix == ".csv":
            return pyarrow.csv.read_csv(path, convert_options=_AS_TEXT)
        return pq.ParquetFile(path).read()
    except (OSError, pa.ArrowException) as error:
        cause = str(error).splitlines()[0]
        msg = f"{path} cannot be read as {path.suffix or 'Parquet'}: {cause}; give Parquet or CSV"
        raise ConfigError(msg) from error


_AS_TEXT = pyarrow.csv.ConvertOptions(
    column_types={n: pa.string() for n in ("request_id", "member_id", "item_id", "surface")},
    timestamp_parsers=[pyarrow.csv.ISO8601, "%Y-%m-%d"],
)


def _checked(table: pa.Table, name: str) -> pa.Table:
    if not len(table):
        msg = f"{name} holds no candidate; give at least one row"
        raise DataError(msg)
    given = "request_id" in table.column_names
    if not given:
        table = table.append_column("request_id", pa.array([""] * len(table), pa.string()))
    table = conform(table, SCHEMA, name=name)
    key = pc.binary_join_element_wise(
        table.column("member_id"),
        table.column("surface"),
        table.column("at").cast(pa.int64()).cast(pa.string()),
        "\n",
    )
    if not given:
        place = pc.cast(pc.index_in(key, value_set=pc.unique(key)), pa.string())
        return table.set_column(0, SCHEMA.field("request_id"), place)
    pairs = pa.table({"request": table.column("request_id"), "key": key})
    kinds = pairs.group_by("request").aggregate([("key", "count_distinct")])
    mixed = kinds.filter(pc.greater(kinds.column("key_count_distinct"), 1))
    if len(mixed):
        msg = (
            f"{name}: request {mixed.column('request')[0]} names several members, surfaces or "
            f"moments ({len(mixed)} such requests); give each its own request_id"
        )
        raise DataError(msg)
    return table


def _refuse_unknown(requests: pa.Table, name: str, known: pa.Array, why: str) -> None:
    _refuse(requests, name, pc.invert(pc.is_in(requests.column(name), value_set=known)), why)


def _refuse(requests: pa.Table, name: str, wrong: pa.ChunkedArray, why: str) -> None:
    count = pc.sum(wrong).as_py() or 0
    if count:
        first = requests.column(name).filter(wrong)[0].as_py()
        msg = f"{count:,} of {len(requests):,} candidates, such as {name} '{first}': {why}"
        raise DataError(msg)
