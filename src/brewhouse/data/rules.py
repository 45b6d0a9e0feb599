"""Rules across tables that no single-table expectation can state: references and ages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brewhouse.data.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class RuleFinding:
    """A broken rule: what it says, how many rows break it, one example of a time or an item."""

    what: str
    rows: int
    example: str


def check_references(snapshot: Snapshot) -> Iterator[RuleFinding]:
    """Find interactions of unknown members or items, and items shown before they existed.

    An item shown before its creation would have a negative age: a clock or a join is wrong. Reads
    one month of the log at a time.
    """
    items = snapshot.read("items", columns=["item_id", "created_at"])
    first = items.group_by("item_id").aggregate([("created_at", "min")])
    members = pc.unique(snapshot.read("members", columns=["member_id"]).column("member_id"))
    unknown = {"member": 0, "item": 0}
    early, example = 0, ""
    for month in snapshot.months():
        log = snapshot.read(
            "interactions", columns=["member_id", "item_id", "shown_at"], months=[month]
        )
        unknown["member"] += _missing(log.column("member_id"), members)
        at = pc.index_in(log.column("item_id"), first.column("item_id"))
        found = pc.is_valid(at)
        unknown["item"] += log.num_rows - (pc.sum(found).as_py() or 0)
        log, at = log.filter(found), at.drop_null()
        created = first.column("created_at_min").take(at).cast(pa.int64()).to_numpy()
        shown = log.column("shown_at").cast(pa.int64()).to_numpy()
        bad = np.flatnonzero(shown < created)
        if len(bad) and not example:
            hours = (created[bad[0]] - shown[bad[0]]) / 3.6e9
            example = f"item {log.column('item_id')[int(bad[0])]} shown {hours:.1f} h before"
        early += len(bad)
    for what, rows in unknown.items():
        if rows:
            yield RuleFinding(what=f"every interaction names a known {what}", rows=rows, example="")
    if early:
        yield RuleFinding(
            what="no item is shown before its creation (negative age)", rows=early, example=example
        )


def _missing(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> int:
    return len(ids) - int(pc.sum(pc.is_in(ids, value_set=known)).as_py() or 0)


def excluded_members(members: pa.Table, column: str, allowed: list[str]) -> set[str]:
    """Members of whom any profile version lies outside the allowed regions."""
    outside = pc.invert(pc.is_in(members.column(column), value_set=pa.array(allowed)))
    outside = pc.fill_null(outside, fill_value=True)
    return set(members.filter(outside).column("member_id").to_pylist())
