"""What is known about members and items, ready to be told: the input of every layout.

Offline this comes from snapshots, online from a feature store; both fill the same values, so both
give the same prompt.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from brewhouse.prompts.verbalizer import Verbalizer


class Past(NamedTuple):
    """An interaction of the past. Times are microseconds; `rank` orders by becoming known."""

    rank: int
    at: int
    surface: str
    action: str
    text: str
    created: int


class Version(NamedTuple):
    """A profile version: told at the head of a prompt, or as a change inside it."""

    rank: int
    at: int
    profile: str
    update: str


class ItemText(NamedTuple):
    """An item version as a question and as a history tells it, and when the item appeared."""

    text: str
    past: str
    created: int


def known_rank(event_at: int, created_at: int) -> int:
    """Sort key by which the facts known at moment t are exactly those with rank <= 2 t.

    A fact is known at t when it happened before t and had arrived by t.
    """
    return 2 * max(event_at, created_at) + (event_at >= created_at)


class ItemBook:
    """Item versions by id; `at` gives the one in force."""

    def __init__(self, versions: Mapping[str, Sequence[tuple[int, ItemText]]]) -> None:
        """Take versions as (valid_from, text), oldest first."""
        self._versions = versions

    def at(self, item: str, moment: int) -> ItemText:
        """Newest version valid before `moment`; the first one if none is, for the item is shown."""
        versions = self._versions[item]
        if len(versions) == 1:
            return versions[0][1]
        return versions[max(0, bisect_left(versions, (moment,)) - 1)][1]

    def __contains__(self, item: str) -> bool:
        """Whether the item is known."""
        return item in self._versions


def item_book(items: pa.Table | Iterable[Mapping[str, Any]], verbalizer: Verbalizer) -> ItemBook:
    """Tell every item version once."""
    rows = items.to_pylist() if isinstance(items, pa.Table) else items
    versions: dict[str, list[tuple[int, ItemText]]] = {}
    for row in rows:
        told = ItemText(verbalizer.question(row), verbalizer.past(row), micros(row["created_at"]))
        versions.setdefault(row["item_id"], []).append((micros(row["valid_from"]), told))
    for known in versions.values():
        known.sort(key=lambda pair: pair[0])
    return ItemBook(versions)


def profile_versions(
    members: pa.Table | Iterable[Mapping[str, Any]], verbalizer: Verbalizer
) -> dict[str, list[Version]]:
    """Tell every profile version once, oldest first; those that tell nothing new are left out."""
    rows = members.to_pylist() if isinstance(members, pa.Table) else members
    versions: dict[str, list[Version]] = {}
    for row in sorted(rows, key=lambda r: (r["member_id"], r["valid_from"])):
        at = micros(row["valid_from"])
        version = Version(known_rank(at, at), at, verbalizer.profile(row), verbalizer.update(row))
        mine = versions.setdefault(row["member_id"], [])
        if not mine or mine[-1].profile != version.profile:
            mine.append(version)
    return versions


def micros(value: Any) -> int:
    """Microseconds since the epoch of a datetime, pandas timestamp or integer, exact."""
    if isinstance(value, int | np.integer):
        return int(value)
    if hasattr(value, "value"):
        return int(value.value) // 1_000
    return int(np.datetime64(value.replace(tzinfo=None), "us").astype(np.int64))


def merge(past: Sequence[Past], versions: Sequence[Version]) -> list[Past | Version]:
    """Order interactions and profile changes by becoming known; at a tie interactions first."""
    tagged: list[tuple[int, int, int, Past | Version]] = [
        *((p.rank, 0, i, p) for i, p in enumerate(past)),
        *((v.rank, 1, i, v) for i, v in enumerate(versions)),
    ]
    return [entry[3] for entry in sorted(tagged, key=lambda e: e[:3])]


def known_before(evidence: Sequence[Past | Version], moment: int) -> int:
    """Length of the prefix that was known at `moment`."""
    limit = 2 * moment
    return bisect_left(evidence, limit + 1, key=lambda e: e.rank)
