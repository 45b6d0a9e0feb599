"""How models age: several trained at different times, each asked quarter after quarter.

For every model and quarter the ranker with fresh history, the same with histories frozen at the end
of its training, and a production baseline trained on the same rows. Every model's quarters become
windows that a drift policy is replayed on. A model that is there is not trained again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.splits import parse_day
from brewhouse.domains.loader import load_domain
from brewhouse.drift.decay import Decay
from brewhouse.drift.estimate import estimate_reference, estimates
from brewhouse.drift.measure import (
    ScoredTask,
    calibration,
    mean_auc,
    measurable,
    performance,
    performance_of,
    score_drift,
)
from brewhouse.drift.policy import DriftPolicy
from brewhouse.drift.replay import Replay, replay
from brewhouse.drift.signals import Window
from brewhouse.errors import ConfigError
from brewhouse.files import write_json
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.reporting.ageing_page import Cell, write_ageing_page
from brewhouse.stages import baselines, features, importing, training, verbalizing
from brewhouse.stages.common import ROWS, SCORES, tell
from brewhouse.stages.plan import stages
from brewhouse.stages.replaying import dump, to_json
from brewhouse.stages.scored_rows import scored_rows, scored_tasks, unlabelled
from brewhouse.stages.scoring import ScoringPlan, score_folder
from brewhouse.stages.variant import Variant
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

QUARTER_WEEKS, QUARTER_DAYS = 13, 91
FRESH, FROZEN = "ranker", "ranker, frozen history"


@dataclass(frozen=True, kw_only=True)
class Ageing:
    """What is trained and asked.

    Attributes:
        domain: Built-in name or folder.
        source: Folder with its files; empty to simulate `preset`.
        preset: Size of a simulated world.
        train_ends: Days on which training of each model ends.
        until: Day after which nothing is asked.
        quarters: Quarters that each model is asked about at most.
        model: What the first model starts from; each later one starts from the one before it.
        tokens: Budget of fine-tuning.
        first_tokens: The same of the first model, which may have to learn to read histories.
        sessions: Test sessions of each model, over all quarters.
        processes: Training processes.
        seed: Of everything random.
    """

    domain: str
    source: str = ""
    preset: str = ""
    train_ends: tuple[str, ...]
    until: str
    quarters: int = 12
    model: str
    tokens: int
    first_tokens: int
    sessions: int = 6000
    processes: int = 1
    seed: int = 7

    def horizons(self, end: str) -> list[int]:
        """Weeks between the end of a model's training and each of its quarters.

        Raises:
            ConfigError: Not even two quarters fit.
        """
        spec = load_domain(self.domain).domain.defaults
        first = parse_day(end) + timedelta(days=spec.gap_days)
        room = (parse_day(self.until) - first).days // QUARTER_DAYS
        if room < 2:
            msg = f"from {end} to {self.until} there are {room} quarters; two are needed at least"
            raise ConfigError(msg)
        return [QUARTER_WEEKS * n for n in range(min(self.quarters, room))]


def run(plan: Ageing, policy: DriftPolicy, work: Path) -> dict[str, Any]:
    """Train, ask and replay; write `ageing.json`, `ageing.html` and windows of every model.

    Args:
        plan: What.
        policy: Replayed on each model's quarters, as if each were a window.
        work: Folder; the same again goes on.
    """
    _prepare(plan, work)
    tasks = [t for t in load_suite(load_domain(plan.domain)).tasks if t.tier == "T1"]
    cells: list[Cell] = []
    replays: dict[str, Replay] = {}
    for end in plan.train_ends:
        found = _asked(plan, end, work / end, work, tasks)
        cells += [cell for one in found.values() for cell in _cells(end, one)]
        windows = _windows(found[FRESH])
        trained = parse_day(end).date()
        write_json(work / end / "windows.json", dump(windows, trained))
        replays[end] = replay(policy, windows, trained=trained)
        tell(f"model of {end}: {len(windows)} quarters replayed")
    value = {
        "domain": plan.domain,
        "policy": policy.key,
        "cells": [asdict(cell) | {"start": str(cell.start)} for cell in cells],
        "replays": {end: to_json(one) for end, one in replays.items()},
    }
    write_json(work / "ageing.json", value)
    decays: dict[str, Decay] = {
        end: one.decay for end, one in replays.items() if one.decay is not None
    }
    fired = {end: [one.day for one in found.fired] for end, found in replays.items()}
    write_ageing_page(cells, decays, fired, policy, work / "ageing.html", title=plan.domain)
    return value


def _prepare(plan: Ageing, work: Path) -> None:
    if not (work / "snapshot" / "manifest.json").is_file():
        importing.run(
            domain=plan.domain,
            source=plan.source,
            preset=plan.preset,
            seed=plan.seed,
            snapshot_out=work / "snapshot",
            oracle_out=work / "oracle",
        )
    if not (work / "features" / features.ABOUT).is_file():
        features.run(domain=plan.domain, snapshot=work / "snapshot", features_out=work / "features")


@dataclass(frozen=True, kw_only=True)
class _Quarter:
    """Rows of a model in one quarter, as one scorer scored them."""

    scorer: str
    start: date
    age_weeks: int
    tasks: list[ScoredTask]


def _asked(
    plan: Ageing, end: str, home: Path, work: Path, tasks: Sequence[Task]
) -> dict[str, list[_Quarter]]:
    """Quarters by scorer."""
    weeks = plan.horizons(end)
    common: dict[str, Any] = {"horizons_weeks": weeks, "test_days": QUARTER_DAYS, "probes": False}
    shards, model = home / "shards", home / "model"
    place = plan.train_ends.index(end)
    base = str(work / plan.train_ends[place - 1] / "model") if place else plan.model
    if not (shards / ShardsManifest.FILE).exists():
        _verbalize(plan, work, end, shards, base, Variant(**common))
    if not model.exists():
        training.run(
            shards=shards,
            model_out=model,
            workspace=str(home / "checkpoints"),
            options={
                "model": base,
                "batch_tokens": 4096,
                "stages": stages(base, plan.tokens if place else plan.first_tokens),
            },
            processes=plan.processes,
        )
    frozen = home / "frozen"
    if not (frozen / ShardsManifest.FILE).exists():
        only_asks = Variant(**common, training=False, frozen=True)
        # The very same test sessions, told what was known when training ended.
        _verbalize(plan, work, end, frozen, str(model), only_asks)
    production = load_domain(plan.domain).domain.production
    if not (home / "baselines").exists():
        baselines.run(
            domain=plan.domain,
            snapshot=work / "snapshot",
            features=work / "features",
            shards=shards,
            baselines_out=home / "baselines",
            seed=plan.seed,
            scorers=[production],
        )
    found = {
        FRESH: _scored(FRESH, shards, model, tasks, weeks),
        FROZEN: _scored(FROZEN, frozen, model, tasks, weeks),
    }
    theirs = pq.read_table(home / "baselines" / SCORES)
    found[production] = _baseline(production, found[FRESH], shards, theirs, tasks, weeks)
    return found


def _verbalize(plan: Ageing, work: Path, end: str, out: Path, model: str, variant: Variant) -> None:
    # The model's own snapshot is this one, so that its training's end would stand in for `end`.
    verbalizing.run(
        domain=plan.domain,
        snapshot=work / "snapshot",
        features=work / "features",
        train_end=end,
        shards_out=out,
        model=model,
        max_test_sessions=plan.sessions,
        variant=variant,
    )


def _scored(
    scorer: str, shards: Path, model: Path, tasks: Sequence[Task], weeks: Sequence[int]
) -> list[_Quarter]:
    kept = shards / "scored.parquet"
    rows = pq.read_table(shards / ROWS)
    manifest = ShardsManifest.read(shards)
    if not kept.is_file():
        leaves = score_folder(shards, "test", model, ScoringPlan()).leaves
        pq.write_table(scored_rows(rows, leaves, manifest.book, tasks), kept)
    return _quarters(scorer, pq.read_table(kept), rows, manifest, tasks, weeks)


def _quarters(
    scorer: str,
    scores: pa.Table,
    rows: pa.Table,
    manifest: ShardsManifest,
    tasks: Sequence[Task],
    weeks: Sequence[int],
) -> list[_Quarter]:
    split = manifest.split
    first = datetime.fromisoformat(split["train_end"]) + timedelta(days=split["gap_days"])
    out = []
    for age in weeks:
        mine = rows.filter(pc.equal(rows.column("horizon_weeks"), age)).column("row")
        own = scores.filter(pc.is_in(scores.column("row"), value_set=mine.combine_chunks()))
        out.append(
            _Quarter(
                scorer=scorer,
                start=(first + timedelta(weeks=age)).date(),
                age_weeks=age,
                tasks=scored_tasks(own, tasks),
            )
        )
    return out


def _baseline(
    scorer: str,
    ours: Sequence[_Quarter],
    shards: Path,
    theirs: pa.Table,
    tasks: Sequence[Task],
    weeks: Sequence[int],
) -> list[_Quarter]:
    """The same rows with the baseline's scores in place of the ranker's."""
    scores = pq.read_table(shards / "scored.parquet")
    mine = theirs.filter(pc.equal(theirs.column("scorer"), scorer))
    keys = [_keys(scores.column("row"), scores.column("task")), _keys(mine["row"], mine["task"])]
    at = pc.index_in(keys[0], value_set=keys[1])
    known = pc.is_valid(at)
    odds = mine["log_odds"].take(at.filter(known)).cast(pa.float32())
    place = scores.schema.get_field_index("log_odds")
    table = scores.filter(known).set_column(place, scores.schema.field(place), odds)
    rows, manifest = pq.read_table(shards / ROWS), ShardsManifest.read(shards)
    assert len(ours) == len(weeks)
    return _quarters(scorer, table, rows, manifest, tasks, weeks)


def _keys(rows: pa.ChunkedArray, tasks: pa.ChunkedArray) -> pa.Array:
    joined = pc.binary_join_element_wise(rows, tasks.cast(pa.string()), "\n")
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _cells(end: str, quarters: Sequence[_Quarter]) -> list[Cell]:
    out = []
    for one in quarters:
        # Held against the first quarter over the same tasks: those that both can measure.
        known = {t.name for t in quarters[0].tasks if measurable(t)}
        mine = [t for t in one.tasks if measurable(t) and t.name in known]
        names = {t.name for t in mine}
        value, error = mean_auc(mine)
        first, _ = mean_auc([t for t in quarters[0].tasks if t.name in names])
        out.append(
            Cell(
                model=end,
                scorer=one.scorer,
                start=one.start,
                age_weeks=one.age_weeks,
                auc=value if np.isfinite(value) else None,
                error=error if np.isfinite(error) else None,
                first=first if np.isfinite(first) else None,
                rows=sum(len(t.s) for t in one.tasks),
            )
        )
    return out


def _windows(quarters: Sequence[_Quarter]) -> list[Window]:
    """Quarters after the first as windows, held against the first."""
    bound, promised = performance_of(quarters[0].tasks), estimate_reference(quarters[0].tasks)
    out = []
    for before, one in zip(quarters, quarters[1:], strict=False):
        signals = performance(one.tasks, bound) + calibration(one.tasks, bound)
        signals += score_drift(one.tasks, bound)
        signals += estimates(unlabelled(one.tasks), before.tasks, promised, bound.auc)
        end = one.start + timedelta(days=QUARTER_DAYS)
        out.append(
            Window(version="1", start=one.start, end=end, matured_until=end, signals=signals)
        )
    return out
