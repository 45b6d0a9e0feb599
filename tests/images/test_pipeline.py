"""The whole pipeline at tiny size, every component in a container of its image.

First that a component which fails turns the run red; then the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from brewhouse.components.images import FAMILIES, image

from brewhouse.errors import ConfigError, PipelineError
from brewhouse.platform.containers import ContainerPlan, container_runner
from brewhouse.platform.pipelines import LocalRun, run_local
from tests.images.test_steps_image import USER
from tests.images.test_steps_image import image as steps_image  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def service(
    steps_image: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[None]:
    """podman's service on a socket, with the image under the names that components ask for."""
    for family in FAMILIES:
        # Training on CPUs needs nothing that the image of the steps lacks.
        subprocess.run(["podman", "tag", steps_image, image(family)], check=True)
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text('[engine]\nruntime = "runc"\n')
    socket = folder / "podman.sock"
    before = {name: os.environ.get(name) for name in ("DOCKER_HOST", "CONTAINERS_CONF")}
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    process = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"])
    os.environ["DOCKER_HOST"] = f"unix://{socket}"
    try:
        for _ in range(100):
            if socket.exists():
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def run(out: Path, **arguments: object) -> Path:
    """Run train_and_evaluate in containers; what is kept lies among its artifacts."""
    kept = out / "artifacts" / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    os.chown(kept, USER, USER)
    told = {
        "domain": "linkedin",
        "preset": "tiny",
        "seed": 3,
        "model": "tiny",
        "baselines": "popularity,lightgbm",
        "processes": 1,
        "max_test_sessions": 600,
        "train_options": {
            "batch_tokens": 1024,
            "stages": [
                {
                    "name": "finetune",
                    "shards": "train",
                    "loss": "answers",
                    "tokens": 20000,
                    "lr": 1e-3,
                }
            ],
        },
        "policy": "smoke",
        "champion": "none",
        "workspace": str(kept / "training"),
        "home": str(kept / "home"),
        "tracking_uri": f"sqlite:///{kept / 'home' / 'mlflow.db'}",
        "model_store": str(kept / "models"),
        "publish_to": str(kept / "evidence"),
        "author": "ci",
    }
    (kept / "home").mkdir(exist_ok=True)
    os.chown(kept / "home", USER, USER)
    run_local(
        "train_and_evaluate",
        told | arguments,
        LocalRun(out=out, cache_key="containers"),
        marker="brewhouse: ",
        containers=ContainerPlan(environment={"OMP_NUM_THREADS": "1"}),
    )
    return kept


def test_a_component_that_fails_turns_the_run_red(service: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'enormous'"):
        run(tmp_path, preset="enormous")
    log = (tmp_path / "pipeline.log").read_text()
    assert "import-data" in log
    assert "validate-data" not in log.partition("unknown preset")[2].partition("report-status")[0]


@pytest.mark.parametrize("code", [0, 3, 137])
def test_the_exit_code_is_the_container_s(service: None, code: int) -> None:
    """However soon it ends: kfp's own way takes one that is gone for one that ended well."""
    import docker
    from kfp.local import docker_task_handler as handler

    theirs = handler.run_docker_container
    with container_runner(ContainerPlan()) as runner:
        found = handler.run_docker_container(
            docker.from_env(),
            image("steps"),
            ["sh", "-c", f"exit {code}"],
            {},
            **runner.container_run_args,
        )
        assert found == code
        with pytest.raises(PipelineError, match="there is no image localhost/none:1"):
            handler.run_docker_container(docker.from_env(), "localhost/none:1", ["true"], {})
    assert handler.run_docker_container is theirs


def test_the_pipeline_runs_in_containers(service: None, tmp_path: Path) -> None:
    kept = run(tmp_path)
    status = json.loads((kept / "evidence" / "status.json").read_text())
    assert status["state"] == "SUCCEEDED"
    verdict = json.loads((kept / "evidence" / "verdict.json").read_text())
    assert verdict["outcome"] == "PASS"
    lineage = json.loads((kept / "evidence" / "lineage.json").read_text())
    assert {"import_data", "train_ranker", "evaluate"} <= set(lineage["steps"])
    models = list(kept.glob("models/ranker/*/manifest.json"))
    assert len(models) == 1
    # Nothing was written as root.
    owners = {p.stat().st_uid for p in (kept / "models").rglob("*") if p.is_file()}
    assert owners == {USER}
    left = subprocess.run(["podman", "ps", "-aq"], capture_output=True, text=True, check=True)
    assert left.stdout.split() == []
