"""Part of step 7: what the version will be held against once it is in use."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.drift.estimate import estimate_reference
from brewhouse.drift.measure import performance_of
from brewhouse.drift.policy import InputMethods
from brewhouse.drift.quality import DataReference
from brewhouse.drift.reference import Reference, router_shares
from brewhouse.files import atomic_dir, read_json, write_json
from brewhouse.platform.evidently_drift import input_drift
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.scoring.scorer import Scorer
from brewhouse.stages import inputs, probing
from brewhouse.stages.common import SUMMARY
from brewhouse.stages.scored_rows import scored_rows, scored_tasks
from brewhouse.stages.task_rows import Evidence
from brewhouse.tasks.spec import Task

REFERENCE = "reference.json"
PROBE = "shuffled_labels"
NOISE_CUTS = 4


def run(
    out: Path,
    *,
    shards: Path,
    model: Path,
    digest: str,
    manifest: ShardsManifest,
    evidence: Evidence,
    scorer: Scorer,
    tasks: Sequence[Task],
) -> Reference:
    """Write `reference.json`, the described sample of inputs, and the projection of embeddings.

    Args:
        out: Folder to write.
        shards: Shards with test rows of the first horizon.
        model: Exported model.
        digest: Of its weights.
        manifest: Of the shards.
        evidence: Scored test rows.
        scorer: The ranker.
        tasks: Tasks that were judged.
    """
    first = min(manifest.split["horizons_weeks"])
    rows = evidence.rows.filter(pc.equal(evidence.rows.column("horizon_weeks"), first))
    shuffled = probing.score(scorer, shards / probing.FOLDERS["history"] / PROBE)
    table = scored_rows(rows, evidence.leaves, evidence.book, tasks, shuffled=shuffled)
    scored = scored_tasks(table, tasks)
    start, end = window(manifest)
    with atomic_dir(out) as folder:
        described = inputs.embed(
            pq.read_table(shards / inputs.INPUTS),
            model,
            projection=folder / inputs.PROJECTION,
            fit=True,
        )
        pq.write_table(described, folder / inputs.INPUTS, compression="zstd")
        load = evidence.leaves.load_LE
        reference = Reference(
            model=digest,
            tasks=[task.key for task in tasks],
            start=start,
            end=end,
            performance=performance_of(scored),
            estimate=estimate_reference(scored),
            inputs=input_noise(described, InputMethods()),
            data=data_reference(described, read_json(shards / SUMMARY)["daily"], start, end),
            router=None if load is None else router_shares(load),
        )
        write_json(folder / REFERENCE, reference.model_dump(mode="json"))
    return reference


def input_noise(described: pa.Table, methods: InputMethods) -> dict[str, dict[str, float]]:
    """How far apart two halves of the members are, by method and column: no drift at all.

    The worst of a few cuts. Rows of a member are alike, so that few members differ by chance more
    than their rows would.
    """
    found: dict[str, dict[str, float]] = {}
    for cut in range(NOISE_CUTS):
        half = np.array(
            [crc32(f"{cut}/{member}".encode()) % 2 for member in described["member"].to_pylist()]
        ).astype(bool)
        sides = [described.filter(pa.array(side)) for side in (half, ~half)]
        if not all(len(side) for side in sides):
            continue
        for one in input_drift(sides[0], sides[1], methods, threshold=1.0):
            known = found.setdefault(one.method, {})
            known[one.column] = max(known.get(one.column, 0.0), one.distance)
    return found


def window(manifest: ShardsManifest) -> tuple[date, date]:
    """Days of the first test window, the end outside."""
    split = manifest.split
    gap = timedelta(days=split["gap_days"], weeks=min(split["horizons_weeks"]))
    start = datetime.fromisoformat(split["train_end"]) + gap
    end = start + timedelta(days=split["test_days"])
    return start.date(), end.date()


def data_reference(
    described: pa.Table, daily: dict[str, dict[str, int]], start: date, end: date
) -> DataReference:
    """How much there was a day, and what columns held."""
    total: dict[str, float] = {}
    for counts in daily.values():
        for surface, rows in counts.items():
            total[surface] = total.get(surface, 0.0) + rows / max(1, (end - start).days)
    return DataReference(
        rows_per_day=total, columns=columns_of(described), nulls=nulls_of(described)
    )


def columns_of(described: pa.Table) -> dict[str, str]:
    """Kind of each column of the described inputs."""
    return {field.name: str(field.type) for field in described.schema}


def nulls_of(described: pa.Table) -> dict[str, float]:
    """Share of empty values of each column."""
    rows = max(1, len(described))
    return {n: described.column(n).null_count / rows for n in described.column_names}
