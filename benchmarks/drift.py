"""(f) When drift is called, and how often without cause: our policy beside two naive rules.

Simulated worlds of known truth. The model in use is the best one that could have been trained
before the drift: its scores are the world's own probabilities by the laws of before. Each seed is a
year without drift, and a world in which matches of profile and item lose part of their worth in one
night, such that the mean AUC falls by about .03. Peers see the same windows: a Kolmogorov-Smirnov
test of every numeric column at p < .05, and Evidently's preset with its defaults.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from common import Result, main, result

from brewhouse import offline
from brewhouse.domains.linkedin.simulate import simulate
from brewhouse.domains.linkedin.world import World
from brewhouse.domains.loader import load_domain
from brewhouse.drift.decision import Context, Outcome, decide
from brewhouse.drift.estimate import estimate_reference, estimates
from brewhouse.drift.measure import (
    ScoredTask,
    calibration,
    mean_auc,
    performance,
    performance_of,
    score_drift,
)
from brewhouse.drift.policy import load_drift_policy
from brewhouse.drift.signals import Window
from brewhouse.stages.scored_rows import unlabelled
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

SEEDS = int(os.environ.get("BREWHOUSE_DRIFT_SEEDS", "30"))
MEMBERS = 1500
YEAR = 52
REFERENCE_WEEKS = 2
SHIFT_AT = 16
"""Weeks after the reference's end at which the drift comes, in worlds that have one."""
AFTER = 8
MATCH = -0.2
"""What matches count for after the drift, times what they counted for before: .03 of mean AUC."""
START = date(2024, 1, 1)
SAMPLE = 2000
COOLDOWN = 4
"""Weeks for which a naive rule that has called for a retraining is not asked again, like ours."""
RULES = ("ours", "ks", "evidently")


@dataclass(frozen=True, kw_only=True)
class Week:
    """One window: scored rows by task, and a table of inputs for the peers."""

    start: date
    tasks: list[ScoredTask]
    inputs: pa.Table


def weeks_of(seed: int, weeks: int, *, shift: int) -> list[Week]:
    """A world by weeks, scored by the laws of before the drift."""
    base: dict[str, Any] = {"members": MEMBERS, "weeks": weeks, "seed": seed}
    with tempfile.TemporaryDirectory(prefix="brewhouse-drift-") as scratch:
        before = simulate(World(**base), Path(scratch) / "before", workers=1)
        lived = before
        if shift:
            # The same draws: every impression is the same, only what members do differs.
            world = World(**base, shift_week=shift, shift_match=MATCH)
            lived = simulate(world, Path(scratch) / "lived", workers=1)
        return _weeks(lived, before, weeks)


def _weeks(lived: Path, before: Path, weeks: int) -> list[Week]:
    log = _read(lived / "interactions")
    tasks = [t for t in load_suite(load_domain("linkedin")).tasks if t.tier == "T1"]
    odds = _log_odds(log, _read(before / "oracle"), tasks)
    inputs = _inputs(log, lived, odds)
    week = (log["shown_at"].cast(pa.int64()).to_numpy() - _micros(START)) // (7 * 86_400_000_000)
    member, _ = _coded(log["member_id"])
    action, actions = _coded(log["action"])
    surface, surfaces = _coded(log["surface"])
    out = []
    for number in range(weeks):
        place = np.flatnonzero(week == number)
        found = []
        for task in tasks:
            on = place[surface[place] == surfaces.index(task.surface)]
            yes, no = (_among(actions, names) for names in (task.positive, task.negative))
            rows = on[yes[action[on]] | no[action[on]]]
            if len(rows):
                found.append(
                    ScoredTask(
                        name=task.name,
                        surface=task.surface,
                        s=odds[task.name][rows],
                        member=member[rows],
                        y=yes[action[rows]].astype(float),
                    )
                )
        place = place[:: max(1, len(place) // SAMPLE)][:SAMPLE]
        start = START + timedelta(weeks=number)
        out.append(Week(start=start, tasks=found, inputs=inputs.take(pa.array(place))))
    return out


def _coded(column: pa.ChunkedArray) -> tuple[np.ndarray, list[str]]:
    """Codes and what they stand for."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()


def _among(values: list[str], wanted: Iterable[str]) -> np.ndarray:
    return np.array([value in set(wanted) for value in values])


def _micros(day: date) -> int:
    return (day - date(1970, 1, 1)).days * 86_400_000_000


def _read(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(p) for p in sorted(folder.glob("*.parquet"))])


def _log_odds(log: pa.Table, oracle: pa.Table, tasks: list[Task]) -> dict[str, np.ndarray]:
    """Log-odds of each task's yes, by the probabilities that the world tells."""
    at = pc.index_in(oracle["interaction_id"], value_set=log["interaction_id"].combine_chunks())
    row, p = at.to_numpy(), oracle["probability"].to_numpy()
    action, actions = _coded(oracle["action"])
    out = {}
    for task in tasks:
        sides = []
        for names in (task.positive, task.negative):
            mine = _among(actions, names)[action]
            sides.append(np.bincount(row[mine], weights=p[mine], minlength=len(log)))
        with np.errstate(divide="ignore", invalid="ignore"):
            out[task.name] = np.nan_to_num(np.log(sides[0]) - np.log(sides[1]))
    return out


def _inputs(log: pa.Table, world: Path, odds: dict[str, np.ndarray]) -> pa.Table:
    """What a naive rule would look at: items, profiles, sizes of histories, and scores."""
    items = pq.read_table(world / "items.parquet")
    members = _read(world / "members")
    first = members.group_by("member_id", use_threads=False).aggregate(
        [(n, "first") for n in ("area", "seniority", "country")]
    )
    item = pc.index_in(log["item_id"], value_set=items["item_id"].combine_chunks())
    member = pc.index_in(log["member_id"], value_set=first["member_id"].combine_chunks())
    shown = log["shown_at"].cast(pa.int64()).to_numpy()
    created = items["created_at"].take(item).cast(pa.int64()).to_numpy()
    order = np.lexsort((shown, np.array(member)))
    sizes = np.empty(len(log), np.int64)
    _, starts, counts = np.unique(np.array(member)[order], return_index=True, return_counts=True)
    sizes[order] = np.arange(len(log)) - np.repeat(starts, counts)
    surface, surfaces = _coded(log["surface"])
    score = np.zeros(len(log))
    for task in load_suite(load_domain("linkedin")).tasks:
        if task.name in odds:
            mine = surface == surfaces.index(task.surface)
            score[mine] = odds[task.name][mine]
    return pa.table(
        {
            "score": score,
            "item_age_days": (shown - created) / 86_400e6,
            "history": np.minimum(sizes, 64).astype(float),
            "reach": items["reach"].take(item).cast(pa.float64()),
            "item_area": items["area"].take(item),
            "item_format": items["format"].take(item),
            "item_topic": items["topic"].take(item),
            "surface": log["surface"],
            "member_area": first["area_first"].take(member),
            "member_seniority": first["seniority_first"].take(member),
            "member_country": first["country_first"].take(member),
        }
    )


def judged(weeks: list[Week]) -> dict[str, list[bool]]:
    """Whether each rule calls for a retraining, window by window after the reference."""
    policy = load_drift_policy("default")
    rows = _joined(weeks[:REFERENCE_WEEKS])
    known, promised = performance_of(rows), estimate_reference(rows)
    reference = pa.concat_tables([w.inputs for w in weeks[:REFERENCE_WEEKS]])
    found: dict[str, list[bool]] = {rule: [] for rule in RULES}
    incidents = 0
    state: dict[str, Any] = {}
    retrains: list[date] = []
    standing: set[str] = set()
    for week in weeks[REFERENCE_WEEKS:]:
        end = week.start + timedelta(days=7)
        signals = performance(week.tasks, known) + calibration(week.tasks, known)
        signals += score_drift(week.tasks, known)
        signals += estimates(unlabelled(week.tasks), week.tasks, promised, known.auc)
        window = Window(version="1", start=week.start, end=end, matured_until=end, signals=signals)
        context = Context(retrains=tuple(retrains))
        evaluation, state = decide(policy, window, state, context)
        now = {told.key for told in evaluation.open}
        incidents += len(now - standing)
        standing = now
        fired = evaluation.outcome is Outcome.TRIGGER
        if fired:
            retrains.append(end)
        found["ours"].append(fired)
        found["ks"].append(_cooled(found["ks"], _ks(week.inputs, reference)))
        # Asked once a cooldown until the drift comes: it takes half a second, and never fires.
        asked = len(found["evidently"]) >= SHIFT_AT and len(weeks) < YEAR
        asked |= len(found["evidently"]) % COOLDOWN == 0
        fires = asked and _preset(week.inputs, reference)
        found["evidently"].append(_cooled(found["evidently"], fires))
    return found | {"incidents": [True] * incidents}


def _joined(weeks: list[Week]) -> list[ScoredTask]:
    names = {t.name: t.surface for w in weeks for t in w.tasks}
    out = []
    for name, surface in names.items():
        parts = [t for w in weeks for t in w.tasks if t.name == name]
        out.append(
            ScoredTask(
                name=name,
                surface=surface,
                s=np.concatenate([t.s for t in parts]),
                member=np.concatenate([t.member for t in parts]),
                y=np.concatenate([np.asarray(t.y) for t in parts]),
            )
        )
    return out


def _cooled(before: list[bool], fires: bool) -> bool:
    return fires and not any(before[-COOLDOWN + 1 :])


def _ks(current: pa.Table, reference: pa.Table) -> bool:
    """Any numeric column differs at p < .05: the first rule that everybody writes."""
    from scipy.stats import ks_2samp

    numeric = [f.name for f in current.schema if pa.types.is_floating(f.type)]
    return any(
        ks_2samp(current[n].to_numpy(), reference[n].to_numpy()).pvalue < 0.05 for n in numeric
    )


def _preset(current: pa.Table, reference: pa.Table) -> bool:
    """Evidently's preset: half of the columns drifted, each by its default test."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    frames = [t.to_pandas() for t in (current, reference)]
    numeric = list(frames[0].select_dtypes("number").columns)
    definition = DataDefinition(
        numerical_columns=numeric,
        categorical_columns=[c for c in frames[0].columns if c not in numeric],
    )
    now, then = (Dataset.from_pandas(f, data_definition=definition) for f in frames)
    metrics = Report([DataDriftPreset()]).run(now, then).dict()["metrics"]
    share = next(m["value"]["share"] for m in metrics if "DriftedColumns" in m["metric_name"])
    return bool(share >= 0.5)


def one_seed(seed: int) -> dict[str, Any]:
    """A year without drift, and a world with it."""
    offline.silence()
    started = time.monotonic()
    calm = judged(weeks_of(seed, REFERENCE_WEEKS + YEAR, shift=0))
    shift = REFERENCE_WEEKS + SHIFT_AT
    drifting = weeks_of(1000 + seed, shift + AFTER, shift=shift)
    called = judged(drifting)
    aucs = [mean_auc(w.tasks) for w in drifting]
    before = [value for value, _ in aucs[REFERENCE_WEEKS:shift]]
    after = [value for value, _ in aucs[shift:]]
    delays = {
        rule: next((n + 1 for n, fires in enumerate(called[rule][SHIFT_AT:]) if fires), None)
        for rule in RULES
    }
    found = {
        "seed": seed,
        "false": {rule: sum(calm[rule]) for rule in RULES},
        "early": {rule: sum(called[rule][:SHIFT_AT]) for rule in RULES},
        "incidents": len(calm["incidents"]),
        "delay": delays,
        "fall": float(np.mean(before) - np.mean(after)),
        "error": float(np.mean([error for _, error in aucs])),
    }
    print(f"seed {seed}: {json.dumps(found)} {time.monotonic() - started:.0f} s", flush=True)
    return found


def run() -> Iterator[Result]:
    """All seeds, and what they say."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(one_seed, range(SEEDS)))
    fall = float(np.mean([f["fall"] for f in found]))
    error = float(np.mean([f["error"] for f in found]))
    sizes = {"seeds": SEEDS, "fall": round(fall, 4), "error": round(error, 4)}
    rate = {rule: float(np.mean([f["false"][rule] for f in found])) for rule in RULES}
    within = {
        rule: 100 * float(np.mean([_soon(f["delay"][rule]) for f in found])) for rule in RULES
    }
    for rule, against in (("ks", "KS p < .05, any column"), ("evidently", "Evidently preset")):
        yield result(
            f"false retrainings a year avoided, {rule}",
            ours=YEAR / COOLDOWN - rate["ours"],
            peer=max(YEAR / COOLDOWN - rate[rule], 0.1),
            unit="of 13 a year",
            against=against,
            ours_false=round(rate["ours"], 3),
            peer_false=round(rate[rule], 3),
            **sizes,
        )
        yield result(
            f"drift called within two windows, {rule}",
            ours=within["ours"],
            peer=max(within[rule], 0.1),
            unit="% of seeds",
            against=against,
            delays={r: _spread([f["delay"][r] for f in found]) for r in RULES},
            called_before={r: sum(f["early"][r] > 0 for f in found) for r in RULES},
            incidents_a_year=round(float(np.mean([f["incidents"] for f in found])), 2),
            **sizes,
        )


def _soon(delay: int | None) -> bool:
    return delay is not None and delay <= 2


def _spread(delays: Iterable[int | None]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for delay in delays:
        counted[str(delay)] = counted.get(str(delay), 0) + 1
    return dict(sorted(counted.items()))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        one_seed(int(sys.argv[1]))
    else:
        main("drift", run)
