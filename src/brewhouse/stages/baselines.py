"""Step 6: conventional models on the very rows the ranker is trained and tested on."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.baselines.features import FeatureBuilder
from brewhouse.baselines.inputs import Inputs, build_inputs
from brewhouse.baselines.models import (
    BaselineScores,
    TaskData,
    lightgbm,
    mean_of,
    popularity,
    search_lightgbm,
)
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Log
from brewhouse.domains.loader import load_domain
from brewhouse.domains.spec import Baseline, Domain
from brewhouse.errors import ConfigError
from brewhouse.evaluation.metrics import auc
from brewhouse.files import atomic_dir, write_json
from brewhouse.platform.feast_store import FeastStore
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.stages.baseline_rows import Rows, features_of, rows_of
from brewhouse.stages.common import COLD_SCORES, SCORES, note_lineage, publish, tell
from brewhouse.stages.variant import Variant
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

RECORD = "baselines.json"
SCHEMA_VERSION = 2
MAX_TRAIN_ROWS = 200_000
NEURAL: tuple[Baseline, ...] = ("dcn_v2", "din", "sequence", "dcn_v2_text")
ALL: tuple[Baseline, ...] = get_args(Baseline)
MAX_NEURAL_ROWS = 150_000
"""Newest training rows that networks are given; what they cost must not grow with the log."""
MIN_NEURAL_ROWS = 20_000
"""Training rows below which networks are not worth their time, unless they are asked for."""
_SEARCH_TASKS = 6
"""Tasks that LightGBM's setting is chosen on, from the largest to the smallest."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all baselines share: features, tasks and each task's rows, in the suite's order."""

    builder: FeatureBuilder
    tasks: tuple[Task, ...]
    data: tuple[TaskData, ...]
    rows: Rows
    seed: int

    @cached_property
    def kept(self) -> np.ndarray:
        """Sorted target numbers that neural baselines see: the newest training rows, all tests."""
        order = np.argsort(self.rows.timelines.request_at_Q[self.rows.train], kind="stable")
        newest = self.rows.train[order[-MAX_NEURAL_ROWS:]]
        return np.union1d(newest, self.rows.asked)

    @cached_property
    def kept_train(self) -> np.ndarray:
        """Positions in `kept` of training rows."""
        return np.flatnonzero(np.isin(self.kept, self.rows.train))

    @cached_property
    def inputs(self) -> Inputs:
        """Tables of the neural baselines, built once."""
        return build_inputs(self.builder, self.tasks, self.kept_train, self.kept)


def run(
    *,
    domain: str,
    snapshot: Path,
    features: Path,
    shards: Path,
    baselines_out: Path,
    seed: int = 0,
    scorers: Sequence[str] | None = None,
    frozen: bool = False,
    publish_to: str = "",
) -> dict[str, Any]:
    """Train and score baselines.

    Baselines may also learn from surfaces held out of the ranker's training (T2): they stand in for
    the production model of that surface, which has its data.

    Args:
        domain: Built-in name or folder.
        snapshot: Snapshot folder.
        features: Feature folder.
        shards: Says which rows are tested.
        baselines_out: Folder to write.
        seed: Seed of everything random.
        scorers: Names of the baselines to train; by default all that the rows are enough for.
        frozen: Whether test rows are told what was known when training ended and nothing newer.
        publish_to: Run folder.

    Returns:
        The record written to `baselines.json`: how each model came about.

    Raises:
        ConfigError: A scorer is unknown.
    """
    spec = load_domain(domain).domain
    _known(scorers or ())
    manifest = ShardsManifest.read(shards)
    suite = load_suite(load_domain(domain)).select(list(manifest.book.readings))
    cut = Snapshot.open(snapshot)
    with tempfile.TemporaryDirectory(prefix="brewhouse-feast-") as scratch:
        store = FeastStore(
            features, domain=spec, domain_path=domain, state=Path(scratch), reads_only=True
        )
        store.apply()
        rows = rows_of(spec, store, cut, manifest, shards, Variant(frozen=frozen))
        builder = features_of(spec, store, cut, manifest, rows, seed)
    names = choose(spec, len(rows.train), scorers)
    tell(
        f"baselines {', '.join(names)}: {len(rows.train):,} training rows, {len(rows.test):,} test "
        f"rows and {len(rows.cold):,} of them again with little known, "
        f"{builder.shared().values_QF.shape[1]} shared features"
    )
    table, record = score(work_of(builder, suite.tasks, rows, seed), names)
    record = {"schema_version": SCHEMA_VERSION, "production": spec.production} | record
    with atomic_dir(baselines_out) as out:
        for file, kept in (
            (SCORES, pc.invert(table.column("cold"))),
            (COLD_SCORES, table.column("cold")),
        ):
            part = table.filter(kept).drop_columns("cold")
            pq.write_table(part, out / file, compression="zstd")
        write_json(out / RECORD, record)
    publish({RECORD: baselines_out / RECORD}, publish_to)
    note_lineage(
        publish_to, "train_baselines", {"snapshot": cut.digest, "tasks": len(record["tasks"])}
    )
    return record


def choose(
    spec: Domain, train_rows: int, scorers: Sequence[str] | None = None
) -> tuple[Baseline, ...]:
    """Baselines to train: those asked for, else those that the rows are enough for.

    The production baseline is always among the latter.
    """
    if scorers is not None:
        return tuple(name for name in ALL if name in scorers)
    few = train_rows < MIN_NEURAL_ROWS
    return tuple(n for n in ALL if not few or n not in NEURAL or n == spec.production)


def _known(scorers: Sequence[str]) -> None:
    unknown = sorted(set(scorers) - set(ALL))
    if unknown:
        msg = f"unknown baseline '{unknown[0]}'; known are {', '.join(ALL)}"
        raise ConfigError(msg)


def score(work: Work, names: Sequence[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Train the named baselines and score every task's test rows.

    Returns:
        Columns task, scorer, row, log_odds, cold (whether a twin was asked); and `models` (what
        holds for all tasks: search, budget, seconds) with `tasks` (what each model says of itself,
        by task).
    """
    parts = [_SCHEMA.empty_table()]
    models: dict[str, Any] = {}
    tasks: dict[str, dict[str, Any]] = {task.name: {} for task in work.tasks}
    for name in names:
        started = time.monotonic()
        found, models[name] = _SCORERS[name](work)
        models[name]["seconds"] = round(time.monotonic() - started, 2)
        for task, data, scores in zip(work.tasks, work.data, found, strict=True):
            if scores is None:
                tasks[task.name][name] = {"skipped": "no test rows, or training rows of one class"}
                continue
            parts.append(_table(task.name, name, work, data, scores.log_odds))
            own = ~parts[-1].column("cold").to_numpy()
            y = data.labels_Q[data.test[own]]
            tasks[task.name][name] = scores.record | {
                "test_auc": auc(y, scores.log_odds[own]) if len(np.unique(y)) == 2 else None
            }
        tell(f"baseline {name} in {models[name]['seconds']:.0f} s")
    return pa.concat_tables(parts), {"models": models, "tasks": tasks}


def work_of(builder: FeatureBuilder, tasks: Sequence[Task], rows: Rows, seed: int) -> Work:
    """What all baselines share."""
    data = tuple(_task_data(task, builder, rows, seed) for task in tasks)
    return Work(builder=builder, tasks=tuple(tasks), data=data, rows=rows, seed=seed)


def _task_data(task: Task, builder: FeatureBuilder, rows: Rows, seed: int) -> TaskData:
    log, targets = builder.log, rows.timelines.targets_Q
    yes, no = (np.isin(log.action, _codes(log, side)) for side in (task.positive, task.negative))
    mine = np.zeros(len(log), bool)
    if task.surface in log.surfaces:
        mine = (log.surface == log.surfaces.index(task.surface)) & (yes | no)
    train = rows.train[mine[targets[rows.train]]]
    if len(train) > MAX_TRAIN_ROWS:
        train = np.random.default_rng(seed).choice(train, MAX_TRAIN_ROWS, replace=False)
    return TaskData(
        labels_Q=yes[targets].astype(np.float64),
        when_Q=rows.timelines.request_at_Q,
        train=train,
        test=rows.asked[mine[targets[rows.asked]]],
    )


def _codes(log: Log, actions: Sequence[str]) -> list[int]:
    return [log.actions.index(action) for action in actions if action in log.actions]


def _positive(task: Task, log: Log) -> np.ndarray:
    """Per log row, whether it is a yes of the task on the task's surface."""
    surface = log.surfaces.index(task.surface) if task.surface in log.surfaces else -1
    return np.isin(log.action, _codes(log, task.positive)) & (log.surface == surface)


Found = tuple[list[BaselineScores | None], dict[str, Any]]


def _popularity(work: Work) -> Found:
    return [popularity(work.builder, d) if len(d.test) else None for d in work.data], {}


def _means(what: str) -> Callable[[Work], Found]:
    def scored(work: Work) -> Found:
        log = work.builder.log
        return [
            mean_of(work.builder, what, _positive(task, log), data) if len(data.test) else None
            for task, data in zip(work.tasks, work.data, strict=True)
        ], {}

    return scored


def _lightgbm(work: Work) -> Found:
    shared = work.builder.shared()
    by_size = sorted(range(len(work.tasks)), key=lambda k: (-len(work.data[k].train), k))
    tried = by_size[:: max(1, len(by_size) // _SEARCH_TASKS)][:_SEARCH_TASKS]
    tables = [(shared, work.builder.for_task(work.tasks[k].positive), work.data[k]) for k in tried]
    setting, trials = search_lightgbm(tables, seed=work.seed)
    found = [
        lightgbm(
            shared, work.builder.for_task(task.positive), data, seed=work.seed, setting=setting
        )
        if len(data.test)
        else None
        for task, data in zip(work.tasks, work.data, strict=True)
    ]
    names = [work.tasks[k].name for k in tried]
    return found, {"setting": setting, "search": trials, "search_tasks": names}


def _network(name: Baseline) -> Callable[[Work], Found]:
    def scored(work: Work) -> Found:
        from brewhouse.baselines.neural import neural

        asked = np.unique(np.concatenate([data.test for data in work.data]))
        places = np.searchsorted(work.kept, asked)
        scores = neural(name, work.inputs, work.kept_train, places, seed=work.seed)
        found: list[BaselineScores | None] = []
        for k, data in enumerate(work.data):
            log_odds = scores.log_odds_QK[np.searchsorted(asked, data.test), k]
            rows = int(work.inputs.valid_QK[work.kept_train, k].sum())
            one = BaselineScores(log_odds=log_odds, record={"train_rows_available": rows})
            found.append(one if len(data.test) and rows else None)
        return found, scores.record

    return scored


_SCORERS: dict[str, Callable[[Work], Found]] = {
    "popularity": _popularity,
    "member_mean": _means("member"),
    "item_mean": _means("item"),
    "lightgbm": _lightgbm,
    **{name: _network(name) for name in NEURAL},
}
_SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("scorer", pa.string()),
        ("row", pa.string()),
        ("log_odds", pa.float32()),
        ("cold", pa.bool_()),
    ]
)


def _table(task: str, scorer: str, work: Work, data: TaskData, log_odds: np.ndarray) -> pa.Table:
    rows = work.rows.row_Q[data.test]
    return pa.table(
        {
            "task": pa.array([task] * len(rows), pa.string()),
            "scorer": pa.array([scorer] * len(rows), pa.string()),
            "row": pa.array(rows.tolist(), pa.string()),
            "log_odds": pa.array(log_odds, pa.float32()),
            "cold": pa.array(np.isin(data.test, work.rows.cold)),
        },
        schema=_SCHEMA,
    )
