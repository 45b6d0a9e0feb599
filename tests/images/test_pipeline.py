"""Steps in containers: one that fails turns the run red, under its own exit code.

A run that ends well is in `test_workloads.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from brewhouse.components.images import image

from brewhouse.errors import ConfigError, PipelineError
from brewhouse.platform.containers import ContainerPlan, container_runner
from brewhouse.platform.pipelines import LocalRun, run_local

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
