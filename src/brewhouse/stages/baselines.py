"""Step 6: popularity and LightGBM on the very rows the ranker is trained and tested on."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.baselines.features import FeatureBuilder
from brewhouse.baselines.models import lightgbm, popularity
from brewhouse.data.rules import excluded_members
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import to_micros
from brewhouse.data.timelines import Log, Timelines, build_timelines, log_from_table
from brewhouse.domains.loader import load_domain
from brewhouse.domains.spec import Domain
from brewhouse.files import atomic_dir, write_json
from brewhouse.platform.feast_store import FeastStore
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages.common import ROWS, SCORES, make_split, note_lineage, publish, tell
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

RECORD = "baselines.json"
MAX_TRAIN_ROWS = 200_000


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Training and test targets of all tasks, as target numbers of one set of timelines."""

    timelines: Timelines
    train: np.ndarray
    test: np.ndarray


def run(
    *,
    domain: str,
    snapshot: Path,
    features: Path,
    shards: Path,
    baselines_out: Path,
    seed: int = 0,
    publish_to: str = "",
) -> dict[str, Any]:
    """Train and score all baselines.

    Baselines may also learn from surfaces held out of the ranker's training (T2): they stand in for
    the production model of that surface, which has its data.

    Returns:
        The record written to `baselines.json`: how each model came about.
    """
    spec = load_domain(domain).domain
    manifest = ShardsManifest.read(shards)
    suite = load_suite(load_domain(domain)).select(list(manifest.book.readings))
    cut = Snapshot.open(snapshot)
    with tempfile.TemporaryDirectory(prefix="brewhouse-feast-") as scratch:
        store = FeastStore(features, domain=spec, domain_path=domain, state=Path(scratch))
        store.apply()
        rows = _rows(spec, store, cut, manifest, shards)
        builder = _features(spec, store, cut, manifest, rows, seed)
    tell(
        f"baselines: {len(rows.train):,} training rows, {len(rows.test):,} test rows, "
        f"{builder.shared().values_QF.shape[1]} shared features"
    )
    scores, record = [], {}
    for number, task in enumerate(suite.tasks):
        table, record[task.name] = _one_task(task, builder, rows, seed)
        scores.append(table)
        tell(f"baselines {number + 1} of {len(suite.tasks)}: {task.name}")
    with atomic_dir(baselines_out) as out:
        pq.write_table(pa.concat_tables(scores), out / SCORES, compression="zstd")
        write_json(out / RECORD, record)
    publish({RECORD: baselines_out / RECORD}, publish_to)
    note_lineage(publish_to, "train_baselines", {"snapshot": cut.digest, "tasks": len(record)})
    return record


def _rows(
    spec: Domain, store: FeastStore, cut: Snapshot, manifest: ShardsManifest, shards: Path
) -> Rows:
    months = cut.months()
    start = datetime.strptime(months[0], "%Y-%m").replace(tzinfo=UTC)
    table = store.interactions(start, datetime(2200, 1, 1, tzinfo=UTC))
    # The same members as the ranker's: those outside the allowed regions are in no model.
    if spec.regions:
        members = cut.read("members", columns=["member_id", spec.regions.column])
        out = excluded_members(members, spec.regions.column, spec.regions.allowed)
        outside = pc.is_in(table.column("member_id"), value_set=pa.array(sorted(out), pa.string()))
        table = table.filter(pc.invert(outside))
    log = log_from_table(table)
    split = make_split(spec, str(manifest.split["train_end"]))
    first, end = split.train.micros
    tested = pq.read_table(shards / ROWS, columns=["row"]).column("row")
    is_test = pc.is_in(
        pa.array(log.interaction_id.tolist(), pa.string()), value_set=tested.combine_chunks()
    ).to_numpy(zero_copy_only=False)
    asked = np.isin(np.array(log.surfaces), [q.surface for q in manifest.book.questions])
    is_train = (log.shown_at >= first) & (log.known_at < end) & asked[log.surface]
    targets = np.flatnonzero(is_train | is_test)
    timelines = build_timelines(
        log,
        history_surfaces=[n for n, s in spec.surfaces.items() if s.history],
        targets=targets,
        lag_micros=int(spec.history.lag.total_seconds() * 1e6),
    )
    return Rows(
        timelines=timelines,
        train=np.flatnonzero(is_train[targets]),
        test=np.flatnonzero(is_test[targets]),
    )


def _features(
    spec: Domain, store: FeastStore, cut: Snapshot, manifest: ShardsManifest, rows: Rows, seed: int
) -> FeatureBuilder:
    t, verbalizer = rows.timelines, Verbalizer(spec, numbers=manifest.numbers)
    members = t.log.member_ids[t.log.member[t.targets_Q]]
    profiles = store.profiles_at(members.tolist(), t.moment_Q)
    told = [
        verbalizer.profile({str(k): v for k, v in r.items()}) for r in profiles.to_dict("records")
    ]
    items = _first_versions(cut.read("items"), t.log)
    texts = [verbalizer.question(r) for r in items.to_pylist()]
    end = to_micros(datetime.fromisoformat(str(manifest.split["train_end"])))
    return FeatureBuilder(spec, t, items, texts, told, train_end=end, seed=seed)


def _first_versions(items: pa.Table, log: Log) -> pa.Table:
    """First version of each item of the log, in the order of its codes."""
    items = items.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    at = pc.index_in(
        pa.array(log.item_ids.tolist(), pa.string()),
        value_set=items.column("item_id").combine_chunks(),
    )
    return items.take(at)


def _one_task(
    task: Task, builder: FeatureBuilder, rows: Rows, seed: int
) -> tuple[pa.Table, dict[str, Any]]:
    log, targets = builder.log, rows.timelines.targets_Q
    codes = {name: i for i, name in enumerate(log.actions)}
    yes = np.isin(log.action, [codes[a] for a in task.positive if a in codes])
    no = np.isin(log.action, [codes[a] for a in task.negative if a in codes])
    mine = np.zeros(len(log), bool)
    if task.surface in log.surfaces:
        mine = (log.surface == log.surfaces.index(task.surface)) & (yes | no)
    train = rows.train[mine[targets[rows.train]]]
    test = rows.test[mine[targets[rows.test]]]
    if len(train) > MAX_TRAIN_ROWS:
        train = np.random.default_rng(seed).choice(train, MAX_TRAIN_ROWS, replace=False)
    on_surface = yes & mine
    found = {"popularity": popularity(builder, on_surface, train, test)} if len(test) else {}
    boosted = None
    if len(test):
        boosted = lightgbm(
            builder.shared(),
            builder.for_task(task.positive),
            yes[targets].astype(np.float64),
            rows.timelines.request_at_Q,
            train,
            test,
            seed=seed,
        )
    if boosted:
        found["lightgbm"] = boosted
    parts = [
        pa.table(
            {
                "task": pa.array([task.name] * len(test)),
                "scorer": pa.array([name] * len(test)),
                "row": pa.array(log.interaction_id[targets[test]].tolist(), pa.string()),
                "log_odds": pa.array(scores.log_odds),
            }
        )
        for name, scores in found.items()
    ]
    schema = pa.schema(
        [
            ("task", pa.string()),
            ("scorer", pa.string()),
            ("row", pa.string()),
            ("log_odds", pa.float32()),
        ]
    )
    record: dict[str, Any] = {name: scores.record for name, scores in found.items()}
    if "lightgbm" not in record:
        record["lightgbm"] = {"skipped": "training rows hold one class or none"}
    return pa.concat_tables([schema.empty_table(), *parts]), record
