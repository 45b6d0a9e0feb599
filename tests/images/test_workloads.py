"""A namespace of the overlay `local`, its workloads in containers as the manifests say.

MLflow, the console and CronJobs (housekeeping is of `prod`) are pods of their manifests, Postgres
is real, runs of Kubeflow Pipelines are containers of their steps. One candidate goes all the way: a
run registers it, a person releases it in the console, the monitor watches it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from brewhouse.domains.linkedin.simulate import simulate
from brewhouse.domains.linkedin.world import preset
from brewhouse.platform.containers import ContainerPlan
from brewhouse.platform.pipelines import LocalRun, run_local
from tests.images.pods import USER, Namespace, Server
from tests.kfp.server import Server as Pipelines
from tests.kfp.server import serve as serve_pipelines

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1800)]
SHORT: dict[str, Any] = {
    "seed": 3,
    "model": "tiny",
    "baselines": "popularity,lightgbm",
    "processes": 1,
    "max_test_sessions": 600,
    "train_options": {
        "batch_tokens": 1024,
        "stages": [
            {"name": "finetune", "shards": "train", "loss": "answers", "tokens": 20000, "lr": 1e-3}
        ],
    },
    "policy": "smoke",
    "champion": "none",
    "author": "ci",
}
"""What a run is told beyond the overlay's arguments, to be short."""


@dataclass
class Team:
    """A namespace, and the Kubeflow Pipelines that takes its orders."""

    namespace: Namespace
    pipelines: Pipelines

    @property
    def workspace(self) -> Path:
        return self.namespace.claim("training")

    def run(self, name: str, arguments: dict[str, Any]) -> None:
        """A pipeline as Kubeflow Pipelines runs it: secrets, claim and Services are there."""
        secrets = self.namespace.secrets
        run_local(
            name,
            arguments,
            LocalRun(out=self.namespace.folder / "runs" / name, cache_key="containers"),
            marker="brewhouse: ",
            containers=ContainerPlan(
                network="host",
                environment={"OMP_NUM_THREADS": "1", **secrets["brewhouse-release"]},
                volumes={
                    str(self.workspace): "/workspace",
                    str(self.namespace.mounted("brewhouse-signing-key")): "/etc/brewhouse/keys:ro",
                },
                hosts=self.namespace.services(),
            ),
        )


@pytest.fixture(scope="module")
def team(
    image: str, postgres: str, service: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    """The overlay with the secrets that the guide for kind makes.

    Tests go on from one another: a file's tests run in order, in one process.
    """
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    folder = tmp_path_factory.mktemp("ranker")
    found = Namespace.of("local", folder, image)
    keys = folder / "keys"
    command = [str(Path(sys.executable).with_name("brewhouse")), "ledger", "key"]
    subprocess.run([*command, str(keys / "ledger.pem")], check=True, capture_output=True)
    with serve_pipelines() as (pipelines, address):
        found.secrets = {
            "brewhouse-signing-key": {
                path.name: path.read_text() for path in keys.rglob("*") if path.is_file()
            },
            "brewhouse-console": {"secret": "a secret of 32 bytes, or of more"},
            "brewhouse-mlflow": {"MLFLOW_BACKEND_STORE_URI": "sqlite:////artifacts/mlflow.db"},
            "brewhouse-release": {
                "BREWHOUSE_DATABASE_URI": postgres,
                "BREWHOUSE_TRACKING_URI": "http://mlflow:5000",
                "BREWHOUSE_APPROVALS": "local",
                "BREWHOUSE_MODEL_NAME": "ranker",
                "BREWHOUSE_SIGNING_KEY": "/etc/brewhouse/keys/ledger.pem",
                "BREWHOUSE_TRUSTED_KEYS": "/etc/brewhouse/keys",
                "BREWHOUSE_KFP_HOST": address,
            },
        }
        yield Team(found, pipelines)


@pytest.fixture(scope="module")
def mlflow(team: Team) -> Iterator[Server]:
    with team.namespace.running("mlflow") as server:
        yield server


@pytest.fixture(scope="module")
def console(team: Team, mlflow: Server) -> Iterator[Server]:
    with team.namespace.running("console") as server:
        yield server


def _call(console: Server, path: str, sent: dict[str, Any] | None = None) -> Any:
    """What the console answers somebody behind `kubectl port-forward`."""
    status, body = console.ask(
        "GET" if sent is None else "POST",
        f"/api/v1{path}",
        body="" if sent is None else json.dumps(sent),
        headers={
            "Host": "localhost:8600",
            "Content-Type": "application/json",
            "kubeflow-userid": "bob@example.com",
        },
    )
    assert status == 200, body
    return json.loads(body)


def test_mlflow_answers_to_its_service_s_name_alone(mlflow: Server) -> None:
    assert mlflow.probe("livenessProbe")
    asked = ("POST", "/api/2.0/mlflow/experiments/search")
    for host, status in (("mlflow:5000", 200), ("evil.example.com", 403)):
        headers = {"Host": host, "Content-Type": "application/json"}
        found, body = mlflow.ask(*asked, body='{"max_results": 5}', headers=headers)
        assert found == status, body


def test_the_console_runs_as_its_manifest_says(console: Server) -> None:
    assert console.probe("livenessProbe")
    assert console.exec("id", "-u").strip() == str(USER)
    assert "Read-only file system" in console.exec("sh", "-c", "touch /opt/x 2>&1 || true")
    status, _ = console.ask("GET", "/api/v1/versions", headers={"Host": "localhost:8600"})
    assert status == 401
    assert _call(console, "/versions") == []


def _containers() -> set[str]:
    told = subprocess.run(
        ["podman", "ps", "-a", "--format", "{{.Names}}"], capture_output=True, text=True, check=True
    )
    return set(told.stdout.split())


def test_a_run_registers_a_candidate(team: Team, mlflow: Server, console: Server) -> None:
    before = _containers()
    given = team.namespace.data("drift-arguments")["arguments.yaml"]
    team.run("train_and_evaluate", yaml.safe_load(given) | SHORT | {"publish_to": "/workspace/e"})
    evidence = team.workspace / "e"
    assert json.loads((evidence / "status.json").read_text())["state"] == "SUCCEEDED"
    assert json.loads((evidence / "verdict.json").read_text())["outcome"] == "PASS"
    lineage = json.loads((evidence / "lineage.json").read_text())
    assert {"import_data", "train_ranker", "evaluate"} <= set(lineage["steps"])
    # Nothing was written as root, on the steps' claim or on MLflow's, which keeps versions.
    kept = team.namespace.claim("mlflow")
    files = [p for at in (team.workspace, kept) for p in at.rglob("*") if p.is_file()]
    assert {p.stat().st_uid for p in files} == {USER}
    assert len(list(kept.rglob("dossier/index.html"))) == 1
    assert _containers() == before
    (version,) = _call(console, "/versions")
    assert (version["version"], version["state"]) == ("1", "PENDING_APPROVAL")


def test_a_person_releases_it_in_the_console(team: Team, console: Server) -> None:
    for act in ("approve", "order"):
        version = _call(console, "/versions/1")
        sent = {"act": act, "reason": "holds on every slice", "revision": version["revision"]}
        _call(console, "/versions/1/decisions", sent)
    (order,) = team.pipelines.sent
    told = order["runtime_config"]["parameters"]
    assert order["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "promote"
    team.run("promote", told)
    assert _call(console, "/versions/1")["state"] == "CHAMPION"


def test_the_monitor_watches_it(team: Team) -> None:
    log = simulate(preset("tiny", seed=3), team.workspace / "log", workers=1)
    os.chown(log, USER, USER)
    done = team.namespace.run("drift-monitor")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert (team.workspace / "drift" / "drift.html").is_file()


def test_housekeeping_throws_away_old_runs_alone(team: Team, mlflow: Server) -> None:
    prod = Namespace.of("prod", team.namespace.folder, team.namespace.image)
    prod.secrets = team.namespace.secrets
    runs = team.workspace / "runs"
    (current,) = list(runs.iterdir())
    old = runs / "of-last-summer"
    shutil.copytree(current, old)
    for path in (*old.rglob("*"), old):
        os.chown(path, USER, USER)
        os.utime(path, (0, 0))
    done = prod.run("housekeeping")
    assert done.returncode == 0, done.stderr[-3000:]
    # A model stays, for nothing says here that it was registered.
    assert [path.name for path in old.iterdir()] == ["model"]
    assert (current / "train.json").is_file()
