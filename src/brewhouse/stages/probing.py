"""Part of step 7: the probe requests, scored as they are served and in every changed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from brewhouse.evaluation.probes import ProbeRows, judge_probes, share_rising
from brewhouse.evaluation.results import ProbeResult
from brewhouse.prompts.probes import GROWING, NEWCOMER
from brewhouse.prompts.shards import read_folder
from brewhouse.scoring.scorer import LeafScores, Scorer
from brewhouse.stages.common import tell
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import Suite

Logits = dict[tuple[str, int], np.ndarray]
"""Answer logits by row and question."""
Peers = dict[str, dict[str, dict[str, float]]]
"""Log-odds by task, scorer and row."""
FOLDERS: dict[Literal["history", "style"], str] = {"history": "probes", "style": "styles"}


@dataclass(frozen=True, kw_only=True)
class _Labels:
    """Action and member code of every test row."""

    action: dict[str, str]
    member: dict[str, int]

    @classmethod
    def of(cls, rows: pa.Table) -> _Labels:
        ids = rows.column("row").to_pylist()
        names = np.array(rows.column("member").to_pylist(), dtype=object)
        _, member = np.unique(names, return_inverse=True)
        action = dict(zip(ids, rows.column("action").to_pylist(), strict=True))
        return cls(action=action, member=dict(zip(ids, member.tolist(), strict=True)))


def run(
    shards: Path,
    scorer: Scorer,
    suite: Suite,
    rows: pa.Table,
    leaves: LeafScores,
    *,
    cold: pa.Table | None = None,
    resamples: int,
    seed: int,
) -> list[ProbeResult]:
    """Mean AUC over T1 tasks with histories tampered with and prompts reworded.

    Args:
        shards: Token shards with `probes/` and `styles/`.
        scorer: The ranker.
        suite: Tasks.
        rows: Test rows with their actions and members.
        leaves: Test rows as they are served, scored.
        cold: What baselines say of the newcomers' rows when they know `COLD` events at most.
        resamples: Bootstrap resamples of members.
        seed: Seed of the bootstrap.
    """
    labels, ordinary = _Labels.of(rows), _by_key(leaves)
    peers = _by_task(cold)
    found: list[ProbeResult] = []
    for kind, folder in FOLDERS.items():
        asked: dict[frozenset[tuple[str, int]], dict[str, Logits]] = {}
        for path in sorted((shards / folder).glob("*/")):
            if logits := score(scorer, path):
                asked.setdefault(frozenset(logits), {})[path.name] = logits
        # Probes of the same rows share their resamples.
        for keys, changed in asked.items():
            tell(f"probed {len(keys):,} candidates: {kind} changed, {', '.join(changed)}")
            tasks = [
                probed
                for task in suite.tasks
                if task.tier == "T1"
                and (probed := _task(task, scorer, labels, ordinary, changed, peers))
            ]
            found += judge_probes(tasks, kind=kind, resamples=resamples, seed=seed)
    return found


def notes(probes: Sequence[ProbeResult]) -> list[str]:
    """On how many tasks the ranker gains from a longer history, in words."""
    rising = share_rising(probes, GROWING)
    if rising is None:
        return []
    share, tasks = rising
    steps = ", ".join(name.removeprefix("newest_") for name in GROWING)
    return [
        f"AUC rises with the history told on {share:.0%} of {tasks} T1 tasks: the same rows were "
        f"told with the newest {steps} events, then with all that fit."
    ]


def _task(
    task: Task,
    scorer: Scorer,
    labels: _Labels,
    ordinary: Logits,
    changed: dict[str, Logits],
    peers: Peers,
) -> ProbeRows | None:
    question = scorer.book.readings[task.name].question
    asked = [key for key in next(iter(changed.values())) if key[1] == question]
    asked = [key for key in asked if labels.action[key[0]] in (*task.positive, *task.negative)]
    if not asked:
        return None

    def log_odds(logits: Logits) -> np.ndarray:
        return scorer.book.log_odds(task.name, np.stack([logits[key] for key in asked]))

    return ProbeRows(
        task=task.name,
        y=np.array([labels.action[row] in task.positive for row, _ in asked], np.int64),
        member=np.array([labels.member[row] for row, _ in asked]),
        ordinary=log_odds(ordinary),
        changed={name: log_odds(logits) for name, logits in changed.items()},
        peers={NEWCOMER: _aligned(peers.get(task.name, {}), [row for row, _ in asked])},
    )


def _by_task(table: pa.Table | None) -> Peers:
    found: Peers = {}
    if table is not None:
        columns = (table.column(c).to_pylist() for c in ("task", "scorer", "row", "log_odds"))
        for task, scorer, row, log_odds in zip(*columns, strict=True):
            found.setdefault(task, {}).setdefault(scorer, {})[row] = log_odds
    return found


def _aligned(peers: dict[str, dict[str, float]], rows: list[str]) -> dict[str, np.ndarray]:
    """Log-odds of those that scored all rows, in their order."""
    return {
        name: np.array([scores[row] for row in rows], np.float32)
        for name, scores in peers.items()
        if all(row in scores for row in rows)
    }


def score(scorer: Scorer, folder: Path) -> Logits:
    """Score the trees of a folder; nothing where there are none."""
    trees = read_folder(folder)
    return _by_key(scorer.score(trees)) if trees else {}


def _by_key(leaves: LeafScores) -> Logits:
    keys = zip(leaves.rows_N.tolist(), leaves.question_N.tolist(), strict=True)
    return dict(zip(keys, leaves.logits_NA, strict=True))
