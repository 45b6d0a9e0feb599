"""Part of step 4: what results are told apart by, a column a slice dimension, for each test row."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa

from brewhouse.data.queries import connect
from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.spec import Domain

PREFIX = "slice_"
"""In front of the names of columns of a domain's own slices, region among them."""


def add_facets(rows: pa.Table, cut: Snapshot, domain: Domain, *, tests_start: datetime) -> pa.Table:
    """Add `item_age_days`, `tenure_days`, `popularity` and the domain's own slices.

    Args:
        rows: Test rows with `row`, `member`, `item` and `shown_at` (UTC).
        cut: Items, profiles and the log.
        domain: Names slices and the region.
        tests_start: Start of the first test window: popularity is what the log held of an item
            before it.

    Returns:
        The rows in their order. Ages are in days, null where nothing is known of the item or
        member at the moment; popularity is a number of interactions.
    """
    own = {name: (one.of, one.column) for name, one in domain.slices.items()}
    if domain.regions:
        own["region"] = ("member", domain.regions.column)
    with connect() as db:
        db.register("test_rows", rows.append_column("at", pa.array(range(len(rows)))))
        db.register("items", cut.read("items"))
        db.register("members", cut.read("members"))
        db.register("log", cut.read("interactions", columns=["item_id", "event_at", "origin"]))
        chosen = "".join(
            f', CAST({of}_now."{column}" AS VARCHAR) AS "{PREFIX}{name}"'
            for name, (of, column) in own.items()
        )
        found: pa.Table = db.execute(
            f"""
            WITH first_profile AS (
                SELECT member_id, min(valid_from) AS since FROM members GROUP BY member_id
            ), seen AS (
                SELECT item_id, count(*) AS n FROM log
                WHERE event_at < $start AND origin = 'logged' GROUP BY item_id
            ), born AS (
                SELECT item_id, min(created_at) AS created_at FROM items GROUP BY item_id
            )
            SELECT r.at,
                   greatest(0, epoch(r.shown_at) - epoch(born.created_at)) / 86400
                       AS item_age_days,
                   greatest(0, epoch(r.shown_at) - epoch(p.since)) / 86400 AS tenure_days,
                   coalesce(seen.n, 0) AS popularity
                   {chosen}
            FROM test_rows r
            LEFT JOIN first_profile p ON p.member_id = r.member
            LEFT JOIN seen ON seen.item_id = r.item
            LEFT JOIN born ON born.item_id = r.item
            ASOF LEFT JOIN members member_now
                ON member_now.member_id = r.member AND r.shown_at >= member_now.valid_from
            ASOF LEFT JOIN items item_now
                ON item_now.item_id = r.item AND r.shown_at >= item_now.valid_from
            ORDER BY r.at
            """,
            {"start": tests_start.astimezone(UTC)},
        ).to_arrow_table()
    for name in found.column_names[1:]:
        rows = rows.append_column(name, found.column(name))
    return rows
