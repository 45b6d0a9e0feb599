"""Days of a version in use: their requests told and scored again, a folder a day, once.

By rule the prompt that is told here is the prompt that was served, so the scores are those that
members met. A day is drawn, told and scored when it is over; windows are put together from days.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.schema import LOGGED, TIMESTAMP
from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.loader import load_domain
from brewhouse.files import atomic_dir, read_json, write_json
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.scoring.scorer import Scorer
from brewhouse.stages import inputs, probing, verbalizing
from brewhouse.stages.common import ROWS, SUMMARY, tell
from brewhouse.stages.referring import PROBE
from brewhouse.stages.scored_rows import SCHEMA, scored_rows
from brewhouse.stages.scoring import ScoringPlan, score_folder
from brewhouse.stages.variant import Variant
from brewhouse.tasks.suite import Suite, load_suite

SCORES = "scores.parquet"
ABOUT = "about.json"
SKEW = timedelta(minutes=5)
"""Clocks that differ by less are one clock."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What a version's days are made from.

    Attributes:
        domain: Built-in name or folder.
        snapshot, features: Of the newest import.
        model: Exported model.
        projection: Of the version's reference.
        tasks: Names of tasks that the version was judged on.
        as_of: The log is read as it was then; aware.
    """

    domain: str
    snapshot: Path
    features: Path
    model: Path
    projection: Path
    tasks: tuple[str, ...]
    as_of: datetime


def day_folder(store: Path, day: date) -> Path:
    """Where a day is kept."""
    return store / day.isoformat()


def observe(
    watched: Watched,
    days: Sequence[date],
    store: Path,
    *,
    sessions_per_day: int,
    scoring: ScoringPlan | None = None,
) -> list[date]:
    """Make the days that are not in the store yet; return them.

    Args:
        watched: What from.
        days: Days that are over, rising.
        store: Folder of the version; a finished day is never touched again.
        sessions_per_day: Sessions scored of each day, over all surfaces.
        scoring: Where; in this process if None.
    """
    missing = [day for day in days if not (day_folder(store, day) / ABOUT).is_file()]
    for first, last in _spans(missing):
        span = (last - first).days + 1
        tell(f"observing {first} to {last}")
        log = _log(watched, first, last, load_suite(load_domain(watched.domain)))
        told = None
        with tempfile.TemporaryDirectory(prefix="brewhouse-days-") as scratch:
            if len(log):
                told = _told(
                    watched, first, span, Path(scratch), sessions_per_day, scoring or ScoringPlan()
                )
            for number in range(span):
                _keep(watched, store, first + timedelta(days=number), log, told)
    return missing


@dataclass(frozen=True, kw_only=True)
class _Told:
    scores: pa.Table
    described: pa.Table
    daily: dict[str, dict[str, int]]
    load: list[list[float]] | None
    rows: dict[str, int]


def _spans(days: Sequence[date]) -> list[tuple[date, date]]:
    """Runs of days one after another."""
    found: list[tuple[date, date]] = []
    for day in days:
        if found and day - found[-1][1] == timedelta(days=1):
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found


def midnight(day: date) -> datetime:
    """Begin of a day, UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _log(watched: Watched, first: date, last: date, suite: Suite) -> pa.Table:
    """Times of the log's rows of some days that the tasks are about, as it was known."""
    cut = Snapshot.open(watched.snapshot)
    begin, end = midnight(first), midnight(last + timedelta(days=1))
    log = labels_between(cut, begin, end, as_of=watched.as_of, columns=("event_at", "created_at"))
    surfaces = {task.surface for task in suite.select(list(watched.tasks)).tasks}
    asked = pc.is_in(log.column("surface"), value_set=pa.array(sorted(surfaces), pa.string()))
    return log.filter(pc.and_(asked, pc.equal(log.column("origin"), LOGGED)))


def labels_between(
    cut: Snapshot,
    begin: datetime,
    end: datetime,
    *,
    as_of: datetime,
    columns: Sequence[str] = (),
) -> pa.Table:
    """Rows shown in [begin, end) as the log knew them: `row`, `action`, `surface`, `shown_at`.

    Args:
        cut: Snapshot.
        begin: Aware.
        end: Aware.
        as_of: Aware.
        columns: Further columns of the log.
    """
    # Months are those of events, which may fall after the row was shown.
    months = [m for m in cut.months() if m >= f"{begin:%Y-%m}"]
    names = ["interaction_id", "action", "surface", "shown_at", "created_at", "origin", *columns]
    table = cut.read("interactions", columns=list(dict.fromkeys(names)), months=months)
    shown = table.column("shown_at")
    inside = pc.and_(
        pc.greater_equal(shown, pa.scalar(begin, TIMESTAMP)),
        pc.less(shown, pa.scalar(end, TIMESTAMP)),
    )
    known = pc.less_equal(table.column("created_at"), pa.scalar(as_of, TIMESTAMP))
    table = table.filter(pc.and_(inside, known))
    return table.rename_columns(
        ["row" if name == "interaction_id" else name for name in table.column_names]
    )


def _told(
    watched: Watched,
    first: date,
    span: int,
    work: Path,
    sessions_per_day: int,
    scoring: ScoringPlan,
) -> _Told:
    """Trees, scores and descriptions of some days at once."""
    shards = work / "shards"
    verbalizing.run(
        domain=watched.domain,
        snapshot=watched.snapshot,
        features=watched.features,
        train_end=first.isoformat(),
        shards_out=shards,
        model=str(watched.model),
        max_test_sessions=sessions_per_day * span,
        tasks=",".join(watched.tasks),
        variant=Variant(training=False, days=span, probe=PROBE),
        known_by=watched.as_of,
    )
    suite = load_suite(load_domain(watched.domain)).select(list(watched.tasks))
    asked = ShardsManifest.read(shards)
    leaves = score_folder(shards, "test", watched.model, scoring).leaves
    scorer = Scorer.load(watched.model, asked=asked)
    rows = pq.read_table(shards / ROWS)
    table = scored_rows(
        rows,
        leaves,
        asked.book,
        suite.tasks,
        shuffled=probing.score(scorer, shards / probing.FOLDERS["history"] / PROBE),
    )
    described = inputs.embed(
        pq.read_table(shards / inputs.INPUTS), watched.model, projection=watched.projection
    )
    days = pc.strftime(rows.column("shown_at"), format="%Y-%m-%d").to_pylist()
    return _Told(
        scores=table,
        described=described,
        daily=read_json(shards / SUMMARY)["daily"],
        load=None if leaves.load_LE is None else leaves.load_LE.tolist(),
        rows={day: days.count(day) for day in set(days)},
    )


def _keep(watched: Watched, store: Path, day: date, log: pa.Table, told: _Told | None) -> None:
    begin, end = midnight(day), midnight(day + timedelta(days=1))
    own = _shown(log, begin, end)
    scores = SCHEMA.empty_table() if told is None else _shown(told.scores, begin, end)
    rows = 0 if told is None else told.rows.get(day.isoformat(), 0)
    share = rows / max(1, sum(told.rows.values())) if told else 0.0
    with atomic_dir(day_folder(store, day)) as folder:
        pq.write_table(scores, folder / SCORES, compression="zstd")
        if told is not None:
            described = _shown(told.described, begin, end)
            pq.write_table(described, folder / inputs.INPUTS, compression="zstd")
        newest = pc.max(own.column("created_at")).as_py()
        write_json(
            folder / ABOUT,
            {
                "schema_version": 1,
                "day": day.isoformat(),
                "as_of": watched.as_of.isoformat(),
                "snapshot": Snapshot.open(watched.snapshot).digest,
                "rows": {} if told is None else told.daily.get(day.isoformat(), {}),
                "scored": rows,
                "logged": len(own),
                "newest": newest.isoformat() if newest else None,
                "skewed": _skewed(own),
                # Days told together were scored together; each takes its share by rows.
                "router": [[share * n for n in layer] for layer in told.load]
                if told and told.load
                else None,
            },
        )


def _shown(table: pa.Table, begin: datetime, end: datetime) -> pa.Table:
    shown = table.column("shown_at")
    return table.filter(
        pc.and_(
            pc.greater_equal(shown, pa.scalar(begin, TIMESTAMP)),
            pc.less(shown, pa.scalar(end, TIMESTAMP)),
        )
    )


def _skewed(log: pa.Table) -> int:
    """Rows acted on before they were shown, or known before they happened."""
    micros = {n: log.column(n).cast(pa.int64()).to_numpy() for n in ("shown_at", "event_at")}
    created = log.column("created_at").cast(pa.int64()).to_numpy()
    limit = int(SKEW.total_seconds() * 1e6)
    early = micros["event_at"] < micros["shown_at"] - limit
    ahead = micros["event_at"] > created + limit
    return int(np.count_nonzero(early | ahead))


def about(store: Path, day: date) -> dict[str, Any]:
    """What is known of a day."""
    found: dict[str, Any] = read_json(day_folder(store, day) / ABOUT)
    return found
