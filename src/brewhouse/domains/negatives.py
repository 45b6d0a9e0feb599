"""Draws negatives for surfaces whose log holds positives only, and records how."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brewhouse.data.schema import SAMPLED, TIMESTAMP, conform, interactions_schema
from brewhouse.domains.source import Negatives
from brewhouse.errors import DataError

_TRIES = 6


def sample_negatives(
    policy: Negatives,
    *,
    interactions: pa.Table,
    items: pa.Table,
    separator: str | None,
    seed: int,
) -> tuple[pa.Table, dict[str, Any]]:
    """Draw items the member did not touch, from the same weeks as each positive.

    A negative is shown when its own item appeared, exactly as a positive is, so that neither the
    item's age nor the hour tells them apart. It is its own session and never part of a history.

    Returns:
        The drawn rows in canonical schema and a record for the snapshot's manifest. `weight` of a
        row is the number of eligible items each drawn one stands for.
    """
    rng = np.random.default_rng([seed, 77])
    positives = interactions.filter(pc.equal(interactions.column("surface"), policy.surface))
    first = items.sort_by([("created_at", "ascending"), ("item_id", "ascending")])
    item_ids = first.column("item_id").to_numpy(zero_copy_only=False)
    created = first.column("created_at").cast(pa.int64()).to_numpy()
    row_of = {item: row for row, item in enumerate(item_ids)}
    unknown = {i for i in interactions.column("item_id").to_pylist() if i not in row_of}
    if unknown:
        msg = (
            f"interactions name {len(unknown)} items that the items table lacks, such as "
            f"'{min(unknown)}'; mend source.items or source.interactions"
        )
        raise DataError(msg)
    item = np.array([row_of[i] for i in positives.column("item_id").to_pylist()], np.int64)
    member_ids = pc.unique(interactions.column("member_id")).to_pylist()
    code_of = {m: c for c, m in enumerate(member_ids)}
    member = np.array([code_of[m] for m in positives.column("member_id").to_pylist()], np.int64)
    taken = _taken_pairs(policy, interactions, first, row_of, code_of)

    half = int(policy.within.total_seconds() * 1e6)
    same = policy.same_count if policy.same else 0
    anywhere = _draw(rng, created, created[item], half, policy.per_positive)
    groups = [anywhere]
    if same and policy.same:
        values = first.column(policy.same).to_pylist()
        groups.insert(0, _draw_same(rng, values, separator, created, item, half, same))
    drawn = np.concatenate(groups, axis=1)
    keep = _first_valid(drawn, member, item, taken, len(item_ids), policy.per_positive, same)
    row, column = np.nonzero(keep)
    table = _as_interactions(policy, positives, item_ids, created, row, drawn[row, column])
    eligible = np.searchsorted(created, created[item] + half) - np.searchsorted(
        created, created[item] - half
    )
    weight = (eligible / policy.per_positive).astype(np.float32)[row]
    table = table.set_column(table.schema.get_field_index("weight"), "weight", pa.array(weight))
    record = policy.model_dump(mode="json") | {
        "positives": len(item),
        "drawn": table.num_rows,
        "short_of_target": int(len(item) * policy.per_positive - table.num_rows),
        "seed": seed,
    }
    return conform(table, interactions_schema(), name="negatives"), record


def _taken_pairs(
    policy: Negatives,
    interactions: pa.Table,
    items: pa.Table,
    row_of: dict[str, int],
    code_of: dict[str, int],
) -> np.ndarray:
    """Sorted codes of (member, item) pairs that may not be negatives."""
    member = np.array([code_of[m] for m in interactions.column("member_id").to_pylist()])
    item = np.array([row_of[i] for i in interactions.column("item_id").to_pylist()])
    pairs = [member * items.num_rows + item]
    if policy.exclude_authors:
        authors = [code_of.get(a, -1) for a in items.column(policy.exclude_authors).to_pylist()]
        pairs.append(np.array(authors) * items.num_rows + np.arange(items.num_rows))
    return np.unique(np.concatenate(pairs))


def _draw(
    rng: np.random.Generator, created: np.ndarray, at: np.ndarray, half: int, count: int
) -> np.ndarray:
    """Item rows created within `half` of `at`, with replacement. Shape (P, count * _TRIES)."""
    low = np.searchsorted(created, at - half)
    high = np.maximum(np.searchsorted(created, at + half), low + 1)
    u = rng.random((len(at), count * _TRIES))
    return low[:, None] + (u * (high - low)[:, None]).astype(np.int64)


def _draw_same(
    rng: np.random.Generator,
    values: list[str | None],
    separator: str | None,
    created: np.ndarray,
    item: np.ndarray,
    half: int,
    count: int,
) -> np.ndarray:
    """Like `_draw`, among items that share one value of a column; -1 where there is none."""
    split = [(v or "").split(separator) if separator else [v or ""] for v in values]
    lengths = np.array([len(s) for s in split])
    owner = np.repeat(np.arange(len(split)), lengths)
    _, code = np.unique([v for s in split for v in s], return_inverse=True)
    order = np.lexsort((created[owner], code))
    code_sorted, owner_sorted = code[order], owner[order]
    span = int(created.max()) + 2 * half + 1
    key = code_sorted * span + created[owner_sorted]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    pick = starts[item] + (rng.random(len(item)) * lengths[item]).astype(np.int64)
    base = code[pick] * span
    low = np.searchsorted(key, base + np.maximum(created[item] - half, 0))
    high = np.searchsorted(key, base + np.minimum(created[item] + half, span - 1))
    u = rng.random((len(item), count * _TRIES))
    at = low[:, None] + (u * (high - low)[:, None]).astype(np.int64)
    found = owner_sorted[np.minimum(at, len(owner_sorted) - 1)]
    return np.where((high > low)[:, None], found, -1)


def _first_valid(
    drawn: np.ndarray,
    member: np.ndarray,
    item: np.ndarray,
    taken: np.ndarray,
    items: int,
    wanted: int,
    same: int,
) -> np.ndarray:
    """Mark the first `same` valid draws of the same-value block, then fill up to `wanted`."""
    code = member[:, None] * items + drawn
    at = np.minimum(np.searchsorted(taken, code), len(taken) - 1)
    valid = (drawn >= 0) & (taken[at] != code) & (drawn != item[:, None])
    for column in range(1, drawn.shape[1]):
        repeated = (drawn[:, :column] == drawn[:, column : column + 1]) & valid[:, :column]
        valid[:, column] &= ~repeated.any(1)
    block = same * _TRIES
    keep = valid.copy()
    keep[:, :block] &= np.cumsum(valid[:, :block], axis=1) <= same
    return keep & (np.cumsum(keep, axis=1) <= wanted)


def _as_interactions(
    policy: Negatives,
    positives: pa.Table,
    item_ids: np.ndarray,
    created: np.ndarray,
    row: np.ndarray,
    drawn: np.ndarray,
) -> pa.Table:
    parent = positives.take(pa.array(row))
    ids = [f"n{policy.surface}-{n:08d}" for n in range(len(row))]
    shown = parent.column("shown_at").cast(pa.int64()).to_numpy()
    event = parent.column("event_at").cast(pa.int64()).to_numpy()
    known = pa.array(created[drawn] + (event - shown)).cast(TIMESTAMP)
    return pa.table(
        {
            "interaction_id": ids,
            "member_id": parent.column("member_id"),
            "item_id": item_ids[drawn].tolist(),
            "surface": parent.column("surface"),
            "action": ["none"] * len(row),
            "session_id": ids,
            "shown_at": pa.array(created[drawn]).cast(TIMESTAMP),
            "event_at": known,
            "created_at": known,
            "origin": [SAMPLED] * len(row),
            "weight": parent.column("weight"),
        }
    )
