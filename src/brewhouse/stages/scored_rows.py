"""Scored rows as one table, a row a question and task: what drift is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brewhouse.data.schema import TIMESTAMP
from brewhouse.drift.measure import ScoredTask
from brewhouse.errors import DataError
from brewhouse.prompts.questions import QuestionBook
from brewhouse.scoring.scorer import LeafScores
from brewhouse.tasks.spec import Task

_CODED = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("row", pa.string(), nullable=False),
        pa.field("member", pa.string(), nullable=False),
        pa.field("task", _CODED, nullable=False),
        pa.field("shown_at", TIMESTAMP, nullable=False),
        pa.field("action", pa.string()),
        pa.field("log_odds", pa.float32(), nullable=False),
        pa.field("shuffled", pa.float32()),
    ]
)
"""`action` is what the log said when the row was scored, null where it said nothing; `shuffled`
the log-odds with the labels of the history shuffled, null where that was not asked."""
Logits = Mapping[tuple[str, int], np.ndarray]


def scored_rows(
    rows: pa.Table,
    leaves: LeafScores,
    book: QuestionBook,
    tasks: Sequence[Task],
    *,
    shuffled: Logits | None = None,
) -> pa.Table:
    """Join scores to the rows of every task.

    Args:
        rows: Test rows as the verbalize step writes them.
        leaves: Their scores.
        book: Questions that were asked.
        tasks: Tasks.
        shuffled: Answer logits of some rows with shuffled histories, by row and question.

    Returns:
        A table of `SCHEMA`, the rows of each task that its history rule admits.

    Raises:
        DataError: A row has no score.
    """
    parts = [SCHEMA.empty_table()]
    for task in tasks:
        own = _asked(rows, task)
        question = book.readings[task.name].question
        mine = leaves.question_N == question
        names = pa.array(leaves.rows_N[mine].tolist(), pa.string())
        at = pc.index_in(own.column("row"), value_set=names)
        if at.null_count:
            msg = f"task {task.name}: {at.null_count} of {len(at)} rows got no score; run it again"
            raise DataError(msg)
        odds = book.log_odds(task.name, leaves.logits_NA[mine])[at.to_numpy()]
        parts.append(
            pa.Table.from_arrays(
                [
                    own.column("row"),
                    own.column("member"),
                    pa.array([task.name] * len(own), pa.string()).cast(_CODED),
                    own.column("shown_at"),
                    own.column("action"),
                    pa.array(odds, pa.float32()),
                    _shuffled(own, task.name, question, book, shuffled or {}),
                ],
                schema=SCHEMA,
            )
        )
    return pa.concat_tables(parts).unify_dictionaries()


def _asked(rows: pa.Table, task: Task) -> pa.Table:
    history = rows.column("history")
    mask = pc.and_(
        pc.equal(rows.column("surface"), task.surface),
        pc.greater_equal(history, task.history.at_least),
    )
    if task.history.at_most is not None:
        mask = pc.and_(mask, pc.less_equal(history, task.history.at_most))
    return rows.filter(mask)


def _shuffled(
    own: pa.Table, task: str, question: int, book: QuestionBook, logits: Logits
) -> pa.Array:
    names = own.column("row").to_pylist()
    places = [i for i, row in enumerate(names) if (row, question) in logits]
    values = np.full(len(names), np.nan, np.float32)
    if places:
        found = np.stack([logits[names[i], question] for i in places])
        values[places] = book.log_odds(task, found)
    return pa.array(values, pa.float32(), mask=np.isnan(values))


def scored_tasks(
    scores: pa.Table, tasks: Sequence[Task], labels: pa.Table | None = None
) -> list[ScoredTask]:
    """Rows by task for the measures.

    Args:
        scores: Of `SCHEMA`.
        tasks: Tasks of the version; others in the table are left out.
        labels: What is known now, `row` and `action`, in place of the actions of the table; rows
            without a label that the task reads are left out.

    Returns:
        Tasks with rows; without labels where none was given and the table holds none.
    """
    if labels is not None:
        place = pc.index_in(scores.column("row"), value_set=labels.column("row"))
        found = labels.column("action").take(place)
        scores = scores.set_column(scores.schema.get_field_index("action"), "action", found)
    members = pc.dictionary_encode(scores.column("member").combine_chunks())
    scores = scores.append_column("code", members.indices)
    named = scores.column("task").cast(pa.string())
    out = []
    for task in tasks:
        own = scores.filter(pc.equal(named, task.name))
        y: np.ndarray | None = None
        if own.column("action").null_count < len(own) or labels is not None:
            yes = pc.is_in(own.column("action"), value_set=pa.array(task.positive))
            no = pc.is_in(own.column("action"), value_set=pa.array(task.negative))
            own, yes = own.filter(pc.or_(yes, no)), yes.filter(pc.or_(yes, no))
            y = yes.to_numpy().astype(float)
        if len(own):
            out.append(
                ScoredTask(
                    name=task.name,
                    surface=task.surface,
                    s=own.column("log_odds").to_numpy().astype(float),
                    member=own.column("code").to_numpy(),
                    y=y,
                    shuffled=_floats(own.column("shuffled")),
                )
            )
    return out


def _floats(column: pa.ChunkedArray) -> np.ndarray | None:
    if column.null_count == len(column):
        return None
    return column.to_numpy(zero_copy_only=False).astype(float)


def unlabelled(tasks: Sequence[ScoredTask]) -> list[ScoredTask]:
    """The same rows as if nothing were known of what members did."""
    return [ScoredTask(name=t.name, surface=t.surface, s=t.s, member=t.member) for t in tasks]
