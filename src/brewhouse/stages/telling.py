"""Where shards of members are told: by processes of this machine, or workers of a Ray cluster."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from uuid import uuid4

from pydantic import Field

from brewhouse.data.snapshot import Snapshot
from brewhouse.files import atomic_dir
from brewhouse.platform.ray_data import Job, RayPlan, spread
from brewhouse.stages.common import tell
from brewhouse.stages.shard_work import Work, tell_shard
from brewhouse.training.config import parse_settings


class TellingPlan(RayPlan):
    """How histories are told."""

    engine: Literal["process", "ray"] = Field(
        default="process", description="`process` uses this machine; `ray` a Ray cluster"
    )
    shared: str = Field(
        default="",
        description="Folder that every worker reaches, for a cluster: log and shards lie there "
        "while the step runs",
    )
    rows_per_shard: int = Field(
        default=400_000,
        ge=1000,
        description="Rows of the log in a shard of members, about: what a worker holds at a time",
    )

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> TellingPlan:
        """Read a plan.

        Raises:
            ConfigError: A field is unknown or has a wrong value.
        """
        return parse_settings(cls, given or {}, where="verbalization")

    def shards(self, cut: Snapshot) -> int:
        """Shards of members that the log is sorted into."""
        rows = int(cut.manifest["rows"]["interactions"])
        return max(cut.shards, math.ceil(rows / self.rows_per_shard))


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Folders that whoever tells can reach."""

    snapshot: Path
    logs: Path
    out: Path


@contextmanager
def desk(plan: TellingPlan, snapshot: Path, target: Path) -> Iterator[Desk]:
    """Folders to work in; what is written to `out` is at `target` once the block has ended well."""
    if plan.engine != "ray" or not plan.shared:
        with TemporaryDirectory(prefix="brewhouse-log-") as scratch, atomic_dir(target) as out:
            yield Desk(snapshot=snapshot, logs=Path(scratch) / "log", out=out)
        return
    home = Path(plan.shared) / f"verbalize-{uuid4().hex[:12]}"
    try:
        shutil.copytree(snapshot, home / "snapshot")
        (home / "out").mkdir()
        yield Desk(snapshot=home / "snapshot", logs=home / "log", out=home / "out")
        with atomic_dir(target) as out:
            shutil.copytree(home / "out", out, dirs_exist_ok=True)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def tell_shards(
    work: Work, numbers: list[int], plan: TellingPlan, *, processes: int
) -> list[dict[str, Any]]:
    """What each shard counted, in the order of `numbers`.

    Args:
        work: What is told.
        numbers: Shards.
        plan: Where.
        processes: Of this machine, without Ray.

    Raises:
        BrewhouseError: What a shard raised.
        PipelineError: The cluster is not reached, or a worker died.
    """
    found: dict[int, dict[str, Any]] = {}
    for number, part in _told(work, numbers, plan, processes):
        found[number] = part
        tell(
            f"shard {len(found)} of {len(numbers)}: {part['train']['leaves']:,} training and "
            f"{part['test']['leaves']:,} test targets"
        )
    return [found[number] for number in numbers]


def _told(
    work: Work, numbers: list[int], plan: TellingPlan, processes: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    if plan.engine == "ray":
        tell(f"telling {len(numbers)} shards with Ray at {plan.address}, {plan.workers} workers")
        for done in spread(ShardTeller, {"work": work}, [{"number": n} for n in numbers], plan):
            yield int(done["number"]), json.loads(done["told"])
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        parts = pool.map(tell_shard, [(work, n) for n in numbers])
        yield from zip(numbers, parts, strict=True)


class ShardTeller:
    """Tells shards, one a call; items and profiles are told once and kept between calls."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __call__(self, job: Job) -> Job:
        """Tell one; its counts as JSON, for they are ragged."""
        number = int(job["number"])
        return {"number": number, "told": json.dumps(tell_shard((self.work, number)))}
