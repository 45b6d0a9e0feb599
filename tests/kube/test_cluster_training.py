"""The step `train_ranker` on a cluster: a job is made, nodes run torchrun, the model comes back."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from brewhouse.cli.main import app
from brewhouse.errors import ConfigError, TrainingError
from brewhouse.files import read_json
from brewhouse.platform.trainjob import GROUP, PLURAL, VERSION
from brewhouse.stages import training
from tests.kube.schema import crds
from tests.kube.server import Cluster, serve
from tests.kube.test_trainjob import Controller
from tests.training.runs import OPTIONS

SHORT = OPTIONS | {"stages": [OPTIONS["stages"][1] | {"tokens": 6000}], "micro_batches": 2}


@contextmanager
def nodes(cluster: Cluster) -> Iterator[list[list[str]]]:
    """Do with each new job what its nodes would: run its command, here as two ranks."""
    commands: list[list[str]] = []
    stopped = threading.Event()

    def run() -> None:
        done: set[str] = set()
        while not stopped.wait(0.1):
            for key, job in list(cluster.objects.items()):
                if key[1] != PLURAL or job["metadata"]["uid"] in done:
                    continue
                done.add(job["metadata"]["uid"])
                trainer = job["spec"]["trainer"]
                commands.append([*trainer["command"], *trainer["args"]])
                launcher = [sys.executable, *trainer["command"][1:], "--standalone"]
                ranks = f"--nproc_per_node={trainer['numProcPerNode']}"
                process = subprocess.run(
                    [*launcher, ranks, *trainer["args"]],
                    env=os.environ | {"OMP_NUM_THREADS": "1"},
                    capture_output=True,
                    text=True,
                    timeout=200,
                )
                controller = Controller(cluster, key[3])
                controller.key = key
                failed = process.returncode != 0
                log = process.stdout + process.stderr
                phase = "Failed" if failed else "Succeeded"
                controller.pod(0, phase, log=log, code=process.returncode)
                controller.condition("Failed" if failed else "Complete", "as told by the nodes")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield commands
    finally:
        stopped.set()
        thread.join()


def where(address: str, workspace: Path) -> dict:
    return {
        "namespace": "ranker",
        "processes_per_node": 2,
        "gpu_resource": "",
        "claim": "training",
        "mount": str(workspace),
        "address": address,
        "poll_s": 0.1,
    }


@pytest.mark.slow
def test_a_step_trains_on_the_cluster_and_a_retried_one_adopts(
    shards: Path,
    tmp_path: Path,
) -> None:
    workspace = tmp_path / "workspace"
    with serve() as (cluster, address), nodes(cluster) as commands:
        for attempt in ("first", "retried"):
            model = training.run(
                shards=shards,
                model_out=tmp_path / attempt,
                workspace=str(workspace),
                options=SHORT,
                launcher="trainer",
                cluster=where(address, workspace),
                run_id="run-7",
            )
            assert (model / "model.safetensors").is_file()
            plan = read_json(model / "plan.json")
            assert plan["actual"]["ranks"] == 2
            assert plan["actual"]["tokens"] >= 6000
            assert plan["estimate"]["fits"] is True
    assert len(commands) == 1
    assert commands[0][:3] == ["python", "-m", "brewhouse.training.agent"]


@pytest.mark.parametrize(
    ("workspace", "seen"),
    [
        # As the overlays have it: a folder of the claim, which nodes mount at the same place.
        ("/workspace/runs", "/workspace/runs"),
        # The claim itself, mounted elsewhere for the step.
        ("/mnt/claim", "/workspace"),
    ],
)
def test_nodes_look_where_the_step_wrote(shards: Path, workspace: str, seen: str) -> None:
    plan = training.prepare(
        shards=shards,
        workspace=workspace,
        options=SHORT,
        launcher="trainer",
        cluster={"namespace": "ranker", "claim": "training"},
    )
    assert plan.job is not None
    config = plan.job["spec"]["trainer"]["args"][-1]
    assert config == f"{seen}/{plan.folder.name}/train.json"
    assert plan.config.data == Path(seen) / plan.folder.name / "shards"
    assert plan.config.out == Path(seen) / plan.folder.name
    assert plan.folder.parent == Path(workspace)


@pytest.mark.slow
def test_what_a_node_said_last_reaches_the_step(
    shards: Path,
    tmp_path: Path,
) -> None:
    workspace = tmp_path / "workspace"
    stage = SHORT["stages"][0] | {"lr": 1e30, "warmup": 0.0}
    with (
        serve() as (cluster, address),
        nodes(cluster),
        pytest.raises(TrainingError, match=r"ended with 8: .*error: loss is nan at step .* lower"),
    ):
        training.run(
            shards=shards,
            model_out=tmp_path / "model",
            workspace=str(workspace),
            options=SHORT | {"stages": [stage]},
            launcher="trainer",
            cluster=where(address, workspace),
        )


def test_a_dry_run_prints_the_job_and_what_it_needs(
    shards: Path,
    tmp_path: Path,
) -> None:
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        "namespace: ranker\nnodes: 4\nqueue: gpu\nclaim: training\nmemory: 1400Gi\nhost_gib: 1500\n"
    )
    options = tmp_path / "options.yaml"
    options.write_text(
        "model: mixtral-8x22b\nzero_stage: 3\noffload: optimizer\nprecision: bfloat16\n"
        "activation_checkpointing: true\nstages:\n"
        "  - {name: f, shards: train, loss: answers, tokens: 1000000000, lr: 1.0e-5}\n"
    )
    arguments = ["train", "--shards", str(shards), "--out", str(tmp_path / "m")]
    arguments += ["--launcher", "trainer", "--cluster", str(cluster), "--options", str(options)]
    result = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "of 80 GiB, fits" in result.output
    assert "GPU-hours" in result.output
    crds()[f"{GROUP}/{VERSION}", "TrainJob"].admit(yaml.safe_load(result.output))
    assert not (tmp_path / "m").exists()


def test_an_unknown_launcher_is_told(shards: Path, tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match="launcher: 'slurm' is unknown; choose local or trainer"):
        training.run(shards=shards, model_out=tmp_path / "m", launcher="slurm")
    assert time.monotonic() - started < 5
