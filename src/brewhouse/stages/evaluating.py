"""Step 7: scores of all scorers -> results.json and the report. The only reader of the oracle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from brewhouse.domains.loader import load_domain
from brewhouse.domains.spec import Domain
from brewhouse.errors import ModelError
from brewhouse.evaluation.judge import judge_task
from brewhouse.evaluation.results import Check, Results, TaskResult
from brewhouse.files import digest_tree, read_json, sha256_file
from brewhouse.prompts.shards import sample_trees
from brewhouse.prompts.shards_manifest import ShardsManifest, prove_tiers
from brewhouse.reporting.report import write_report
from brewhouse.scoring.scorer import Scorer, parity
from brewhouse.stages import probing, referring
from brewhouse.stages.common import (
    COLD_SCORES,
    ROWS,
    SCORES,
    SUMMARY,
    code_version,
    note_lineage,
    publish,
    tell,
)
from brewhouse.stages.scoring import ScoringPlan, score_folder
from brewhouse.stages.task_rows import Evidence, read_oracle, task_rows
from brewhouse.tasks.spec import HistoryRule, Task
from brewhouse.tasks.suite import load_suite

PARITY_LIMIT = 1e-4
ROUTER_MAX_CV = 1.0
"""Unevenness of experts' load that is noted, for models whose training told no limit."""
PARITY_TREES = 24


def run(
    *,
    domain: str,
    shards: Path,
    model: Path,
    baselines: Path | None,
    oracle: Path,
    results_out: Path,
    report_out: Path,
    reference_out: Path | None = None,
    seed: int = 0,
    resamples: int = 1000,
    caps: Sequence[int] = (),
    scoring: ScoringPlan | None = None,
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
        reference_out: Folder to write what drift of the model will be measured against.
        seed: Seed of the bootstrap.
        resamples: Bootstrap resamples of members.
        caps: Judge tasks again on the rows of members with at most so many known interactions.
        scoring: How test trees are scored; in this process if None.
        publish_to: Run folder.
    """
    manifest = ShardsManifest.read(shards)
    folder = load_domain(domain)
    suite = load_suite(folder).select(list(manifest.book.readings))
    _refuse_other_words(shards / "tokenizer", model)
    scorer = Scorer.load(model, asked=manifest)
    scored = score_folder(shards, "test", model, scoring or ScoringPlan())
    leaves = scored.leaves
    difference = parity(scorer, sample_trees(shards / "test", PARITY_TREES))
    evidence = Evidence(
        rows=pq.read_table(shards / ROWS),
        leaves=leaves,
        book=scorer.book,
        baselines=pq.read_table(baselines / SCORES) if baselines else None,
        oracle=read_oracle(oracle),
    )
    tasks: list[TaskResult] = []
    for weeks in manifest.split["horizons_weeks"]:
        tasks += judge_all(
            suite.tasks, evidence, folder.domain, weeks, resamples=resamples, seed=seed
        )
        tell(f"judged {len(suite.tasks)} tasks at horizon {weeks} weeks")
    capped = {
        cap: judge_all(
            [t.model_copy(update={"history": HistoryRule(at_most=cap)}) for t in suite.tasks],
            evidence,
            folder.domain,
            manifest.split["horizons_weeks"][0],
            resamples=resamples,
            seed=seed,
        )
        for cap in caps
    }
    summary = read_json(shards / SUMMARY)
    digest = "sha256:" + digest_tree(model, pattern="*.safetensors")
    if reference_out is not None:
        referring.run(
            reference_out,
            shards=shards,
            model=model,
            digest=digest,
            manifest=manifest,
            evidence=evidence,
            scorer=scorer,
            tasks=suite.tasks,
        )
    asked_cold = baselines is not None and (baselines / COLD_SCORES).is_file()
    probes = probing.run(
        shards,
        scorer,
        suite,
        evidence.rows,
        leaves,
        cold=pq.read_table(baselines / COLD_SCORES) if baselines and asked_cold else None,
        resamples=min(resamples, 200),
        seed=seed,
    )
    trained = read_json(model / "training.json")
    max_cv = trained.get("config", {}).get("router_max_cv", ROUTER_MAX_CV)
    uneven = leaves.routing.warnings(max_cv=max_cv) if leaves.routing else []
    results = Results(
        domain=folder.domain.name,
        domain_version=folder.domain.version,
        snapshot=manifest.snapshot,
        model={
            "digest": digest,
            **trained,
        },
        split=manifest.split,
        seed=seed,
        resamples=resamples,
        draws_digest=evidence.draws_digest(seed=seed, resamples=resamples),
        code=code_version(),
        tasks=tasks,
        capped=capped,
        probes=probes,
        checks=_checks(difference, leaves.tokens, scored.needed, summary, manifest),
        cost={
            "leaves": float(len(leaves)),
            "tokens": float(leaves.tokens),
            "tokens_per_leaf": leaves.tokens / max(1, len(leaves)),
            "ms_per_leaf": 1000 * scored.seconds / max(1, len(leaves)),
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


def judge_all(
    tasks: Sequence[Task],
    evidence: Evidence,
    domain: Domain,
    weeks: int,
    *,
    resamples: int,
    seed: int,
) -> list[TaskResult]:
    """Judge tasks at one horizon, all under the same draws of members."""
    return [
        judge_task(
            task,
            task_rows(task, evidence, domain, weeks),
            horizon_weeks=weeks,
            members=len(evidence.members),
            resamples=resamples,
            seed=seed,
            production=domain.production,
        )
        for task in tasks
    ]


def _production(name: str, tasks: list[TaskResult]) -> str:
    """The domain's production baseline, or nothing where no task has its scores."""
    return name if any(name in task.scorers for task in tasks) else ""


def _refuse_other_words(ours: Path, model: Path) -> None:
    """Token ids mean nothing to a model with another tokenizer."""
    files = [folder / "tokenizer.json" for folder in (ours, model)]
    if all(f.is_file() for f in files) and sha256_file(files[0]) != sha256_file(files[1]):
        msg = (
            f"{ours.parent}: these shards were written for another tokenizer than that of {model}; "
            "verbalize with this model"
        )
        raise ModelError(msg)


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
