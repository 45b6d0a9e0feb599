"""(d) Point-in-time histories: rows a second, and memory at 10M interactions.

Every interaction is a target and gets the rows of its member's last 20 events known strictly before
its session. Ours reads member shards one after another. pandas loops over members with a binary
search a target; Feast joins array features (made by pandas) to an entity table, on DuckDB. Peers
run on fewer rows, for they would not end; their rate is what is compared.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common
import numpy as np

ROWS = 10_000_000
SHARDS = 16
EVENTS_A_MEMBER = 100
PANDAS_ROWS = 300_000
FEAST_ROWS = 50_000
LAST = 20
_DAY = 86_400_000_000


def make_shard(path: str, rows: int, seed: int) -> None:
    """A log of the canonical schema: sessions of five, a few rows logged late."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from brewhouse.data.schema import LOGGED, conform, interactions_schema

    rng = np.random.default_rng(seed)
    members = max(1, rows // EVENTS_A_MEMBER)
    member = rng.integers(members, size=rows // 5).repeat(5)
    start = rng.integers(120 * _DAY, size=rows // 5).repeat(5)
    shown = 1_700_000_000_000_000 + start + np.tile(np.arange(5), rows // 5) * 40_000_000
    event = shown + rng.integers(1, 120_000_000, len(shown))
    late = rng.random(len(shown)) < 0.04
    created = event + np.where(late, rng.integers(_DAY, size=len(shown)), 1_000_000)

    def names(prefix: str, codes: np.ndarray) -> pa.Array:
        known = pa.array([f"{prefix}{i:07d}" for i in range(int(codes.max()) + 1)])
        return known.take(pa.array(codes))

    def stamps(values: np.ndarray) -> pa.Array:
        return pa.array(values).cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))

    columns = {
        "interaction_id": names(f"x{seed:03d}", np.arange(len(shown))),
        "member_id": names(f"m{seed:03d}", member),
        "item_id": names("i", rng.integers(50_000, size=len(shown))),
        "surface": names("s", rng.integers(8, size=len(shown))),
        "action": names("a", rng.integers(4, size=len(shown))),
        "session_id": names(f"v{seed:03d}", np.arange(len(shown)) // 5),
        "shown_at": stamps(shown),
        "event_at": stamps(event),
        "created_at": stamps(created),
        "origin": pa.array([LOGGED]).take(pa.array(np.zeros(len(shown), np.int64))),
        "weight": pa.array(np.ones(len(shown)), interactions_schema().field("weight").type),
    }
    table = conform(pa.table(columns), interactions_schema(), name="interactions")
    pq.write_table(table, path, compression="zstd")


def make(folder: str, rows: int, shards: int) -> None:
    """All shards of a log."""
    for shard in range(shards):
        make_shard(f"{folder}/{shard:03d}.parquet", rows // shards, shard)


def ours(folder: str) -> tuple[float, int, int]:
    """Seconds, rows, history entries."""
    import pyarrow.parquet as pq

    from brewhouse.data.timelines import build_timelines, log_from_table
    from brewhouse.prompts.pieces import ranges

    start, rows, told = time.perf_counter(), 0, 0
    for path in sorted(Path(folder).glob("*.parquet")):
        log = log_from_table(pq.read_table(path))
        timelines = build_timelines(log, history_surfaces=log.surfaces)
        last = np.minimum(timelines.branch_Q, LAST)
        first = timelines.offsets[log.member[timelines.targets_Q]] + timelines.branch_Q - last
        told += len(timelines.events_E[ranges(first, last)])
        rows += len(log)
    return time.perf_counter() - start, rows, told


def pandas_way(path: str) -> tuple[float, int, int]:
    """The same in pandas: a group a member, a binary search and a filter a target."""
    import pandas as pd

    frame = pd.read_parquet(path)
    start, told = time.perf_counter(), 0
    frame["known_at"] = frame[["event_at", "created_at"]].max(axis=1)
    frame["request_at"] = frame.groupby("session_id")["shown_at"].transform("min")
    for _, mine in frame.groupby("member_id"):
        events = mine.sort_values("known_at")
        known = events["known_at"].to_numpy()
        rows = events.index.to_numpy()
        for moment in mine["request_at"].to_numpy():
            upto = int(np.searchsorted(known, moment, side="left"))
            told += len(rows[max(0, upto - LAST) : upto])
    return time.perf_counter() - start, len(frame), told


def feast_way(path: str) -> tuple[float, int, int]:
    """The same by Feast: an array feature at every event, joined to every target."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Array, Int64

    frame = pd.read_parquet(path)
    start = time.perf_counter()
    frame["known_at"] = frame[["event_at", "created_at"]].max(axis=1)
    frame["request_at"] = frame.groupby("session_id")["shown_at"].transform("min")
    frame = frame.sort_values(["member_id", "known_at"], ignore_index=True)
    rows: list[Any] = []
    for _, mine in frame.groupby("member_id"):
        index = mine.index.to_numpy()
        rows += [index[max(0, i + 1 - LAST) : i + 1] for i in range(len(index))]
    with tempfile.TemporaryDirectory() as folder:
        source = pd.DataFrame(
            {"member_id": frame["member_id"], "known_at": frame["known_at"], "history": rows}
        )
        source.to_parquet(f"{folder}/history.parquet")
        store = FeatureStore(
            config=RepoConfig(
                project="bench",
                provider="local",
                registry=f"{folder}/registry.db",
                offline_store={"type": "duckdb"},
                entity_key_serialization_version=3,
            )
        )
        member = Entity(name="member", join_keys=["member_id"])
        view = FeatureView(
            name="history",
            entities=[member],
            schema=[Field(name="history", dtype=Array(Int64))],
            source=FileSource(path=f"{folder}/history.parquet", timestamp_field="known_at"),
        )
        store.apply([member, view])
        asked = pd.DataFrame(
            {
                "member_id": frame["member_id"],
                "event_timestamp": frame["request_at"] - pd.Timedelta(1, "us"),
            }
        )
        found = store.get_historical_features(asked, features=["history:history"]).to_df()
    told = int(found["history"].map(lambda h: 0 if h is None else len(h)).sum())
    return time.perf_counter() - start, len(frame), told


def run() -> Iterable[common.Result]:
    """Both peers; ours once."""
    import feast
    import pandas as pd

    with tempfile.TemporaryDirectory() as folder:
        big, small, least = (Path(folder) / name for name in ("big", "small", "least"))
        for path in (big, small, least):
            path.mkdir()
        common.in_own_process(make, str(big), ROWS, SHARDS)
        common.in_own_process(make, str(small), PANDAS_ROWS, 1)
        common.in_own_process(make, str(least), FEAST_ROWS, 1)
        (seconds, rows, told), memory = common.in_own_process(ours, str(big))
        _, same, reference = common.in_own_process(ours, str(small))[0]
        for work, at, label in (
            (pandas_way, small, f"pandas {pd.__version__}, a loop over members"),
            (feast_way, least, f"Feast {feast.__version__} on DuckDB, array features"),
        ):
            (theirs, count, found), peak = common.in_own_process(work, str(at / "000.parquet"))
            yield common.result(
                f"timelines, {rows / 1e6:.0f}M interactions, last {LAST}",
                ours=rows / seconds,
                peer=count / theirs,
                unit="rows/s",
                against=label,
                peer_rows=count,
                history_entries=told,
                same_entries_as_peer=found == reference if count == same else "not compared",
                peak_mib=round(memory),
                peer_peak_mib=round(peak),
            )


if __name__ == "__main__":
    common.main("timelines", run)
