"""Reads the interaction log through Feast into member shards, less members who may not be used."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.rules import excluded_members
from brewhouse.data.snapshot import Snapshot, shard_of
from brewhouse.data.splits import TemporalSplit
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import DataError
from brewhouse.platform.feast_store import FeastStore
from brewhouse.stages.common import tell


def pull_log(
    folder: DomainFolder,
    domain: str,
    cut: Snapshot,
    features: Path,
    logs: Path,
    split: TemporalSplit,
    asked: set[str],
) -> tuple[Counter[str], Counter[str]]:
    """Read the log through Feast month by month and sort it into member shards on disk.

    Members outside the allowed regions are left out. Returns counts of what was read and left out,
    and test sessions a surface, of the surfaces asked about.
    """
    spec = folder.domain
    out = set()
    if spec.regions:
        members = cut.read("members", columns=["member_id", spec.regions.column])
        out = excluded_members(members, spec.regions.column, spec.regions.allowed)
    counts: Counter[str] = Counter(members_outside_regions=len(out))
    sessions: dict[str, set[str]] = {}
    store = FeastStore(features, domain=spec, domain_path=domain, state=logs.parent)
    store.apply()
    writers: dict[int, pq.ParquetWriter] = {}
    for month in cut.months():
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        end = (start + timedelta(days=32)).replace(day=1)
        table = store.interactions(start, end)
        outside = pc.is_in(table.column("member_id"), value_set=pa.array(sorted(out), pa.string()))
        counts["rows_outside_regions"] += int(pc.sum(outside).as_py() or 0)
        table = table.filter(pc.invert(outside))
        counts["rows"] += table.num_rows
        _count_sessions(table, split, asked, sessions)
        shard = _shards(table.column("member_id"), cut.shards)
        for number in np.unique(shard).tolist():
            part = table.filter(pa.array(shard == number))
            path = logs / str(number) / "log.parquet"
            if number not in writers:
                path.parent.mkdir(parents=True, exist_ok=True)
                writers[number] = pq.ParquetWriter(path, part.schema)
            writers[number].write_table(part)
    for writer in writers.values():
        writer.close()
    if not writers:
        msg = "no interactions of allowed members; check regions.allowed in the domain"
        raise DataError(msg)
    tell(
        f"{counts['rows']:,} interactions through Feast; {len(out):,} members outside the allowed "
        "regions left out"
    )
    return counts, Counter({k: len(v) for k, v in sessions.items()})


def _shards(ids: pa.ChunkedArray, shards: int) -> np.ndarray:
    of = {member: shard_of(member, shards) for member in pc.unique(ids).to_pylist()}
    return np.array([of[member] for member in ids.to_pylist()], np.int64)


def _count_sessions(
    table: pa.Table, split: TemporalSplit, asked: set[str], found: dict[str, set[str]]
) -> None:
    table = table.filter(pc.is_in(table.column("surface"), value_set=pa.array(sorted(asked))))
    shown = table.column("shown_at")
    for window in split.tests.values():
        lo, hi = (pa.scalar(t, pa.timestamp("us", tz="UTC")) for t in (window.start, window.end))
        inside = table.filter(pc.and_(pc.greater_equal(shown, lo), pc.less(shown, hi)))
        for surface, session in zip(
            inside.column("surface").to_pylist(),
            inside.column("session_id").to_pylist(),
            strict=True,
        ):
            found.setdefault(surface, set()).add(session)


def test_share(sessions: Counter[str], limit: int) -> dict[str, float]:
    """Share of test sessions kept a surface: small surfaces whole, large ones cut alike."""
    left, share = limit, {}
    for done, (surface, count) in enumerate(sorted(sessions.items(), key=lambda kv: kv[1])):
        fair = left / (len(sessions) - done)
        share[surface] = min(1.0, fair / max(count, 1))
        left -= int(min(count, fair))
    return share
