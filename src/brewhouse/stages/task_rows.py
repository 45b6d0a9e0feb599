"""Part of step 7: the rows of a task with their labels, scores and facets, aligned."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.domains.spec import Domain
from brewhouse.errors import DataError
from brewhouse.evaluation.judge import RANKER, TaskRows
from brewhouse.files import sha256_json
from brewhouse.prompts.questions import QuestionBook
from brewhouse.scoring.scorer import LeafScores
from brewhouse.stages.common import ORACLE
from brewhouse.stages.facets import PREFIX
from brewhouse.tasks.spec import Task

_COLUMNS = {
    "history": "history",
    "item_age": "item_age_days",
    "tenure": "tenure_days",
    "popularity": "popularity",
}


@dataclass(kw_only=True)
class Evidence:
    """Test rows with everything that scored them."""

    rows: pa.Table
    leaves: LeafScores
    book: QuestionBook
    baselines: pa.Table | None
    oracle: pa.Table | None

    @cached_property
    def members(self) -> pa.Array:
        """Every member of the test rows once, in order: a member's place is its code."""
        return pc.unique(self.rows.column("member")).sort()

    def draws_digest(self, *, seed: int, resamples: int) -> str:
        """Names the draws: two evaluations with the same are paired."""
        value = {"members": self.members.to_pylist(), "seed": seed, "resamples": resamples}
        return "sha256:" + sha256_json(value)


def task_rows(task: Task, evidence: Evidence, domain: Domain, weeks: int) -> TaskRows:
    """Rows of a task at a horizon.

    Raises:
        DataError: A scorer left out a row.
    """
    table = evidence.rows
    history = table.column("history")
    mask = pc.and_(
        pc.equal(table.column("surface"), task.surface),
        pc.and_(
            pc.equal(table.column("horizon_weeks"), weeks),
            pc.greater_equal(history, task.history.at_least),
        ),
    )
    if task.history.at_most is not None:
        mask = pc.and_(mask, pc.less_equal(history, task.history.at_most))
    table = table.filter(mask)
    action = table.column("action")
    yes = pc.is_in(action, value_set=pa.array(task.positive))
    no = pc.is_in(action, value_set=pa.array(task.negative))
    labelled = pc.or_(yes, no)
    excluded = len(table) - (pc.sum(labelled).as_py() or 0)
    sampled = bool(pc.any(table.column("sampled")).as_py())
    y = yes.filter(labelled).to_numpy().astype(np.int64)
    table = table.filter(labelled)
    ids = table.column("row").combine_chunks()
    reading = evidence.book.readings[task.name]
    own = evidence.leaves.question_N == reading.question
    scores = {
        RANKER: _aligned(
            ids,
            pa.array(evidence.leaves.rows_N[own].tolist(), pa.string()),
            evidence.book.log_odds(task.name, evidence.leaves.logits_NA[own]),
            task.name,
            RANKER,
        )
    }
    if evidence.baselines is not None:
        scores |= _baseline_scores(task, evidence.baselines, ids)
    if evidence.oracle is not None:
        scores |= _oracle_scores(task, evidence.oracle, ids)
    member = pc.index_in(table.column("member"), value_set=evidence.members)
    return TaskRows(
        ids=ids.to_numpy(zero_copy_only=False),
        y=y,
        member=member.to_numpy().astype(np.int64),
        scores=scores,
        facets={name: _facet(table, name) for name in task.slices},
        excluded=excluded,
        sampled=_drawn_rate(task, domain) if sampled else None,
    )


def _facet(table: pa.Table, name: str) -> np.ndarray:
    column = table.column(_COLUMNS.get(name, PREFIX + name))
    return np.asarray(column.to_numpy())


def _drawn_rate(task: Task, domain: Domain) -> float:
    """Share of yes among the rows of a surface whose negatives a policy draws."""
    policy = next(p for p in domain.source.negatives if p.surface == task.surface)
    return 1 / (1 + policy.per_positive)


def _baseline_scores(task: Task, table: pa.Table, ids: pa.Array) -> dict[str, np.ndarray]:
    given = table.filter(pc.equal(table.column("task"), task.name))
    scores = {}
    for name in sorted(pc.unique(given.column("scorer")).to_pylist()):
        part = given.filter(pc.equal(given.column("scorer"), name))
        scores[name] = _aligned(
            ids,
            part.column("row").combine_chunks(),
            part.column("log_odds").to_numpy(),
            task.name,
            name,
        )
    return scores


def _aligned(
    ids: pa.Array, rows: pa.Array, scores: np.ndarray, task: str, scorer: str
) -> np.ndarray:
    """Scores in the order of `ids`, float64.

    Raises:
        DataError: A row was not scored, or scored with something that is no number; no sample is
            dropped in silence.
    """
    at = pc.index_in(ids, value_set=rows)
    if at.null_count:
        missing = ids.filter(pc.is_null(at))
        msg = (
            f"task {task}: {scorer} scored {len(rows)} rows but not {missing[0].as_py()} and "
            f"{len(missing) - 1} more; run the step again"
        )
        raise DataError(msg)
    found = scores.astype(np.float64)[at.to_numpy()]
    if not np.isfinite(found).all():
        wrong = int(np.flatnonzero(~np.isfinite(found))[0])
        msg = f"task {task}: {scorer} gave {found[wrong]} to row {ids[wrong].as_py()}"
        raise DataError(msg)
    return found


def _oracle_scores(task: Task, oracle: pa.Table, ids: pa.Array) -> dict[str, np.ndarray]:
    """True log-odds of a simulated world, and those of one who cannot see histories."""
    at = pc.index_in(oracle.column("interaction_id"), value_set=ids).combine_chunks()
    known = pc.is_valid(at)
    position = at.filter(known).to_numpy()
    wanted = oracle.filter(known)
    action = wanted.column("action")
    out = {}
    for name, column in (
        ("oracle", "probability"),
        ("oracle_without_history", "probability_without_history"),
    ):
        p = wanted.column(column).to_numpy()
        sides = [
            np.bincount(
                position,
                weights=p * pc.is_in(action, value_set=pa.array(side)).to_numpy(),
                minlength=len(ids),
            )
            for side in (task.positive, task.negative)
        ]
        out[name] = np.log(np.maximum(sides[0], 1e-12)) - np.log(np.maximum(sides[1], 1e-12))
    return out


def read_oracle(folder: Path) -> pa.Table | None:
    """Truth of a simulated world, or None."""
    path = folder / ORACLE
    return pq.read_table(path) if path.is_file() else None
