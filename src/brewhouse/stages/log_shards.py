"""Reads the interaction log through Feast into member shards, less members who may not be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.rules import excluded_members
from brewhouse.data.schema import TIMESTAMP
from brewhouse.data.snapshot import Snapshot, shard_of
from brewhouse.data.splits import TemporalSplit
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import DataError
from brewhouse.platform.feast_store import FeastStore
from brewhouse.processes import allow_open_files
from brewhouse.stages.common import tell

LOG, MEMBERS = "log.parquet", "members.parquet"
"""Files of a shard of members: its interactions, and its members' profile versions."""


def pull_log(
    folder: DomainFolder,
    domain: str,
    cut: Snapshot,
    features: Path,
    logs: Path,
    *,
    shards: int = 0,
    members: pa.Array | None = None,
    known_by: datetime | None = None,
    watch: Callable[[pa.Table], None] = lambda _: None,
) -> Counter[str]:
    """Read the log through Feast month by month and sort it into member shards on disk.

    Members outside the allowed regions are left out. Returns counts of what was read and left out.

    Args:
        folder: The domain.
        domain: How `load_domain` finds it.
        cut: Snapshot.
        features: Feature folder.
        logs: Folder to write; a folder a shard that has rows.
        shards: Shards of members; as many as the snapshot has if 0.
        members: Read only theirs; everyone's if None.
        known_by: Leave out what the log learned later; aware.
        watch: Sees every month's rows that are kept.

    Raises:
        ConfigError: The system does not let as many files be open as there are shards.
        DataError: There are no interactions of allowed members.
    """
    spec, shards = folder.domain, shards or cut.shards
    out = set()
    if spec.regions:
        profiles = cut.read("members", columns=["member_id", spec.regions.column])
        out = excluded_members(profiles, spec.regions.column, spec.regions.allowed)
    counts: Counter[str] = Counter(members_outside_regions=len(out))
    store = FeastStore(
        features, domain=spec, domain_path=domain, state=logs.parent, reads_only=True
    )
    store.apply()
    allow_open_files(shards, what=f"{shards:,} shards of members")
    writers: dict[int, pq.ParquetWriter] = {}
    for month in cut.months():
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        end = (start + timedelta(days=32)).replace(day=1)
        table = store.interactions(start, end)
        if known_by is not None:
            moment = pa.scalar(known_by, TIMESTAMP)
            table = table.filter(pc.less_equal(table.column("created_at"), moment))
        if members is not None:
            table = table.filter(pc.is_in(table.column("member_id"), value_set=members))
        outside = pc.is_in(table.column("member_id"), value_set=pa.array(sorted(out), pa.string()))
        counts["rows_outside_regions"] += int(pc.sum(outside).as_py() or 0)
        table = table.filter(pc.invert(outside))
        counts["rows"] += table.num_rows
        watch(table)
        shard = _shards(table.column("member_id"), shards)
        # Sorted once: a filter a shard would read the month as often as there are shards.
        order = np.argsort(shard, kind="stable")
        table, shard = table.take(pa.array(order)), shard[order]
        # A month may be empty: all of it newer than `known_by`, or of members outside.
        numbers, sizes = np.unique(shard, return_counts=True)
        ends = np.cumsum(sizes)
        for number, size, end_at in zip(
            numbers.tolist(), sizes.tolist(), ends.tolist(), strict=True
        ):
            part = table.slice(end_at - size, size)
            path = logs / str(number) / LOG
            if number not in writers:
                path.parent.mkdir(parents=True, exist_ok=True)
                writers[number] = pq.ParquetWriter(path, part.schema)
            writers[number].write_table(part)
    for writer in writers.values():
        writer.close()
    if writers:
        _write_members(cut, logs, shards)
    if not writers and members is None:
        msg = "no interactions of allowed members; check regions.allowed in the domain"
        raise DataError(msg)
    tell(
        f"{counts['rows']:,} interactions through Feast; {len(out):,} members outside the allowed "
        "regions left out"
    )
    return counts


def _write_members(cut: Snapshot, logs: Path, shards: int) -> None:
    """Profiles of each shard's members beside its log; months of the log are gone from memory."""
    members = cut.read("members")
    shard = _shards(members.column("member_id"), shards)
    order = np.argsort(shard, kind="stable")
    members, shard = members.take(pa.array(order)), shard[order]
    for number in (int(path.name) for path in logs.iterdir()):
        lo, hi = np.searchsorted(shard, [number, number + 1]).tolist()
        pq.write_table(members.slice(lo, hi - lo), logs / str(number) / MEMBERS)


def _shards(ids: pa.ChunkedArray, shards: int) -> np.ndarray:
    if not len(ids):
        return np.zeros(0, np.int64)
    coded = ids.combine_chunks().dictionary_encode()
    of = np.array([shard_of(m, shards) for m in coded.dictionary.to_pylist()], np.int64)
    return of[coded.indices.to_numpy()]


class SessionCounts:
    """Counts test sessions of the surfaces asked about, as the log passes by.

    Attributes:
        daily: Rows of the first test window by day and surface.
    """

    def __init__(self, split: TemporalSplit, asked: set[str]) -> None:
        self._split, self._asked = split, pa.array(sorted(asked), pa.string())
        self._found: dict[str, set[str]] = {}
        self.daily: dict[str, Counter[str]] = {}

    def __call__(self, table: pa.Table) -> None:
        """Take some rows of the log."""
        table = table.filter(pc.is_in(table.column("surface"), value_set=self._asked))
        shown = table.column("shown_at")
        first = min(self._split.tests)
        for weeks, window in self._split.tests.items():
            lo, hi = (pa.scalar(t, TIMESTAMP) for t in (window.start, window.end))
            inside = table.filter(pc.and_(pc.greater_equal(shown, lo), pc.less(shown, hi)))
            for surface, session in zip(
                inside.column("surface").to_pylist(),
                inside.column("session_id").to_pylist(),
                strict=True,
            ):
                self._found.setdefault(surface, set()).add(session)
            if weeks == first:
                days = pc.strftime(inside.column("shown_at"), format="%Y-%m-%d").to_pylist()
                for day, surface in zip(days, inside.column("surface").to_pylist(), strict=True):
                    self.daily.setdefault(day, Counter())[surface] += 1

    @property
    def counts(self) -> Counter[str]:
        """Sessions a surface."""
        return Counter({k: len(v) for k, v in self._found.items()})


def test_share(sessions: Counter[str], limit: int) -> dict[str, float]:
    """Share of test sessions kept a surface: small surfaces whole, large ones cut alike."""
    left, share = limit, {}
    for done, (surface, count) in enumerate(sorted(sessions.items(), key=lambda kv: kv[1])):
        fair = left / (len(sessions) - done)
        share[surface] = min(1.0, fair / max(count, 1))
        left -= int(min(count, fair))
    return share
