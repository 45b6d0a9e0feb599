"""Launching on a cluster: one job a run, told phases, the failing node's words, cancellation."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from kubernetes import client

from brewhouse.errors import ConfigError, TrainingError
from brewhouse.platform.launcher import JOB_LABEL, Launcher
from brewhouse.platform.trainjob import GROUP, PLURAL, VERSION, ClusterSpec, build, job_name
from tests.kube.schema import crds
from tests.kube.server import Cluster, Refused

Fake = tuple[Cluster, client.ApiClient]
FULL: dict[str, Any] = {
    "namespace": "ranker",
    "nodes": 2,
    "queue": "gpu-a100",
    "priority": "retrain",
    "image": "registry.example.com/brewhouse/train@sha256:" + "0" * 64,
    "node_selector": {"pool": "a100"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "claim": "training",
    "poll_s": 0.05,
}


def job(run: str = "run-1", digest: str = "sha256:1", **changes: Any) -> dict[str, Any]:
    spec = ClusterSpec.parse(FULL | changes)
    return build(spec, run_id=run, config="/workspace/train.json", digest=digest)


class Controller:
    """Does to jobs what Trainer and Kueue would: conditions, pods, logs."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.key = (f"{GROUP}/{VERSION}", PLURAL, "ranker", name)

    def condition(self, kind: str, message: str = "", status: str = "True") -> None:
        condition = {
            "type": kind,
            "status": status,
            "reason": kind,
            "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        self.cluster.merge(self.key, {"status": {"conditions": [condition]}}, status=True)

    def pod(
        self,
        number: int,
        phase: str,
        *,
        log: str = "",
        code: int | None = None,
        name: str = "",
        labels: dict[str, str] | None = None,
    ) -> None:
        name = name or f"{self.key[3]}-node-0-{number}"
        state: dict[str, Any] = {}
        if code is not None:
            finished = f"2026-01-01T00:00:0{number}Z"
            state = {"terminated": {"exitCode": code, "finishedAt": finished}}
        owner = self.cluster.get(self.key)["metadata"]
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {JOB_LABEL: self.key[3], **(labels or {})},
                "ownerReferences": [
                    {
                        "apiVersion": f"{GROUP}/{VERSION}",
                        "kind": "TrainJob",
                        "name": owner["name"],
                        "uid": owner["uid"],
                    }
                ],
            },
            "status": {
                "phase": phase,
                "containerStatuses": [
                    {
                        "name": "node",
                        "image": "i",
                        "imageID": "",
                        "ready": phase == "Running",
                        "restartCount": 0,
                        "state": state,
                    }
                ],
            },
        }
        key = ("v1", "pods", "ranker", name)
        if key in self.cluster.objects:
            self.cluster.merge(key, {"status": pod["status"]})
        else:
            self.cluster.create(key, pod)
        self.cluster.logs["ranker", name] = log


def follow(fake: Fake, told: list[str], **changes: Any) -> tuple[threading.Thread, list[Exception]]:
    """Follow in a thread, where no signal can be handled."""
    _, api = fake
    launcher = Launcher(api, ClusterSpec.parse(FULL | changes), tell=told.append)
    failed: list[Exception] = []

    def run() -> None:
        try:
            launcher.follow(job_name("run-1"))
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    return thread, failed


@pytest.fixture(autouse=True)
def _signals_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    set_handler = signal.signal

    def anywhere(number: int, handler: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            return set_handler(number, handler)
        return signal.SIG_DFL

    monkeypatch.setattr(signal, "signal", anywhere)


def wait_for(told: list[str], text: str) -> None:
    for _ in range(200):
        if any(text in line for line in told):
            return
        time.sleep(0.02)
    msg = f"never told '{text}': {told}"
    raise AssertionError(msg)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"queue": "", "priority": "", "claim": "", "node_selector": {}, "tolerations": []},
        {"gpu_resource": "", "processes_per_node": 2, "nodes": 1},
    ],
)
def test_jobs_pass_the_schema_and_the_rules_of_the_crd(changes: dict) -> None:
    made = crds()[f"{GROUP}/{VERSION}", "TrainJob"].admit(job(**changes))
    assert made["metadata"]["name"] == job_name("run-1")
    assert len(made["metadata"]["name"]) <= 63


def test_what_the_step_was_given_goes_to_the_job() -> None:
    spec = ClusterSpec.parse(FULL).with_task(
        {
            "node_selector": {"zone": "b"},
            "tolerations": [{"key": "spot", "operator": "Exists"}],
            "env": [{"name": "NCCL_DEBUG", "value": "WARN"}],
            "volumes": [{"name": "scratch", "emptyDir": {}}],
            "volume_mounts": [{"name": "scratch", "mountPath": "/scratch"}],
        }
    )
    made = build(spec, run_id="r", config="c", digest="d")
    crds()[f"{GROUP}/{VERSION}", "TrainJob"].admit(made)
    patch = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    pod = patch["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"pool": "a100", "zone": "b"}
    assert len(pod["tolerations"]) == 2
    assert [v["name"] for v in pod["volumes"]] == ["scratch", "workspace"]
    assert made["spec"]["trainer"]["env"][0]["name"] == "NCCL_DEBUG"


def test_labels_reach_the_job_and_its_pods() -> None:
    labels = {"brewhouse.dev/cost-center": "feed"}
    given = {"namespace": "ranker", "labels": labels}
    for more in ({}, {"claim": "training"}):
        spec = ClusterSpec.parse(given | more)
        made = build(spec, run_id="r", config="/c.json", digest="d")
        crds()["trainer.kubeflow.org/v1alpha1", "TrainJob"].admit(made)
        assert labels.items() <= made["metadata"]["labels"].items()
        patch = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
        template = patch["replicatedJobs"][0]["template"]["spec"]["template"]
        assert template["metadata"]["labels"] == labels


def test_mistakes_in_the_cluster_are_told() -> None:
    with pytest.raises(ConfigError, match="cluster: namespace: Field required"):
        ClusterSpec.parse({})
    with pytest.raises(ConfigError, match=r"cluster: nodes: .* or equal to 1 \(got 0\)"):
        ClusterSpec.parse({"namespace": "a", "nodes": 0})


def test_launching_twice_makes_one_job(fake: Fake) -> None:
    cluster, api = fake
    told: list[str] = []
    launcher = Launcher(api, ClusterSpec.parse(FULL), tell=told.append)
    first = launcher.launch(job())
    second = launcher.launch(job())
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    assert len([k for k in cluster.objects if k[1] == PLURAL]) == 1
    assert "adopted" in told[-1]
    with pytest.raises(TrainingError, match="trains another thing"):
        launcher.launch(job(digest="sha256:2"))
    assert launcher.launch(job("run-2"))["metadata"]["uid"] != first["metadata"]["uid"]


def test_a_failed_job_is_made_anew(fake: Fake) -> None:
    cluster, api = fake
    launcher = Launcher(api, ClusterSpec.parse(FULL), tell=lambda _: None)
    first = launcher.launch(job())
    Controller(cluster, job_name("run-1")).condition("Failed", "backoff limit")
    second = launcher.launch(job())
    assert second["metadata"]["uid"] != first["metadata"]["uid"]


def test_what_the_server_refuses_is_told(fake: Fake) -> None:
    launcher = Launcher(fake[1], ClusterSpec.parse(FULL), tell=lambda _: None)
    bad = job()
    bad["spec"]["trainer"]["numProcPerNode"] = 0
    with pytest.raises(TrainingError, match=r"was refused by the API server \(422\): .*numProc"):
        launcher.launch(bad)


def test_phases_are_told_from_the_queue_to_the_end(fake: Fake) -> None:
    cluster, api = fake
    told: list[str] = []
    Launcher(api, ClusterSpec.parse(FULL), tell=told.append).launch(job() | {})
    controller = Controller(cluster, job_name("run-1"))
    cluster.merge(controller.key, {"spec": {"suspend": True}})
    thread, failed = follow(fake, told)
    thread.start()
    wait_for(told, "waiting in queue gpu-a100")
    cluster.merge(controller.key, {"spec": {"suspend": False}})
    wait_for(told, ": pending")
    controller.pod(0, "Running", log="noise\ntrain finetune  10%\n")
    controller.pod(1, "Running")
    wait_for(told, "running on 2 of 2 nodes")
    wait_for(told, "train finetune  10%")
    controller.pod(0, "Running", log="noise\ntrain finetune  10%\ntrain finetune  20%\n")
    wait_for(told, "train finetune  20%")
    controller.condition("Complete")
    thread.join(5)
    assert not failed
    assert told.count("train finetune  10%") == 1
    assert "noise" not in told


def test_a_failing_node_is_quoted(fake: Fake) -> None:
    cluster, api = fake
    told: list[str] = []
    Launcher(api, ClusterSpec.parse(FULL), tell=told.append).launch(job())
    controller = Controller(cluster, job_name("run-1"))
    controller.pod(0, "Failed", log="[rank0]: killed by its agent\n", code=137)
    cluster.merge(
        ("v1", "pods", "ranker", f"{job_name('run-1')}-node-0-0"),
        {
            "status": {
                "containerStatuses": [
                    {
                        "name": "node",
                        "image": "i",
                        "imageID": "",
                        "ready": False,
                        "restartCount": 0,
                        "state": {
                            "terminated": {"exitCode": 137, "finishedAt": "2026-01-01T00:00:09Z"}
                        },
                    }
                ]
            }
        },
    )
    controller.pod(1, "Failed", log="step 3\nerror: loss is nan at step 3; lower lr\n", code=8)
    controller.condition("Failed", "BackoffLimitExceeded")
    thread, failed = follow(fake, told)
    thread.start()
    thread.join(5)
    assert "BackoffLimitExceeded" in str(failed[0])
    assert "node-0-1 ended with 8: error: loss is nan at step 3; lower lr" in str(failed[0])


def test_silence_while_running_ends_it_and_waiting_in_a_queue_does_not(fake: Fake) -> None:
    cluster, api = fake
    told: list[str] = []
    Launcher(api, ClusterSpec.parse(FULL), tell=told.append).launch(job())
    controller = Controller(cluster, job_name("run-1"))
    cluster.merge(controller.key, {"spec": {"suspend": True}})
    thread, failed = follow(fake, told, heartbeat_minutes=0.01)
    thread.start()
    time.sleep(1.2)
    assert thread.is_alive()
    cluster.merge(controller.key, {"spec": {"suspend": False}})
    controller.pod(0, "Running")
    thread.join(10)
    assert "said nothing for" in str(failed[0])
    assert controller.key not in cluster.objects


@pytest.mark.parametrize("on_cancel", ["delete", "suspend"])
def test_a_cancelled_step_takes_its_job_with_it(fake: Fake, on_cancel: str) -> None:
    cluster, api = fake
    launcher = Launcher(
        api, ClusterSpec.parse(FULL | {"on_cancel": on_cancel, "queue": ""}), tell=lambda _: None
    )
    launcher.launch(job())
    key = Controller(cluster, job_name("run-1")).key
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with pytest.raises(SystemExit):
        launcher.follow(job_name("run-1"))
    if on_cancel == "delete":
        assert key not in cluster.objects
    else:
        assert cluster.objects[key]["spec"]["suspend"] is True


def test_the_pod_that_took_a_lost_one_s_place_is_followed(fake: Fake) -> None:
    """A Job keeps the pod that ended beside the new one; its log says nothing new any more."""
    cluster, api = fake
    told: list[str] = []
    Launcher(api, ClusterSpec.parse(FULL), tell=told.append).launch(job())
    controller = Controller(cluster, job_name("run-1"))
    first, second = (f"{job_name('run-1')}-node-0-0-{suffix}" for suffix in ("aaaaa", "zzzzz"))
    index = {"batch.kubernetes.io/job-completion-index": "0"}
    controller.pod(0, "Failed", log="train finetune  10%\n", code=75, name=first, labels=index)
    thread, failed = follow(fake, told)
    thread.start()
    wait_for(told, "train finetune  10%")
    cluster.get(("v1", "pods", "ranker", first))["metadata"]["creationTimestamp"] = (
        "2026-01-01T00:00:00Z"
    )
    controller.pod(0, "Running", log="train finetune  12%\n", name=second, labels=index)
    wait_for(told, "train finetune  12%")
    controller.pod(0, "Failed", log="error: disk full\n", code=8, name=second, labels=index)
    controller.condition("Failed", "gone")
    thread.join(5)
    assert "aaaaa" not in str(failed[0])
    assert "zzzzz ended with 8: error: disk full" in str(failed[0])


def test_a_server_that_restarts_is_waited_for_and_a_missing_right_is_not(
    fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, api = fake
    told: list[str] = []
    Launcher(api, ClusterSpec.parse(FULL), tell=told.append).launch(job())
    controller = Controller(cluster, job_name("run-1"))
    answer, get = [503], cluster.get

    def refuse(key: Any) -> Any:
        if answer[0] != 200:
            raise Refused(answer[0], "Refused", "not now")
        return get(key)

    monkeypatch.setattr(cluster, "get", refuse)
    thread, failed = follow(fake, told)
    thread.start()
    wait_for(told, "did not answer")
    answer[0] = 200
    wait_for(told, ": pending")
    answer[0] = 403
    thread.join(5)
    assert "the API server answered 403: not now" in str(failed[0])
    assert controller.key in cluster.objects


def test_a_job_that_vanishes_is_told(fake: Fake) -> None:
    cluster, api = fake
    told: list[str] = []
    Launcher(api, ClusterSpec.parse(FULL), tell=told.append).launch(job())
    thread, failed = follow(fake, told)
    thread.start()
    wait_for(told, ": pending")
    cluster.delete(Controller(cluster, job_name("run-1")).key)
    thread.join(5)
    assert "was deleted by someone else" in str(failed[0])
