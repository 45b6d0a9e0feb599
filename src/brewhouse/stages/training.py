"""Step 5: token shards -> model, by torchrun here or as a TrainJob on a cluster.

Either way the run resumes from its checkpoints, and what it took is written beside what was
expected of it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from brewhouse import offline
from brewhouse.errors import ConfigError, TrainingError
from brewhouse.files import atomic_dir, read_json, sha256_json, write_json
from brewhouse.model.shipped import locate
from brewhouse.platform.launcher import Launcher, connect
from brewhouse.platform.tracking import EXPERIMENT, Tracker, artifact_root
from brewhouse.platform.trainjob import ClusterSpec, build
from brewhouse.processes import die_with_parent
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.stages.common import note_lineage, tell
from brewhouse.stages.plan import plan
from brewhouse.training.config import TrainConfig, parse_train_config
from brewhouse.training.estimate import Shape, estimate

DEFAULTS: dict[str, Any] = plan("", size=None, train_tokens=None)["train_options"]


def run(
    *,
    shards: Path,
    model_out: Path,
    workspace: str = "",
    options: dict[str, Any] | None = None,
    processes: int = 2,
    launcher: str = "local",
    cluster: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    run_id: str = "",
    tracking_uri: str = "",
    run_name: str = "train",
    publish_to: str = "",
) -> Path:
    """Train and export a model.

    Args:
        shards: Token shards.
        model_out: Folder for the exported model.
        workspace: Folder for checkpoints that outlives a failed run; beside the model if empty.
            With a cluster it is where the cluster's claim is mounted here.
        options: Overrides of `DEFAULTS`, fields of `TrainConfig`.
        processes: Ranks on this machine.
        launcher: `local` for torchrun on this machine, `trainer` for a TrainJob.
        cluster: Fields of `ClusterSpec`.
        task: Fields of `kfp.dsl.TaskConfig`: what the pipeline set on the step, for the job.
        run_id: Names the TrainJob; what is trained, if empty.
        tracking_uri: MLflow server; nothing is tracked if empty.
        run_name: Name of the MLflow run.
        publish_to: Run folder.

    Raises:
        ConfigError: An option or the cluster is wrong.
        TrainingError: The training processes failed; their last lines are in the message.
    """
    plan_ = prepare(
        shards=shards,
        workspace=workspace or str(model_out.parent / "training"),
        options=options,
        processes=processes,
        launcher=launcher,
        cluster=cluster,
        task=task,
        run_id=run_id,
    )
    out = plan_.folder
    out.mkdir(parents=True, exist_ok=True)
    if plan_.job is None:
        write_json(out / "train.json", plan_.config.model_dump(mode="json"))
        tell(
            f"training {plan_.config.model} on {plan_.targets:,} targets with {processes} processes"
        )
        _launch(out, processes)
    else:
        _on_cluster(plan_, shards)
    with atomic_dir(model_out) as scratch:
        shutil.copytree(out / "model", scratch, dirs_exist_ok=True)
        shutil.copy(out / "metrics.jsonl", scratch / "metrics.jsonl")
        if plan_.estimate is not None:
            actual = read_json(scratch / "training.json")["actual"]
            write_json(scratch / "plan.json", {"estimate": plan_.estimate, "actual": actual})
    if tracking_uri:
        _track(plan_.config, out, tracking_uri, run_name)
    note_lineage(
        publish_to, "train_ranker", {"shards": plan_.shards_digest, "config": plan_.options}
    )
    return model_out


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A training run before it starts.

    Attributes:
        config: As the training processes read it.
        folder: Folder of the run, as this machine sees it.
        options: Options with defaults.
        targets: Answers to learn from.
        shards_digest: Of the data.
        job: TrainJob; None for this machine.
        cluster: Where the job runs.
        estimate: What it is expected to need of the cluster; None for this machine.
        told: The estimate for people.
    """

    config: TrainConfig
    folder: Path
    options: dict[str, Any]
    targets: int
    shards_digest: str
    job: dict[str, Any] | None = None
    cluster: ClusterSpec | None = None
    estimate: dict[str, Any] | None = None
    told: tuple[str, ...] = ()


def prepare(
    *,
    shards: Path,
    workspace: str,
    options: dict[str, Any] | None = None,
    processes: int = 2,
    launcher: str = "local",
    cluster: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    run_id: str = "",
) -> Plan:
    """Everything of a run but the run itself; arguments as of `run`."""
    manifest = ShardsManifest.read(shards)
    digest = read_json(shards / ShardsManifest.FILE)["digest"]
    merged = DEFAULTS | (options or {})
    targets = manifest.counts["train"]["leaves"]
    if launcher == "local":
        key = sha256_json([digest, merged, processes])[:16]
        out = Path(workspace) / f"train-{key}"
        paths = {"data": str(shards), "out": str(out), **_upload(merged, key)}
        return Plan(
            config=parse_train_config(merged | paths, where="options"),
            folder=out,
            options=merged,
            targets=targets,
            shards_digest=digest,
        )
    if launcher != "trainer":
        msg = f"launcher: '{launcher}' is unknown; choose local or trainer"
        raise ConfigError(msg)
    spec = ClusterSpec.parse(cluster or {}).with_task(task or {})
    # Ranks are not a part of it: a run may go on with another number of them.
    key = sha256_json([digest, merged])[:16]
    there = _seen_by_nodes(Path(workspace), spec) / f"train-{key}"
    paths = {"data": str(there / "shards"), "out": str(there), **_upload(merged, key)}
    config = parse_train_config(merged | paths, where="options")
    expected = estimate(
        Shape.of(locate(config.model)),
        spec.pool(),
        tokens=sum(stage.tokens for stage in config.stages),
        zero_stage=config.zero_stage,
        offload=config.offload,
        expert_parallel=config.expert_parallel,
        batch_tokens=config.batch_tokens,
        activation_checkpointing=config.activation_checkpointing,
        precision=config.precision,
        trained_share=0.01 if config.lora else 1.0,
        mfu=spec.mfu,
    )
    # Another number of nodes is another job, though it goes on from the same checkpoints.
    asked = sha256_json([digest, merged, spec.nodes, spec.processes_per_node])
    return Plan(
        config=config,
        folder=Path(workspace) / f"train-{key}",
        options=merged,
        targets=targets,
        shards_digest=digest,
        job=build(
            spec,
            run_id=run_id or key,
            config=f"{there}/train.json",
            digest=f"sha256:{asked}",
        ),
        cluster=spec,
        estimate=expected.to_json(),
        told=tuple(expected.lines()),
    )


def _seen_by_nodes(workspace: Path, spec: ClusterSpec) -> Path:
    """Where nodes find the workspace: at the same path under their mount, or as the mount."""
    mount = Path(spec.mount)
    return workspace if workspace.is_relative_to(mount) else mount


def _upload(options: dict[str, Any], key: str) -> dict[str, str]:
    """A folder of its own in the store: checkpoints of another run are never gone on from."""
    uri = str(options.get("upload", ""))
    return {"upload": f"{uri.rstrip('/')}/train-{key}"} if uri else {}


def _on_cluster(plan_: Plan, shards: Path) -> None:
    """Put the data where the nodes see it, start or adopt the job, and follow it."""
    assert plan_.job is not None
    assert plan_.cluster is not None
    data = plan_.folder / "shards"
    if not (data / ShardsManifest.FILE).is_file():
        with atomic_dir(data) as scratch:
            shutil.copytree(shards, scratch, dirs_exist_ok=True)
    write_json(plan_.folder / "train.json", plan_.config.model_dump(mode="json"))
    for line in plan_.told:
        tell(line)
    launcher = Launcher(connect(plan_.cluster.address), plan_.cluster, tell=tell)
    launcher.launch(plan_.job)
    launcher.follow(plan_.job["metadata"]["name"])
    if not (plan_.folder / "model" / "training.json").is_file():
        msg = (
            f"the job is complete, but there is no model in {plan_.folder / 'model'}; is `claim` "
            f"({plan_.cluster.claim!r}) what is mounted here as workspace?"
        )
        raise TrainingError(msg)


def _launch(out: Path, processes: int) -> None:
    offline.silence()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable,
        "-m",
        "brewhouse.training.agent",
        "--standalone",
        f"--nproc_per_node={processes}",
        "-m",
        "brewhouse.training",
        "--config",
        str(out / "train.json"),
    ]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=partial(die_with_parent, signal.SIGTERM),
    )
    tail: deque[str] = deque(maxlen=40)
    with (out / "train.log").open("a", encoding="utf-8") as log:
        reader = threading.Thread(target=_follow, args=(process.stdout, log, tail))
        reader.start()
        try:
            code = process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise
        finally:
            reader.join()
    if code:
        # Ours first; what the launcher wraps around it says nothing more.
        ours = [line.removeprefix("error: ") for line in tail if line.startswith("error: ")]
        lines = ours or [line for line in tail if "Error" in line] or list(tail)[-5:]
        msg = (
            f"training failed with exit code {code}: "
            + " | ".join(lines[-3:])
            + f"; the log is {out / 'train.log'}"
        )
        raise TrainingError(msg)


def _follow(stream: IO[str] | None, log: IO[str], tail: deque[str]) -> None:
    for line in stream or ():
        log.write(line)
        log.flush()
        tail.append(line.rstrip())
        if line.startswith(("train", "error")):
            tell(line.rstrip())


def _track(config: TrainConfig, out: Path, uri: str, name: str) -> None:
    tracker = Tracker(uri, experiment=EXPERIMENT, artifacts=artifact_root(uri))
    params = config.model_dump(mode="json", exclude={"data", "out", "stages"})
    params |= {f"{s.name}.{k}": v for s in config.stages for k, v in s.model_dump().items()}
    run_id = tracker.start(name, params)
    for line in (out / "metrics.jsonl").read_text().splitlines():
        values = json.loads(line)
        step = values.pop("step")
        stage = values.pop("stage")
        tracker.log_metrics(run_id, {f"{stage}/{k}": v for k, v in values.items()}, step=step)
    tracker.log_files(run_id, [out / "train.json", out / "metrics.jsonl"])
    tracker.finish(run_id)
