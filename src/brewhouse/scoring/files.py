"""Scores of one file of trees as one Parquet file: the unit of work that machines share.

What is scored together depends on the file alone, so that one process and many workers of a
cluster give the same bytes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from brewhouse.errors import DataError
from brewhouse.prompts.shards import read_trees
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.scoring.endpoint import EndpointScorer
from brewhouse.scoring.scorer import LeafScores, Scorer, tokens_needed

SCHEMA = pa.schema(
    [("row", pa.string()), ("question", pa.int16()), ("logits", pa.list_(pa.float32()))]
)
_COUNTS = b"brewhouse"


class FileScorer:
    """Scores files of trees with one model; made once by each worker, then called a file."""

    def __init__(
        self,
        *,
        model: str,
        shards: str,
        threads: int,
        endpoint: str = "",
        endpoint_model: str = "",
    ) -> None:
        """Load the model, or take the address of a server of it.

        Args:
            model: Exported model.
            shards: Shards whose questions are asked.
            threads: Threads of one operation on a CPU; 0 leaves PyTorch's own choice.
            endpoint: Server that scores in place of this process.
            endpoint_model: Name of the model there.
        """
        if threads:
            torch.set_num_threads(threads)
        asked = ShardsManifest.read(Path(shards))
        self.scorer: Scorer | EndpointScorer = (
            EndpointScorer(endpoint, model=endpoint_model, answers=asked.answers, book=asked.book)
            if endpoint
            else Scorer.load(Path(model), asked=asked)
        )

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        """Score the trees of `job["source"]` into `job["target"]`; return what it took.

        Returns:
            `target`, and `trees` done.
        """
        trees = list(read_trees(Path(job["source"])))
        started = time.monotonic()
        leaves = self.scorer.score(trees) if trees else None
        seconds = time.monotonic() - started
        write_scores(Path(job["target"]), leaves, needed=tokens_needed(trees), seconds=seconds)
        return {"target": job["target"], "trees": len(trees)}


@dataclass(frozen=True, kw_only=True)
class Scored:
    """Scores of many trees with what they took.

    Attributes:
        leaves: In the order of files, trees and leaves.
        needed: Tokens of each trunk and each leaf once.
        seconds: Of scoring alone, summed over workers.
    """

    leaves: LeafScores
    needed: int
    seconds: float


def write_scores(path: Path, leaves: LeafScores | None, *, needed: int, seconds: float) -> None:
    """Write scores with what they took; the file appears whole. None where there are no trees."""
    counts: dict[str, Any] = {"tokens": 0, "needed": needed, "seconds": seconds, "load": None}
    columns: dict[str, Any] = {"row": [], "question": [], "logits": []}
    if leaves is not None:
        load = None if leaves.load_LE is None else leaves.load_LE.tolist()
        counts |= {"tokens": leaves.tokens, "load": load}
        rows, answers = leaves.logits_NA.shape
        columns = {
            "row": pa.array(leaves.rows_N.tolist(), pa.string()),
            "question": pa.array(leaves.question_N.astype(np.int16)),
            "logits": pa.ListArray.from_arrays(
                pa.array(np.arange(rows + 1, dtype=np.int32) * answers),
                pa.array(leaves.logits_NA.reshape(-1)),
            ),
        }
    table = pa.table(columns, schema=SCHEMA.with_metadata({_COUNTS: json.dumps(counts)}))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)


def read_scores(paths: Sequence[Path]) -> Scored:
    """Read files of scores in the order given, as one.

    Raises:
        DataError: No file holds a score.
    """
    parts, needed, seconds = [], 0, 0.0
    for path in paths:
        table = pq.read_table(path)
        counts = json.loads(table.schema.metadata[_COUNTS])
        needed += counts["needed"]
        seconds += counts["seconds"]
        if table.num_rows:
            logits = table.column("logits").combine_chunks()
            parts.append(
                LeafScores(
                    rows_N=table.column("row").to_numpy(),
                    question_N=table.column("question").to_numpy().astype(np.int64),
                    logits_NA=logits.values.to_numpy().reshape(table.num_rows, -1),
                    tokens=counts["tokens"],
                    load_LE=None if counts["load"] is None else np.array(counts["load"]),
                )
            )
    if not parts:
        msg = f"none of {len(paths)} files of scores holds a row; are there test trees?"
        raise DataError(msg)
    return Scored(leaves=LeafScores.joined(parts), needed=needed, seconds=seconds)


def score_here(
    jobs: Sequence[dict[str, Any]],
    given: dict[str, Any],
    *,
    progress: Callable[[dict[str, Any]], None] = lambda _done: None,
) -> None:
    """Score files one after another in this process; `given` are arguments of `FileScorer`."""
    scorer = FileScorer(**given)
    for job in jobs:
        progress(scorer(job))
