"""Step 5: token shards -> model, by torchrun on this machine; resumes from its checkpoints."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import deque
from functools import partial
from pathlib import Path
from typing import IO, Any

from brewhouse import offline
from brewhouse.errors import TrainingError
from brewhouse.files import atomic_dir, read_json, sha256_json, write_json
from brewhouse.platform.tracking import Tracker, artifact_root
from brewhouse.processes import die_with_parent
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.stages.common import note_lineage, tell
from brewhouse.stages.plan import plan
from brewhouse.training.config import TrainConfig, parse_train_config

DEFAULTS: dict[str, Any] = plan("", size=None, train_tokens=None)["train_options"]


def run(
    *,
    shards: Path,
    model_out: Path,
    workspace: str = "",
    options: dict[str, Any] | None = None,
    processes: int = 2,
    tracking_uri: str = "",
    run_name: str = "train",
    publish_to: str = "",
) -> Path:
    """Train and export a model.

    Args:
        shards: Token shards.
        model_out: Folder for the exported model.
        workspace: Folder for checkpoints that outlives a failed run; beside the model if empty.
        options: Overrides of `DEFAULTS`, fields of `TrainConfig`.
        processes: Ranks on this machine.
        tracking_uri: MLflow server; nothing is tracked if empty.
        run_name: Name of the MLflow run.
        publish_to: Run folder.

    Raises:
        TrainingError: The training processes failed; their last lines are in the message.
    """
    manifest = ShardsManifest.read(shards)
    digest = read_json(shards / ShardsManifest.FILE)["digest"]
    merged = DEFAULTS | (options or {})
    key = sha256_json([digest, merged, processes])[:16]
    base = Path(workspace) if workspace else model_out.parent / "training"
    out = base / f"train-{key}"
    config = parse_train_config(merged | {"data": str(shards), "out": str(out)}, where="options")
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "train.json", config.model_dump(mode="json"))
    tell(
        f"training {config.model} on {manifest.counts['train']['leaves']:,} targets with "
        f"{processes} processes"
    )
    _launch(out, processes)
    with atomic_dir(model_out) as scratch:
        shutil.copytree(out / "model", scratch, dirs_exist_ok=True)
        shutil.copy(out / "metrics.jsonl", scratch / "metrics.jsonl")
    if tracking_uri:
        _track(config, out, tracking_uri, run_name)
    note_lineage(publish_to, "train_ranker", {"shards": digest, "config": merged})
    return model_out


def _launch(out: Path, processes: int) -> None:
    offline.silence()
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
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
    tracker = Tracker(uri, experiment="brewhouse", artifacts=artifact_root(uri))
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
