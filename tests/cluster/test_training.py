"""A TrainJob whose nodes are pods: they meet, one is taken away, and still the model comes back.

The step that waits for it is a pod with the account of runs: it makes the job, watches the nodes
and reads their logs by that account's rights.
"""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import pytest
import yaml

from brewhouse.files import read_json
from brewhouse.platform.kubeflow import ACCOUNTS
from brewhouse.platform.launcher import JOB_LABEL
from tests.cluster.runs import trainer
from tests.cluster.team import CLUSTER, NAMESPACE, USER, Team
from tests.cluster.wait import wait_for
from tests.training.runs import OPTIONS

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1200)]


def test_two_nodes_train_though_one_is_taken_away(team: Team, shards: Path) -> None:
    options = OPTIONS | {"stages": [OPTIONS["stages"][1]], "report_s": 0}
    files = {"cluster.yaml": yaml.safe_dump(CLUSTER), "options.yaml": yaml.safe_dump(options)}
    name = f"train-{uuid.uuid4().hex[:6]}"
    command = ["brewhouse", "train", "--shards", "/workspace/shards", "--out", "/workspace/trained"]
    command += ["--launcher", "trainer", "--cluster", "/files/cluster.yaml"]
    command += ["--options", "/files/options.yaml", "--workspace", "/workspace/runs"]
    container = {
        "name": "main",
        "image": team.image,
        "command": command,
        "resources": {
            "requests": {"cpu": "50m", "memory": "512Mi"},
            "limits": {"cpu": "1", "memory": "4Gi"},
        },
        "securityContext": {"runAsUser": USER, "runAsNonRoot": True},
        "volumeMounts": [
            {"name": "files", "mountPath": "/files"},
            {"name": "workspace", "mountPath": "/workspace"},
        ],
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"pipeline/runid": name}},
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": ACCOUNTS["train_and_evaluate"],
            "containers": [container],
            "volumes": [
                {"name": "files", "configMap": {"name": name}},
                {"name": "workspace", "persistentVolumeClaim": {"claimName": "training"}},
            ],
        },
    }
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": files}
    claim = team.claim("training")
    shutil.copytree(shards, claim / "shards")
    (claim / "shards").chmod(0o755)
    with trainer(team.node, NAMESPACE) as controller:
        team.kubectl("apply", "-f", "-", sent=[config, pod])
        (made,) = wait_for(lambda: team.get("trainjobs"), bool, "a TrainJob", 180)
        job, config_seen = made["metadata"]["name"], made["spec"]["trainer"]["args"][-1]
        # A node is taken away once there is a checkpoint to go on from.
        folder = claim / Path(config_seen).relative_to("/workspace").parent
        wait_for(
            lambda: list(folder.glob("checkpoints/*/complete.json")), bool, "a checkpoint", 180
        )
        lost = team.get("pods", "-l", JOB_LABEL)[1]["metadata"]["name"]
        team.kubectl("delete", "pod", lost, "--wait=false")
        phase = wait_for(
            lambda: team.get("pod", name)["status"]["phase"],
            lambda found: found in {"Succeeded", "Failed"},
            "training",
        )
        said = team.kubectl("logs", name)
        assert phase == "Succeeded", said[-3000:]
        assert controller.rounds[job] == 2
    plan = read_json(claim / "trained" / "plan.json")
    assert plan["actual"]["ranks"] == 2
    assert (claim / "trained" / "model.safetensors").is_file()
    # It went on from there: what was before the checkpoint was not done again.
    lines = (claim / "trained" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps.count(1) == 1
    assert set(steps) == set(range(1, max(steps) + 1))
