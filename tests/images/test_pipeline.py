"""The pipeline in containers: a step that fails turns the run red, then a run that ends well.

Neither has a network. `tests/cluster` runs the same steps as pods, beside what they talk to there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from brewhouse.components.images import image

from brewhouse.errors import ConfigError, PipelineError
from brewhouse.platform.containers import ContainerPlan, container_runner
from brewhouse.platform.pipelines import LocalRun, run_local
from tests.cluster.team import SHORT, USER

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1800)]


def test_a_component_that_fails_turns_the_run_red(service: None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown preset 'enormous'"):
        run_local(
            "train_and_evaluate",
            {"domain": "linkedin", "preset": "enormous"},
            LocalRun(out=tmp_path, cache_key="containers"),
            marker="brewhouse: ",
            containers=ContainerPlan(),
        )
    log = (tmp_path / "pipeline.log").read_text()
    assert "import-data" in log
    assert "validate-data" not in log.partition("unknown preset")[2].partition("report-status")[0]


def test_every_step_runs_in_a_container_without_a_network(service: None, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "home").mkdir(parents=True)
    for folder in (kept, kept / "home"):
        os.chown(folder, USER, USER)
    told = SHORT | {
        "domain": "linkedin",
        "preset": "tiny",
        "workspace": "/workspace/training",
        "home": "/workspace/home",
        "tracking_uri": "sqlite:////workspace/home/mlflow.db",
        "model_store": "/workspace/models",
        "publish_to": "/workspace/evidence",
    }
    run_local(
        "train_and_evaluate",
        told,
        LocalRun(out=tmp_path / "run", cache_key="containers"),
        marker="brewhouse: ",
        containers=ContainerPlan(
            environment={"OMP_NUM_THREADS": "1"}, volumes={str(kept): "/workspace"}
        ),
    )
    status = json.loads((kept / "evidence" / "status.json").read_text())
    assert status["state"] == "SUCCEEDED"
    verdict = json.loads((kept / "evidence" / "verdict.json").read_text())
    assert verdict["outcome"] == "PASS"
    lineage = json.loads((kept / "evidence" / "lineage.json").read_text())
    assert {"import_data", "train_ranker", "evaluate"} <= set(lineage["steps"])
    assert len(list((kept / "models").rglob("model.safetensors"))) == 1
    files = [path for path in kept.rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in files} == {USER}


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
