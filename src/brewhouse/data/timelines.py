"""Timelines: each member's interactions in the order in which they became known.

Arrays here follow the CSR convention: `offsets[m]:offsets[m + 1]` are the rows of member m. Times
are int64 microseconds since the epoch, UTC. Suffixes: _M members, _E history events, _Q targets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brewhouse.data.schema import LOGGED
from brewhouse.errors import LeakError

_PAIRS_AT_ONCE = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Log:
    """The interaction log as arrays, one entry a row, codes instead of strings."""

    interaction_id: np.ndarray
    member: np.ndarray
    item: np.ndarray
    surface: np.ndarray
    action: np.ndarray
    session: np.ndarray
    shown_at: np.ndarray
    event_at: np.ndarray
    created_at: np.ndarray
    logged: np.ndarray
    weight: np.ndarray
    member_ids: np.ndarray
    item_ids: np.ndarray
    surfaces: tuple[str, ...]
    actions: tuple[str, ...]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.member)

    @property
    def known_at(self) -> np.ndarray:
        """When each row became known: the later of the event and its arrival in the log."""
        return np.maximum(self.event_at, self.created_at)


def log_from_table(table: pa.Table) -> Log:
    """Encode a canonical interactions table; rows keep their order."""

    def coded(name: str) -> tuple[np.ndarray, np.ndarray]:
        column = pc.dictionary_encode(table.column(name).combine_chunks())
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        values = np.array(column.dictionary.to_pylist(), dtype=object)
        order = np.argsort(values) if len(values) else np.zeros(0, np.int64)
        rank = np.empty(len(values), np.int64)
        rank[order] = np.arange(len(values))
        codes = rank[column.indices.to_numpy(zero_copy_only=False)]
        return codes.astype(np.int64), values[order]

    def micros(name: str) -> np.ndarray:
        return table.column(name).cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()

    member, member_ids = coded("member_id")
    item, item_ids = coded("item_id")
    surface, surfaces = coded("surface")
    action, actions = coded("action")
    session, _ = coded("session_id")
    return Log(
        interaction_id=np.array(table.column("interaction_id").to_pylist(), dtype=object),
        member=member,
        item=item,
        surface=surface,
        action=action,
        session=session,
        shown_at=micros("shown_at"),
        event_at=micros("event_at"),
        created_at=micros("created_at"),
        logged=pc.equal(table.column("origin"), LOGGED).to_numpy(zero_copy_only=False),
        weight=table.column("weight").to_numpy().astype(np.float32),
        member_ids=member_ids,
        item_ids=item_ids,
        surfaces=tuple(surfaces),
        actions=tuple(actions),
    )


@dataclass(frozen=True, kw_only=True)
class Timelines:
    """History events sorted by member and known order, and targets with their branch points.

    `events_E` and `targets_Q` index rows of `log`. `branch_Q` counts the events of the target's
    member that were known at its moment: its history is the prefix of that length. `request_at_Q`
    is when the target's session began; `moment_Q` is that less the domain's history lag.
    """

    log: Log
    events_E: np.ndarray
    offsets: np.ndarray
    targets_Q: np.ndarray
    request_at_Q: np.ndarray
    moment_Q: np.ndarray
    branch_Q: np.ndarray

    def history(self, query: int) -> np.ndarray:
        """Rows of `log` known at the moment of target number `query`, oldest first."""
        start = self.offsets[self.log.member[self.targets_Q[query]]]
        return self.events_E[start : start + self.branch_Q[query]]

    def request_keys(self, queries: np.ndarray) -> tuple[np.ndarray, ...]:
        """Keys for `numpy.lexsort` that put targets of a member into requests.

        A session is a request; inside it targets stand by item, not by their place in the log, so
        that the same candidates make the same tree wherever they were listed.
        """
        row = self.targets_Q[queries]
        return row, self.log.item[row], self.log.session[row], self.moment_Q[queries]


def known_ranks(log: Log) -> np.ndarray:
    """Sort key by which the rows known at moment t are exactly those with rank <= 2 t.

    Twice `known_at`, plus one where the event itself happened then: at that very instant such a row
    is not yet known, while one that happened earlier and only arrived then is.
    """
    return 2 * log.known_at + (log.event_at >= log.created_at)


def session_starts(log: Log) -> np.ndarray:
    """Earliest `shown_at` of each row's session (sessions are per member)."""
    keys = log.member * (int(log.session.max(initial=0)) + 1) + log.session
    _, inverse = np.unique(keys, return_inverse=True)
    first = np.full(inverse.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(first, inverse, log.shown_at)
    return first[inverse]


def build_timelines(
    log: Log,
    *,
    history_surfaces: Iterable[str],
    lag_micros: int = 0,
    targets: np.ndarray | None = None,
) -> Timelines:
    """Sort the log once and find, for every target, how much of it was known at its moment.

    An event is known at t when `event_at < t` and `created_at <= t`. Ordering events by
    `known_at = max(event_at, created_at)`, those that only arrived at t before those that happened
    at t, makes the known events of any moment a prefix, so one merge finds every branch point.

    Args:
        log: The interaction log of some members (whole members only).
        history_surfaces: Surfaces whose events may stand in a history.
        lag_micros: Distance kept between the end of history and the target's session.
        targets: Rows of `log` to be asked about; all rows by default.
    """
    wanted = np.isin(np.array(log.surfaces), list(history_surfaces))
    rows = np.flatnonzero(log.logged & wanted[log.surface])
    rank = known_ranks(log)
    order = np.lexsort(
        (rows, log.item[rows], log.shown_at[rows], log.event_at[rows], rank[rows], log.member[rows])
    )
    events = rows[order]
    members = len(log.member_ids)
    counts = np.bincount(log.member[events], minlength=members)
    offsets = np.concatenate([[0], np.cumsum(counts)])

    asked = np.arange(len(log)) if targets is None else np.asarray(targets)
    request_at = session_starts(log)[asked]
    moment = request_at - lag_micros
    branch = merge_count(log.member[events], rank[events], log.member[asked], 2 * moment)
    branch -= offsets[log.member[asked]]
    return Timelines(
        log=log,
        events_E=events,
        offsets=offsets,
        targets_Q=asked,
        request_at_Q=request_at,
        moment_Q=moment,
        branch_Q=branch,
    )


def merge_count(
    member_E: np.ndarray, rank_E: np.ndarray, member_Q: np.ndarray, limit_Q: np.ndarray
) -> np.ndarray:
    """For sorted (member, rank) events, count those at or before (member, limit) of each query."""
    member = np.concatenate([member_E, member_Q])
    rank = np.concatenate([rank_E, limit_Q])
    is_query = np.concatenate([np.zeros(len(member_E), np.int8), np.ones(len(member_Q), np.int8)])
    order = np.lexsort((is_query, rank, member))
    seen = np.cumsum(1 - is_query[order].astype(np.int64))
    counts = np.empty(len(member), np.int64)
    counts[order] = seen
    return counts[len(member_E) :]


def assert_no_leak(timelines: Timelines, *, newest: int | None = None) -> int:
    """Check every history against the definition, not against the way it was built.

    Args:
        timelines: What `build_timelines` returned.
        newest: Check only that many of the newest events of each history: those a prompt can hold.

    Returns:
        Number of (target, event) pairs checked.

    Raises:
        LeakError: A target's history holds an event of its future, one that was logged later than
            its moment, or one of its own session.
    """
    lengths = timelines.branch_Q if newest is None else np.minimum(timelines.branch_Q, newest)
    total = np.cumsum(lengths)
    begin = 0
    while begin < len(total):
        done = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, done + _PAIRS_AT_ONCE)))
        _assert_pairs(timelines, np.arange(begin, min(end, len(total))), lengths)
        begin = end
    return int(lengths.sum())


def _assert_pairs(timelines: Timelines, queries: np.ndarray, used_Q: np.ndarray) -> None:
    log = timelines.log
    target = timelines.targets_Q[queries]
    lengths = used_Q[queries]
    starts = timelines.offsets[log.member[target]] + timelines.branch_Q[queries] - lengths
    event = timelines.events_E[_ranges(starts, lengths)]
    query = np.repeat(np.arange(len(queries)), lengths)
    moment = timelines.moment_Q[queries][query]
    problems = {
        "happened at or after the moment": log.event_at[event] >= moment,
        "was logged after the moment": log.created_at[event] > moment,
        "belongs to the target's own session": log.session[event] == log.session[target][query],
        "belongs to another member": log.member[event] != log.member[target][query],
    }
    for what, bad in problems.items():
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            msg = (
                f"history of target {log.interaction_id[target[query[first]]]}: interaction "
                f"{log.interaction_id[event[first]]} {what} ({int(bad.sum())} such pairs); "
                "the timeline is not point-in-time correct"
            )
            raise LeakError(msg)


def _ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the integer ranges [start, start + length)."""
    total = int(lengths.sum())
    before = np.repeat(np.cumsum(lengths) - lengths, lengths)
    return np.arange(total) - before + np.repeat(starts, lengths)
