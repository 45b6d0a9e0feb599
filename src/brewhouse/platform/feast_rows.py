"""Rows of Feast's sources that are made, not read: items, and histories as they are known."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import build_timelines, log_from_table
from brewhouse.domains.spec import Domain
from brewhouse.prompts.evidence import ItemBook, ItemText, micros

HISTORY = pa.schema(
    [
        ("member_id", pa.string()),
        ("as_of", pa.timestamp("us", tz="UTC")),
        *((n, pa.list_(pa.string())) for n in ("item_ids", "items", "surfaces", "actions")),
        *(
            (n, pa.list_(pa.int64()))
            for n in ("shown_at", "event_at", "logged_at", "items_created")
        ),
        ("profile_from", pa.list_(pa.int64())),
        ("profiles", pa.list_(pa.string())),
    ]
)
"""Columns of the view `recent_history`, a row a member."""


def items_of(snapshot: Snapshot) -> pa.Table:
    """Items, their creation time under a name of its own: Feast's `created` is another thing."""
    items = snapshot.read("items")
    first_seen = items.column("created_at").cast(pa.int64())
    return items.drop_columns(["created_at"]).append_column("first_seen", first_seen)


def history_rows(
    interactions: pa.Table,
    members: list[dict[str, Any]],
    items: ItemBook,
    domain: Domain,
    *,
    now: datetime,
    lag: timedelta,
) -> list[dict[str, Any]]:
    """Rows of the `recent_history` view for members whose known interactions are given.

    Keeps what a prompt at `now` or later can hold: the newest `max_events` known before the lag,
    and everything after it. Items are kept as facts, as they were when shown: a later version of an
    item must not reach back into a history, and any style can tell them.
    """
    log = log_from_table(interactions)
    timelines = build_timelines(
        log, history_surfaces=domain.history_surfaces, targets=np.zeros(0, np.int64)
    )
    profiles: dict[str, list[tuple[int, str]]] = {}
    for row in sorted(members, key=lambda r: (r["member_id"], r["valid_from"])):
        if row["valid_from"] < now:
            at = int(pd.Timestamp(row["valid_from"]).value // 1_000)
            facts = {c: row[c] for c in domain.members.columns}
            text = json.dumps(facts, sort_keys=True, default=str)
            profiles.setdefault(row["member_id"], []).append((at, text))
    index = {member: i for i, member in enumerate(log.member_ids)}
    limit = int(pd.Timestamp(now - lag).value // 1_000)
    rows = []
    for member, versions in profiles.items():
        events = np.zeros(0, np.int64)
        if member in index:
            m = index[member]
            events = timelines.events_E[timelines.offsets[m] : timelines.offsets[m + 1]]
            old = int((log.known_at[events] < limit).sum())
            events = events[max(0, old - domain.history.max_events - 1) :]
        shown = [items.at(log.item_ids[log.item[e]], int(log.shown_at[e])) for e in events.tolist()]
        rows.append(
            {
                "member_id": member,
                "as_of": now,
                "items": [facts.text for facts in shown],
                "items_created": [facts.created for facts in shown],
                "item_ids": log.item_ids[log.item[events]].tolist(),
                "surfaces": [log.surfaces[s] for s in log.surface[events]],
                "actions": [log.actions[a] for a in log.action[events]],
                "shown_at": log.shown_at[events].tolist(),
                "event_at": log.event_at[events].tolist(),
                "logged_at": log.created_at[events].tolist(),
                "profile_from": [at for at, _ in versions],
                "profiles": [text for _, text in versions],
            }
        )
    return rows


def item_facts(items: pa.Table, domain: Domain) -> ItemBook:
    """Item versions as JSON of the columns that templates may name."""
    versions: dict[str, list[tuple[int, ItemText]]] = {}
    for row in items.to_pylist():
        facts = json.dumps({c: row[c] for c in ("kind", *domain.items.columns)}, default=str)
        told = ItemText(facts, facts, micros(row["created_at"]))
        versions.setdefault(row["item_id"], []).append((micros(row["valid_from"]), told))
    for known in versions.values():
        known.sort(key=lambda pair: pair[0])
    return ItemBook(versions)
