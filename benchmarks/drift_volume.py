"""(g) A day of a million scored rows: the monitor from files to findings, time and peak memory.

Rows are written as the monitor keeps a day that it has observed; what is timed is all that follows:
reading, joining labels, every measure on all rows, Evidently on its stated sample, the decision.
The peer is Evidently's preset on all rows of the same day.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from common import Result, in_own_process, main, result

from brewhouse import offline
from brewhouse.data.schema import TIMESTAMP
from brewhouse.data.snapshot import Snapshot, write_snapshot
from brewhouse.domains.loader import load_domain
from brewhouse.drift.decision import Context, decide
from brewhouse.drift.estimate import estimate_reference
from brewhouse.drift.measure import performance_of
from brewhouse.drift.policy import load_drift_policy
from brewhouse.drift.quality import DataReference
from brewhouse.drift.reference import Reference
from brewhouse.files import write_json
from brewhouse.release.watching import WatchedVersion
from brewhouse.stages import inputs
from brewhouse.stages.monitoring import measure_window
from brewhouse.stages.observing import ABOUT, SCORES, day_folder
from brewhouse.stages.referring import columns_of, nulls_of
from brewhouse.stages.scored_rows import SCHEMA, scored_tasks
from brewhouse.tasks.suite import load_suite

ROWS = 1_000_000
MEMBERS = 40_000
DAY = date(2024, 3, 1)


def _write(folder: Path) -> None:
    """A day with its labels, a reference, and a snapshot that knows the actions."""
    rng = np.random.default_rng(0)
    domain = load_domain("linkedin")
    tasks = [t for t in load_suite(domain).tasks if t.tier == "T1"]
    per = ROWS // len(tasks) + 1
    parts, log = [], []
    for number, task in enumerate(tasks):
        member = rng.integers(MEMBERS, size=per)
        s = rng.normal(size=per).astype(np.float32)
        yes = rng.random(per) < 1 / (1 + np.exp(-(s - 1)))
        actions = np.where(yes, task.positive[0], task.negative[0])
        shown = _micros(DAY) + rng.integers(86_400_000_000, size=per)
        names = [f"r{number:02d}{n:07d}" for n in range(per)]
        parts.append(
            pa.table(
                {
                    "row": names,
                    "member": [f"m{m:06d}" for m in member],
                    "task": pa.array([task.name] * per).dictionary_encode(),
                    "shown_at": pa.array(shown).cast(pa.timestamp("us")).cast(TIMESTAMP),
                    "action": actions.tolist(),
                    "log_odds": s,
                    "shuffled": pa.nulls(per, pa.float32()),
                },
                schema=SCHEMA,
            )
        )
        log.append((names, member, task.surface, actions, shown))
    scores = pa.concat_tables(parts).unify_dictionaries()
    home = day_folder(folder / "store" / "1", DAY)
    home.mkdir(parents=True)
    pq.write_table(scores, home / SCORES, compression="zstd")
    described = _described(rng)
    pq.write_table(described, home / inputs.INPUTS)
    about = {"rows": {}, "newest": f"{DAY}T23:59:00+00:00", "skewed": 0, "router": None}
    about["rows"] = {t.surface: per for t in tasks}
    write_json(home / ABOUT, about)
    bound = folder / "bound"
    bound.mkdir()
    pq.write_table(_described(rng), bound / inputs.INPUTS)
    rows = scored_tasks(scores, tasks)
    reference = Reference(
        model="sha256:0",
        tasks=[t.key for t in tasks],
        start=DAY - timedelta(days=14),
        end=DAY - timedelta(days=1),
        performance=performance_of(rows),
        estimate=estimate_reference(rows),
        data=DataReference(
            rows_per_day={t.surface: per for t in tasks},
            columns=columns_of(described),
            nulls=nulls_of(described),
        ),
    )
    write_json(bound / "reference.json", reference.model_dump(mode="json"))
    _snapshot(folder / "snapshot", log)


def _micros(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000_000


def _described(rng: np.random.Generator) -> pa.Table:
    rows = 5000
    return pa.table(
        {
            "row": [str(n) for n in range(rows)],
            "member": [str(n // 5) for n in range(rows)],
            "tokens": rng.normal(300, 60, rows),
            "history": rng.normal(40, 12, rows),
            "item_age_days": rng.exponential(5, rows),
            **{f"embedding_{n}": rng.normal(size=rows) for n in range(8)},
            "surface": rng.choice(["feed", "jobs", "ads"], rows).tolist(),
            "item.area": rng.choice([f"a{n}" for n in range(12)], rows).tolist(),
        }
    )


def _snapshot(target: Path, log: list[Any]) -> None:
    start = pa.array([_micros(DAY - timedelta(days=90))]).cast(pa.timestamp("us")).cast(TIMESTAMP)
    tables = {
        "members": pa.table({"member_id": ["m000000"], "valid_from": start}),
        "items": pa.table(
            {"item_id": ["i"], "valid_from": start, "created_at": start, "kind": ["post"]}
        ),
        "interactions": pa.concat_tables([_interactions(*one) for one in log]),
    }
    write_snapshot(target, tables, domain="linkedin", provenance={})


def _interactions(
    names: list[str], member: np.ndarray, surface: str, actions: np.ndarray, shown: np.ndarray
) -> pa.Table:
    at = pa.array(shown).cast(pa.timestamp("us")).cast(TIMESTAMP)
    count = len(names)
    return pa.table(
        {
            "interaction_id": names,
            "member_id": [f"m{m:06d}" for m in member],
            "item_id": ["i"] * count,
            "surface": [surface] * count,
            "action": actions.tolist(),
            "session_id": names,
            "shown_at": at,
            "event_at": at,
            "created_at": at,
            "origin": ["logged"] * count,
            "weight": pa.array(np.ones(count), pa.float32()),
        }
    )


def ours(folder: str) -> dict[str, Any]:
    """Measure and judge the day."""
    offline.silence()
    root = Path(folder)
    policy = load_drift_policy("default").model_copy(update={"window_days": 1, "maturity_days": 0})
    bound = root / "bound"
    reference = Reference.model_validate_json((bound / "reference.json").read_text())
    kept = WatchedVersion(
        number="1",
        model=root,
        folder=bound,
        reference=reference.model_copy(update={"end": DAY}),
        missing="",
        waiting="",
        trained=None,
    )
    started = time.monotonic()
    window, _ = measure_window(
        "linkedin",
        Snapshot.open(root / "snapshot"),
        root / "features",
        policy,
        kept,
        root / "store",
        root,
        DAY,
        DAY + timedelta(days=1),
        datetime(2024, 3, 2, 1, tzinfo=UTC),
        None,
    )
    evaluation, _ = decide(policy, window, {}, Context())
    signals = {s.key: s for s in window.signals}
    return {
        "seconds": time.monotonic() - started,
        "rows": signals["performance/auc"].n,
        "signals": len(signals),
        "outcome": evaluation.outcome.value,
    }


def peer(folder: str) -> dict[str, Any]:
    """Evidently's preset on all rows of the day's scores."""
    offline.silence()
    started = time.monotonic()
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    columns = ["task", "action", "log_odds"]
    frame = pq.read_table(
        day_folder(Path(folder) / "store" / "1", DAY) / SCORES, columns=columns
    ).to_pandas()
    definition = DataDefinition(
        numerical_columns=["log_odds"], categorical_columns=["task", "action"]
    )
    sides = [Dataset.from_pandas(f, data_definition=definition) for f in (frame, frame.copy())]
    Report([DataDriftPreset()]).run(*sides).dict()
    return {"seconds": time.monotonic() - started}


def run() -> Iterator[Result]:
    """One day, both ways."""
    with tempfile.TemporaryDirectory(prefix="brewhouse-volume-") as scratch:
        in_own_process(_write, Path(scratch))
        mine, memory = in_own_process(ours, scratch)
        theirs, their_memory = in_own_process(peer, scratch)
    yield result(
        "monitor, a day of 1M scored rows",
        ours=mine["rows"] / mine["seconds"],
        peer=mine["rows"] / theirs["seconds"],
        unit="rows/s",
        against="Evidently preset on all rows, three columns",
        rows=mine["rows"],
        signals=mine["signals"],
        seconds=round(mine["seconds"], 1),
        peak_mib=round(memory),
        peer_peak_mib=round(their_memory),
    )


if __name__ == "__main__":
    main("drift_volume", run)
