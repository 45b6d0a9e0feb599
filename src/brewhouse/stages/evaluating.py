"""Step 7: scores of all scorers -> results.json and the report. The only reader of the oracle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.domains.loader import load_domain
from brewhouse.errors import DataError
from brewhouse.evaluation.judge import TaskRows, judge_task
from brewhouse.evaluation.report import write_report
from brewhouse.evaluation.results import Check, Results, TaskResult
from brewhouse.files import digest_tree, read_json
from brewhouse.prompts.shards import read_folder
from brewhouse.prompts.shards_manifest import ShardsManifest, prove_tiers
from brewhouse.scoring.scorer import LeafScores, Scorer, parity, tokens_needed
from brewhouse.stages import probing
from brewhouse.stages.common import (
    ORACLE,
    ROWS,
    SCORES,
    SUMMARY,
    code_version,
    note_lineage,
    publish,
    tell,
)
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

PARITY_LIMIT = 1e-4
ROUTER_MAX_CV = 1.0
"""Unevenness of experts' load that is noted, for models whose training told no limit."""
PARITY_TREES = 24


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Test rows with everything that scored them."""

    rows: pa.Table
    leaves: LeafScores
    baselines: pa.Table | None
    oracle: pa.Table | None


def run(
    *,
    domain: str,
    shards: Path,
    model: Path,
    baselines: Path | None,
    oracle: Path,
    results_out: Path,
    report_out: Path,
    seed: int = 0,
    resamples: int = 500,
    publish_to: str = "",
) -> Results:
    """Score the test rows, judge every task at every horizon, write results and report.

    Args:
        domain: Built-in name or folder.
        shards: Token shards with test trees, styles and probes.
        model: Exported model.
        baselines: Scores of baselines; None to judge the ranker alone.
        oracle: Folder of a simulation's truth.
        results_out: File to write.
        report_out: File to write.
        seed: Seed of the bootstrap.
        resamples: Bootstrap resamples of members.
        publish_to: Run folder.
    """
    manifest = ShardsManifest.read(shards)
    folder = load_domain(domain)
    suite = load_suite(folder).select(list(manifest.book.readings))
    scorer = Scorer.load(model)
    trees = read_folder(shards / "test")
    started = time.monotonic()
    leaves = scorer.score(trees, progress=_every_tenth())
    seconds = time.monotonic() - started
    difference = parity(scorer, trees[:: max(1, len(trees) // PARITY_TREES)][:PARITY_TREES])
    evidence = Evidence(
        rows=pq.read_table(shards / ROWS),
        leaves=leaves,
        baselines=pq.read_table(baselines / SCORES) if baselines else None,
        oracle=_read_oracle(oracle),
    )
    tasks: list[TaskResult] = []
    for weeks in manifest.split["horizons_weeks"]:
        for task in suite.tasks:
            rows = _task_rows(task, evidence, scorer, weeks)
            tasks.append(
                judge_task(task, rows, horizon_weeks=weeks, resamples=resamples, seed=seed)
            )
        tell(f"judged {len(suite.tasks)} tasks at horizon {weeks} weeks")
    summary = read_json(shards / SUMMARY)
    probes = probing.run(
        shards, scorer, suite, evidence.rows, manifest, resamples=min(resamples, 200), seed=seed
    )
    trained = read_json(model / "training.json")
    max_cv = trained.get("config", {}).get("router_max_cv", ROUTER_MAX_CV)
    uneven = leaves.routing.warnings(max_cv=max_cv) if leaves.routing else []
    results = Results(
        domain=folder.domain.name,
        domain_version=folder.domain.version,
        snapshot=manifest.snapshot,
        model={
            "digest": "sha256:" + digest_tree(model, pattern="*.safetensors"),
            **trained,
        },
        split=manifest.split,
        seed=seed,
        resamples=resamples,
        code=code_version(),
        tasks=tasks,
        probes=probes,
        checks=_checks(difference, leaves.tokens, tokens_needed(trees), summary, manifest),
        cost={
            "leaves": float(len(leaves)),
            "tokens": float(leaves.tokens),
            "tokens_per_leaf": leaves.tokens / max(1, len(leaves)),
            "ms_per_leaf": 1000 * seconds / max(1, len(leaves)),
        },
        router=leaves.routing.metrics() if leaves.routing else {},
        proofs=prove_tiers(manifest, suite.tasks),
        notes=[*_notes(tasks, summary), *probing.notes(probes), *uneven],
        production=_production(folder.domain.production, tasks),
    )
    results.write(results_out)
    write_report(results, report_out)
    publish({"results.json": results_out, "report.html": report_out}, publish_to)
    note_lineage(
        publish_to,
        "evaluate",
        {"model": results.model["digest"], "shards": read_json(shards / "manifest.json")["digest"]},
    )
    return results


def _production(name: str, tasks: list[TaskResult]) -> str:
    """The domain's production baseline, or nothing where no task has its scores."""
    return name if any(name in task.scorers for task in tasks) else ""


def _task_rows(task: Task, evidence: Evidence, scorer: Scorer, weeks: int) -> TaskRows:
    table = evidence.rows
    table = table.filter(
        pc.and_(
            pc.equal(table.column("surface"), task.surface),
            pc.equal(table.column("horizon_weeks"), weeks),
        )
    )
    action = np.array(table.column("action").to_pylist(), dtype=object)
    yes, no = np.isin(action, task.positive), np.isin(action, task.negative)
    labelled = yes | no
    ids = np.array(table.column("row").to_pylist(), dtype=object)[labelled]
    reading = scorer.book.readings[task.name]
    own = evidence.leaves.question_N == reading.question
    scores = {
        "ranker": _aligned(
            ids,
            evidence.leaves.rows_N[own],
            scorer.book.log_odds(task.name, evidence.leaves.logits_NA[own]),
            task.name,
            "ranker",
        )
    }
    if evidence.baselines is not None:
        scores |= _baseline_scores(task, evidence.baselines, ids)
    if evidence.oracle is not None:
        scores |= _oracle_scores(task, evidence.oracle, ids)
    _, member = np.unique(
        np.array(table.column("member").to_pylist(), dtype=object), return_inverse=True
    )
    return TaskRows(
        y=yes[labelled].astype(np.int64),
        member=member[labelled],
        history=table.column("history").to_numpy()[labelled],
        scores=scores,
        excluded=int((~labelled).sum()),
        sampled=bool(pc.any(table.column("sampled")).as_py()),
    )


def _baseline_scores(task: Task, table: pa.Table, ids: np.ndarray) -> dict[str, np.ndarray]:
    given = table.filter(pc.equal(table.column("task"), task.name))
    scores = {}
    for name in sorted(set(given.column("scorer").to_pylist())):
        part = given.filter(pc.equal(given.column("scorer"), name))
        scores[name] = _aligned(
            ids,
            np.array(part.column("row").to_pylist(), dtype=object),
            part.column("log_odds").to_numpy(),
            task.name,
            name,
        )
    return scores


def _aligned(
    ids: np.ndarray, rows: np.ndarray, scores: np.ndarray, task: str, scorer: str
) -> np.ndarray:
    """Scores in the order of `ids`.

    Raises:
        DataError: A row was not scored; no sample is dropped in silence.
    """
    found = dict(zip(rows.tolist(), scores.tolist(), strict=True))
    missing = [row for row in ids.tolist() if row not in found]
    if missing:
        msg = (
            f"task {task}: {scorer} scored {len(found)} rows but not {missing[0]} and "
            f"{len(missing) - 1} more; run the step again"
        )
        raise DataError(msg)
    return np.array([found[row] for row in ids.tolist()], np.float64)


def _oracle_scores(task: Task, oracle: pa.Table, ids: np.ndarray) -> dict[str, np.ndarray]:
    """True log-odds of a simulated world, and those of one who cannot see histories."""
    wanted = oracle.filter(
        pc.is_in(oracle.column("interaction_id"), value_set=pa.array(ids.tolist(), pa.string()))
    )
    position = {row: i for i, row in enumerate(ids.tolist())}
    at = np.array([position[r] for r in wanted.column("interaction_id").to_pylist()], np.int64)
    action = np.array(wanted.column("action").to_pylist(), dtype=object)
    out = {}
    for name, column in (
        ("oracle", "probability"),
        ("oracle_without_history", "probability_without_history"),
    ):
        p = wanted.column(column).to_numpy()
        sides = [
            np.bincount(at, weights=p * np.isin(action, side), minlength=len(ids))
            for side in (task.positive, task.negative)
        ]
        out[name] = np.log(np.maximum(sides[0], 1e-12)) - np.log(np.maximum(sides[1], 1e-12))
    return out


def _read_oracle(folder: Path) -> pa.Table | None:
    path = folder / ORACLE
    return pq.read_table(path) if path.is_file() else None


def _checks(
    difference: float,
    tokens: int,
    needed: int,
    summary: dict[str, Any],
    manifest: ShardsManifest,
) -> list[Check]:
    canary, rows = summary["canary"]["auc"], summary["canary"]["rows"]
    value = 0.5 if canary is None else float(canary)
    return [
        Check(
            name="leaf_parity",
            value=difference,
            limit=PARITY_LIMIT,
            passed=difference <= PARITY_LIMIT,
            detail=f"leaf scores in trees and as single prompts differ by at most "
            f"{difference:.1e} (limit {PARITY_LIMIT:.0e})",
        ),
        Check(
            name="cost",
            value=float(tokens),
            limit=float(needed),
            passed=tokens == needed,
            detail=f"scoring took {tokens:,} tokens; each trunk and each leaf once are {needed:,}",
        ),
        Check(
            name="canary",
            value=value,
            limit=0.5,
            passed=canary is not None and value == 0.5,
            detail=f"planted future facts score AUC {value:.3f} on {rows} rows (must be 0.5)",
        ),
        Check(
            name="point_in_time",
            value=float(manifest.counts["history_pairs_checked"]),
            limit=1.0,
            passed=manifest.counts["history_pairs_checked"] > 0,
            detail=f"none of {manifest.counts['history_pairs_checked']:,} pairs of a target and an "
            "event of its history breaks a time rule (the verbalize step stops otherwise)",
        ),
    ]


def _notes(tasks: list[TaskResult], summary: dict[str, Any]) -> list[str]:
    notes = []
    if any(t.sampled_negatives for t in tasks):
        names = ", ".join(t.name for t in tasks if t.sampled_negatives)
        notes.append(
            f"Negatives of {names} are sampled: compare AUCs only under the same policy; "
            "probabilities are not calibrated to natural rates."
        )
    available = sum(summary["counts"]["test_sessions_available"].values())
    notes.append(
        f"{available:,} test sessions were available; test rows come from "
        f"{summary['counts']['test']['trees']:,} of them, chosen by a hash."
    )
    removed = summary["counts"]["removed"]
    if removed.get("members_outside_regions"):
        notes.append(
            f"{removed['members_outside_regions']:,} members outside the allowed regions "
            f"({removed.get('rows_outside_regions', 0):,} interactions) were left out."
        )
    return notes


def _every_tenth() -> Any:
    state = {"next": 0.1}

    def progress(done: int, total: int) -> None:
        if done / total >= state["next"]:
            state["next"] = done / total + 0.1
            tell(f"scored {done:,} of {total:,} requests")

    return progress
