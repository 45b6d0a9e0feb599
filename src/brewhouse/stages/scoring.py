"""Scores of the test trees: in this process, or spread over workers with Ray Data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from brewhouse.errors import ConfigError
from brewhouse.files import digest_tree, sha256_json
from brewhouse.platform.ray_data import RayPlan, spread
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.scoring.files import FileScorer, Scored, read_scores, score_here
from brewhouse.stages.common import tell


class ScoringPlan(RayPlan):
    """How trees are scored."""

    engine: Literal["process", "ray"] = Field(
        default="process", description="`process` scores here; `ray` spreads files over workers"
    )
    endpoint: str = Field(
        default="",
        description="Server of the exported model, up to and with /v1; scored where the engine "
        "runs if empty",
    )
    endpoint_model: str = Field(default="ranker", description="Its name at that server")
    shared: str = Field(
        default="",
        description="Folder that every worker reaches, for a cluster: model and trees are copied "
        "there, and scores that are there already are not computed again",
    )

    @classmethod
    def of(cls, given: dict[str, Any] | None) -> ScoringPlan:
        """Read a plan.

        Raises:
            ConfigError: A field is unknown or has a wrong value.
        """
        try:
            return cls.model_validate(given or {})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            known = ", ".join(cls.model_fields)
            msg = f"scoring: {field}: {first['msg']} (got {first['input']!r}); fields are {known}"
            raise ConfigError(msg) from error


def score_folder(shards: Path, kind: str, model: Path, plan: ScoringPlan) -> Scored:
    """Score the trees of one folder of shards.

    Args:
        shards: Shards with their manifest.
        kind: Folder of trees inside, such as `test`.
        model: Exported model.
        plan: Where.

    Raises:
        DataError: There are no trees.
        PipelineError: A worker failed.
    """
    with scored_files(shards, kind, model, plan) as files:
        return read_scores(files)


@contextmanager
def scored_files(shards: Path, kind: str, model: Path, plan: ScoringPlan) -> Iterator[list[Path]]:
    """Score as `score_folder` does; the files of scores, named as those of trees, are there inside.

    Yields:
        A file of scores for each file of trees, in their order.
    """
    with tempfile.TemporaryDirectory(prefix="brewhouse-scores-") as scratch:
        if plan.shared and plan.engine == "ray":
            shards, model, out = _hand_over(shards, kind, model, Path(plan.shared))
        else:
            out = Path(scratch)
        files = sorted((shards / kind).glob("*.parquet"))
        jobs = [{"source": str(f), "target": str(out / kind / f.name)} for f in files]
        missing = [job for job in jobs if not Path(job["target"]).exists()]
        if len(missing) < len(jobs):
            tell(f"{len(jobs) - len(missing)} of {len(jobs)} files were scored before")
        _score(missing, model=model, shards=shards, plan=plan, progress=_Told(len(missing)))
        yield [Path(job["target"]) for job in jobs]


def _score(
    jobs: Sequence[dict[str, Any]],
    *,
    model: Path,
    shards: Path,
    plan: ScoringPlan,
    progress: Callable[[dict[str, Any]], None],
) -> None:
    if plan.engine == "process" or not jobs:
        given = _scorer(model, shards, plan, threads=0)
        score_here(jobs, given, progress=progress)
        return
    given = _scorer(model, shards, plan, threads=plan.cpus_per_worker)
    tell(f"scoring {len(jobs)} files with Ray at {plan.address}, {plan.workers} workers")
    for done in spread(FileScorer, given, jobs, plan):
        progress(done)


def _scorer(model: Path, shards: Path, plan: ScoringPlan, *, threads: int) -> dict[str, Any]:
    """Arguments of `FileScorer`."""
    return {
        "model": str(model),
        "shards": str(shards),
        "threads": threads,
        "endpoint": plan.endpoint,
        "endpoint_model": plan.endpoint_model,
    }


def _hand_over(shards: Path, kind: str, model: Path, shared: Path) -> tuple[Path, Path, Path]:
    """Copy what workers read to where they reach it, under the digest of both."""
    weights = digest_tree(model, pattern="*.safetensors")
    trees = digest_tree(shards / kind, pattern="*.parquet")
    home = shared / f"scoring-{sha256_json([weights, trees])[:16]}"
    for source, name in ((shards / kind, f"shards/{kind}"), (model, "model")):
        _copy_whole(source, home / name)
    manifest = home / "shards" / ShardsManifest.FILE
    shutil.copyfile(shards / ShardsManifest.FILE, manifest)
    return home / "shards", home / "model", home / "scores"


def _copy_whole(source: Path, target: Path) -> None:
    """Copy a folder so that it is there whole or not at all."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        part = Path(scratch) / target.name
        shutil.copytree(source, part)
        os.replace(part, target)


class _Told:
    """Tells every tenth of the files."""

    def __init__(self, files: int) -> None:
        self.files, self.done, self.trees, self.next = files, 0, 0, 0.1

    def __call__(self, done: dict[str, Any]) -> None:
        self.done += 1
        self.trees += done["trees"]
        if self.done >= self.next * self.files:
            self.next = self.done / self.files + 0.1
            tell(f"scored {self.trees:,} requests, {self.done} of {self.files} files")
