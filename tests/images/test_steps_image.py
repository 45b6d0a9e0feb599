"""The image of the steps: not root, root read-only, runs a component, trains in two containers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from brewhouse.files import read_json
from tests.cluster.team import USER
from tests.training.runs import OPTIONS, weights

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1800)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that the container's user may write to."""
    os.chown(tmp_path, USER, USER)
    return tmp_path


def start(image: str, folder: Path, *command: str, network: str = "none") -> subprocess.Popen[str]:
    """Start as a cluster would: not root, nothing writable but /tmp and the mounted folder."""
    return subprocess.Popen(
        [
            *("podman", "--runtime", "runc", "run", "--rm", "--network", network, "--read-only"),
            *("--user", f"{USER}:{USER}", "--cap-drop", "all"),
            *("--security-opt", "no-new-privileges", "--tmpfs", "/tmp:rw,mode=1777"),
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
            *("--env", "OMP_NUM_THREADS=1", "--volume", f"{folder}:{folder}", image, *command),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(image: str, folder: Path, *command: str) -> str:
    process = start(image, folder, *command)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said[-3000:]
    return said


def test_it_is_not_root_and_its_root_is_read_only(image: str, folder: Path) -> None:
    said = run(image, folder, "sh", "-c", "id -u; touch /opt/x 2>&1 || echo refused; pip -V || :")
    assert said.splitlines()[0] == str(USER)
    assert "refused" in said
    told = subprocess.run(
        ["podman", "image", "inspect", image], capture_output=True, text=True, check=True
    )
    found = json.loads(told.stdout)[0]
    assert found["Config"]["User"] == f"{USER}:{USER}"
    labels = found["Labels"]
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert len(labels["org.opencontainers.image.revision"]) == 40


def test_it_runs_a_component(image: str, folder: Path) -> None:
    code = (
        "from brewhouse.components.import_data.component import import_data as c;"
        "from types import SimpleNamespace as N;"
        f"at = lambda name: N(path='{folder}/' + name, metadata={{}});"
        "c.python_func(domain='linkedin', source='', preset='tiny', seed=3, until='',"
        "publish_to='',"
        "snapshot=at('snapshot'), oracle=at('oracle'))"
    )
    run(image, folder, "python", "-c", code)
    assert read_json(folder / "snapshot" / "manifest.json")["digest"].startswith("sha256:")


def test_it_trains_over_two_containers(
    image: str,
    folder: Path,
    shards: Path,
) -> None:
    data = folder / "shards"
    shutil.copytree(shards, data)
    out = folder / "run"
    config = OPTIONS | {
        "data": str(data),
        "out": str(out),
        "zero_stage": 3,
        "stages": [OPTIONS["stages"][1] | {"tokens": 6000}],
    }
    (folder / "train.json").write_text(json.dumps(config))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, USER, USER)
    nodes = [
        start(
            image,
            folder,
            *("python", "-m", "brewhouse.training.agent", "--nnodes=2", f"--node_rank={rank}"),
            *("--nproc_per_node=1", "--master_addr=127.0.0.1", "--master_port=29777"),
            *("-m", "brewhouse.training", "--config", str(folder / "train.json")),
            network="host",
        )
        for rank in (0, 1)
    ]
    for node in nodes:
        said, _ = node.communicate(timeout=600)
        assert node.returncode == 0, said[-3000:]
    assert read_json(out / "model" / "training.json")["world_size"] == 2
    assert weights(out / "model")
