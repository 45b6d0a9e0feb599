"""The preflight: each thing that is missing is found, with what mends it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from brewhouse.cli.main import app
from brewhouse.errors import PreflightError
from brewhouse.platform import preflight, services
from brewhouse.platform.capacity import ClusterNeeds
from brewhouse.platform.checks import State
from brewhouse.platform.preflight import PROMISES
from brewhouse.platform.trainjob import ClusterSpec
from brewhouse.stages import preflight as step
from tests.conftest import ROOT
from tests.kfp import server as pipelines
from tests.kube.server import Cluster, Refused, serve
from tests.kube.test_manifests import MANIFESTS, built
from tools.access_table import granted, objects, rights

NEEDS = {"namespace": "ranker", "nodes": 4, "gpus": 32}
ACCOUNT = "system:serviceaccount:ranker:brewhouse-train"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A cluster with all that the production overlay installs, as its controllers leave it."""
    with serve() as (held, _):
        held.kinds |= {"jobset.x-k8s.io/v1alpha2": {"jobsets": "JobSet"}}
        held.kinds["ray.io/v1"] |= {"rayjobs": "RayJob"}
        for value in [*built(MANIFESTS / "cluster"), *built(MANIFESTS / "overlays/prod")]:
            version, space = value["apiVersion"], value["metadata"].get("namespace", "")
            plural = {v: k for k, v in held.kinds.get(version, {}).items()}.get(value["kind"])
            if plural:
                held.objects[version, plural, space, value["metadata"]["name"]] = value
        held.objects["v1", "persistentvolumeclaims", "ranker", "training"]["status"] = {
            "phase": "Bound"
        }
        quota = held.objects["v1", "resourcequotas", "ranker", "team"]
        quota["status"] = {"hard": quota["spec"]["hard"], "used": {}}
        labels = {"brewhouse.dev/pool": "h100"}
        for number in range(4):
            name = f"gpu-{number}"
            held.objects["v1", "nodes", "", name] = {
                "metadata": {"name": name, "labels": labels},
                "status": {"allocatable": {"nvidia.com/gpu": "8"}},
            }
        held.accounts[ACCOUNT] = set().union(*granted(objects())["brewhouse-train"].values())
        yield held


def look(cluster: Cluster, **changes: Any) -> dict[str, tuple[State, str, str]]:
    needs = ClusterNeeds(**NEEDS | {"address": cluster.address} | changes)
    return {c.name: (c.state, c.value, c.remedy) for c in preflight.examine(needs)}


def test_a_whole_cluster_lacks_nothing(cluster: Cluster) -> None:
    found = look(cluster)
    assert {name: told for name, told in found.items() if told[0] is not State.OK} == {}
    assert found["queue"][1] == "gpu -> ranker, 32 nvidia.com/gpu"
    assert found["pools"][1] == "nodes with 8 nvidia.com/gpu: h100: 4"
    assert found["quota"][1] == "team: requests.nvidia.com/gpu 64 of 64 free"
    assert found["workspace"][1] == "training: ReadWriteMany of the default class"


def _without(*key: str) -> Callable[[Cluster], Any]:
    return lambda held: held.objects.pop(key)


def _old_kueue(held: Cluster) -> None:
    held.forget("kueue.x-k8s.io")
    held.kinds["kueue.x-k8s.io/v1beta1"] = {"localqueues": "LocalQueue"}


def _queue_stopped(held: Cluster) -> None:
    held.objects["kueue.x-k8s.io/v1beta2", "localqueues", "ranker", "gpu"]["status"] = {
        "conditions": [{"type": "Active", "status": "False", "message": "ClusterQueue is stopped"}]
    }


def _claim(**spec: Any) -> Callable[[Cluster], None]:
    def change(held: Cluster) -> None:
        held.objects["v1", "persistentvolumeclaims", "ranker", "training"]["spec"] |= spec

    return change


BROKEN: dict[str, tuple[Callable[[Cluster], Any], str, str, str]] = {
    "an old cluster": (
        lambda c: setattr(c, "version_told", "v1.27.3"),
        "kubernetes",
        "v1.27.3",
        "upgrade the cluster to 1.31",
    ),
    "a clock that is wrong": (
        lambda c: setattr(c, "clock_skew", timedelta(minutes=3, milliseconds=500)),
        "clock",
        "180 s ahead",
        "chronyc makestep",
    ),
    "no trainer": (
        lambda c: c.forget("trainer.kubeflow.org"),
        "trainjobs",
        "not installed",
        "install Kubeflow Trainer 2.3, which serves trainer.kubeflow.org/v1alpha1",
    ),
    "an old Kueue": (
        _old_kueue,
        "localqueues",
        "serves v1beta1",
        "install Kueue 0.19",
    ),
    "a right that is not granted": (
        lambda c: c.accounts[ACCOUNT].discard(("trainer.kubeflow.org", "trainjobs", "create")),
        "brewhouse-train may",
        "not create trainjobs",
        "kubectl auth can-i create trainjobs --as system:serviceaccount:ranker:brewhouse-train",
    ),
    "no runtime": (
        _without("trainer.kubeflow.org/v1alpha1", "clustertrainingruntimes", "", "brewhouse-train"),
        "runtime",
        "no ClusterTrainingRuntime brewhouse-train",
        "kubectl apply -k manifests/cluster",
    ),
    "no queue": (
        _without("kueue.x-k8s.io/v1beta2", "localqueues", "ranker", "gpu"),
        "queue",
        "no LocalQueue gpu in ranker",
        "kubectl apply -k",
    ),
    "a queue that is stopped": (
        _queue_stopped,
        "queue",
        "ClusterQueue is stopped",
        "kubectl apply",
    ),
    "no claim": (
        _without("v1", "persistentvolumeclaims", "ranker", "training"),
        "workspace",
        "no claim training",
        "kubectl apply -k",
    ),
    "a claim of one node": (
        _claim(accessModes=["ReadWriteOnce"]),
        "workspace",
        "training is ReadWriteOnce; 4 nodes share it",
        "kubectl get storageclass",
    ),
}


FOLLOWS = {"no trainer": ["runtime"], "an old Kueue": ["queue"]}
"""What else is then not there: objects of kinds that nobody serves."""


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_missing_is_found_with_its_remedy(cluster: Cluster, case: str) -> None:
    change, name, value, remedy = BROKEN[case]
    change(cluster)
    found = preflight.examine(ClusterNeeds(**NEEDS, address=cluster.address))
    bad = [c for c in found if c.state is State.MISSING]
    assert [c.name for c in bad] == [name, *FOLLOWS.get(case, [])]
    assert value in bad[0].value
    assert remedy in bad[0].remedy


def test_more_gpus_than_there_are(cluster: Cluster) -> None:
    found = look(cluster, gpus=48, nodes=6)
    # What other teams of the cohort leave idle may be borrowed.
    told = "ranker has 32 of 48 nvidia.com/gpu of one kind"
    assert found["queue"][:2] == (State.UNKNOWN, told)
    assert "idle in cohort ranking" in found["queue"][2]
    assert found["quota"][0] is State.OK
    most = look(cluster, gpus=72, nodes=9)
    told = "ranker may hold 48 of 72 nvidia.com/gpu of one kind"
    assert most["queue"][:2] == (State.MISSING, told)
    assert "borrowingLimit of ClusterQueue ranker" in most["queue"][2]
    share = cluster.objects["kueue.x-k8s.io/v1beta2", "clusterqueues", "", "ranker"]
    (gpus,) = (
        r
        for r in share["spec"]["resourceGroups"][0]["flavors"][0]["resources"]
        if r["name"] == "nvidia.com/gpu"
    )
    del gpus["borrowingLimit"]
    assert look(cluster, gpus=72, nodes=9)["queue"][0] is State.UNKNOWN
    del share["spec"]["cohortName"]
    alone = look(cluster, gpus=64, nodes=8)
    assert alone["queue"][0] is State.MISSING
    assert "raise nominalQuota of ClusterQueue ranker" in alone["queue"][2]
    assert most["quota"][:2] == (
        State.MISSING,
        "team: requests.nvidia.com/gpu 64, 72 are asked",
    )
    # A pool that scales up on demand may be small now.
    assert found["pools"][0] is State.ABSENT


def test_cores_and_memory_count_as_gpus_do(cluster: Cluster) -> None:
    share = cluster.objects["kueue.x-k8s.io/v1beta2", "clusterqueues", "", "ranker"]
    for number in range(4):
        cluster.objects["v1", "nodes", "", f"gpu-{number}"]["status"]["allocatable"] |= {
            "cpu": "63500m",
            "memory": "1200Gi",
        }
    quota = cluster.objects["v1", "resourcequotas", "ranker", "team"]
    quota["status"] = {
        "hard": {"requests.nvidia.com/gpu": "50", "cpu": "400", "limits.memory": "6000Gi"},
        "used": {"cpu": "12500m"},
    }
    fits = look(cluster, cpu="48", memory="1000Gi")
    assert {fits[name][0] for name in ("queue", "pools", "quota")} == {State.OK}
    assert fits["queue"][1] == ("gpu -> ranker, 384 cpu, 6,144 GiB memory, 32 nvidia.com/gpu")
    assert fits["pools"][1] == ("nodes with 48 cpu, 1,000 GiB memory, 8 nvidia.com/gpu: h100: 4")
    assert fits["quota"][1].startswith("team: cpu 387.5 of 400 free; team: limits.memory 6,000 GiB")
    # Too many cores for a node and the quota; the share lends what others leave idle.
    more = look(cluster, cpu="101", memory="1000Gi")
    assert more["pools"][:2] == (
        State.ABSENT,
        "nodes with 101 cpu, 1,000 GiB memory, 8 nvidia.com/gpu: h100: 0",
    )
    assert more["queue"][:2] == (State.UNKNOWN, "ranker has 384 of 404 cpu of one kind")
    assert more["quota"][:2] == (State.OK, fits["quota"][1].split("; ", 1)[1])
    told = preflight.examine(
        ClusterNeeds(**NEEDS, address=cluster.address, cpu="101", memory="1000Gi")
    )
    assert [c.value for c in told if c.state is State.MISSING] == ["team: cpu 400, 404 are asked"]
    # Memory that the share does not count is never admitted.
    share["spec"]["resourceGroups"][0]["coveredResources"].remove("memory")
    assert look(cluster, cpu="48", memory="1Gi")["queue"][:2] == (
        State.MISSING,
        "ranker counts no memory",
    )


def test_quotas_that_fit_exactly_and_those_of_some_pods(cluster: Cluster) -> None:
    quota = cluster.objects["v1", "resourcequotas", "ranker", "team"]
    quota["status"] = {"hard": {"requests.cpu": "6600m"}, "used": {}}
    exact = look(cluster, gpus=0, nodes=3, cpu="2.2")
    assert exact["quota"][:2] == (State.OK, "team: requests.cpu 6.6 of 6.6 free")
    quota["spec"]["scopes"] = ["Terminating"]
    quota["status"] = {"hard": {"requests.cpu": "1"}, "used": {}}
    state, told, remedy = look(cluster, gpus=0, nodes=3, cpu="2.2")["quota"]
    assert (state, told) == (State.UNKNOWN, "team: holds for pods of some scopes, not compared")
    assert remedy == "kubectl describe resourcequota -n ranker"
    del quota["spec"]["scopes"]
    quota["status"] = {"hard": {"pods": "50"}, "used": {}}
    assert look(cluster, gpus=0, nodes=3, cpu="2.2")["quota"][0] is State.OK


def test_optional_parts_are_told_and_stop_nothing(cluster: Cluster) -> None:
    cluster.forget("serving.kserve.io")
    state, value, remedy = look(cluster)["inferenceservices"]
    assert (state, value) == (State.ABSENT, "not installed")
    assert "KServe 0.20" in remedy


def test_without_a_queue_kueue_is_optional(cluster: Cluster) -> None:
    cluster.forget("kueue.x-k8s.io")
    assert look(cluster, queue="")["localqueues"][0] is State.ABSENT
    assert look(cluster)["localqueues"][0] is State.MISSING


def test_who_may_not_impersonate_is_told_so(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: Cluster, who: str, _asked: dict[str, str]) -> bool:
        raise Refused(403, "Forbidden", f"cannot impersonate {who}")

    monkeypatch.setattr(Cluster, "review", refuse)
    state, value, remedy = look(cluster)["brewhouse-train may"]
    assert (state, value) == (State.UNKNOWN, "only the account itself can say")
    assert "may impersonate system:serviceaccount:ranker:brewhouse-train" in remedy


def test_what_may_not_be_looked_at_is_unknown_and_never_fine(cluster: Cluster) -> None:
    cluster.allowed = set()
    found = look(cluster)
    for name in ("runtime", "queue", "pools", "quota", "workspace"):
        assert found[name][0] is State.UNKNOWN, name
        assert found[name][2].startswith("bind brewhouse-"), name


def test_the_step_may_look_at_all_of_it(cluster: Cluster) -> None:
    """Inside a pod it asks as its own account, which the manifests let look."""
    binding = {(o["kind"], o["metadata"]["name"]): o for o in built(MANIFESTS / "cluster")}[
        "ClusterRoleBinding", "brewhouse-cluster-reader"
    ]
    assert {
        "kind": "ServiceAccount",
        "name": "brewhouse-train",
        "namespace": "ranker",
    } in binding["subjects"]
    reader = next(o for o in built(MANIFESTS / "cluster") if o["kind"] == "ClusterRole")
    cluster.allowed = cluster.accounts[ACCOUNT] | rights(reader)
    found = look(cluster, impersonate=False)
    assert {name: told for name, told in found.items() if told[0] is not State.OK} == {}
    asked = {right for right in cluster.calls if right[1] not in ("trainjobs", "pods", "pods/log")}
    ours = granted(objects())["brewhouse-train"]["brewhouse-preflight"] | rights(reader)
    assert asked == ours


def test_promises_are_what_the_manifests_grant() -> None:
    held = granted(objects())
    for account, promised in PROMISES.items():
        ours = [
            r
            for name, r in held[account].items()
            if name in ("brewhouse-train-ranker", "brewhouse-run-starter")
        ]
        assert set(promised) == set().union(*ours)


def test_the_step_refuses_before_anything_is_computed(cluster: Cluster, tmp_path: Path) -> None:
    cluster.objects.pop(("v1", "persistentvolumeclaims", "ranker", "training"))
    cluster.clock_skew = timedelta(minutes=5, milliseconds=500)
    spec = {"namespace": "ranker", "queue": "gpu", "claim": "training"}
    given = {
        "cluster": spec | {"address": cluster.address},
        "model_store": str(tmp_path / "models"),
        "home": str(tmp_path / "home"),
        "tracking_uri": "",
        "report_out": tmp_path / "report.json",
    }
    with pytest.raises(PreflightError, match=r"2 of \d+ checks failed, nothing was") as found:
        step.run(launcher="trainer", **given)
    assert "clock: 300 s ahead" in str(found.value)
    assert "no claim training in ranker" in str(found.value)
    assert found.value.exit_code == 14
    states = {c["name"]: c["state"] for c in json.loads((tmp_path / "report.json").read_text())}
    assert (states["clock"], states["object store"]) == ("missing", "ok")
    assert list((tmp_path / "models").iterdir()) == []
    # Training on this machine asks nothing of a cluster.
    asked = step.needs_of(ClusterSpec.parse(given["cluster"]))
    assert (asked.cpu, asked.memory, asked.gpus) == ("32", "1000Gi", 8)
    assert {c.name for c in step.run(launcher="local", **given)} == {
        "object store",
        "mlflow",
        "decisions",
    }


def test_services_that_answer_and_that_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "PAUSE_S", 0.0)
    monkeypatch.setenv("BREWHOUSE_FEAST_REDIS", "127.0.0.1:1")
    monkeypatch.setenv("BREWHOUSE_FEAST_REGISTRY", "postgresql+psycopg://u:secret@127.0.0.1:1/x")
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder is wanted")
    with ExitStack() as stack:
        _, address = stack.enter_context(pipelines.serve())
        given = {
            "tracking_uri": "http://127.0.0.1:1",
            "database_uri": f"sqlite:///{tmp_path / 'b.db'}",
            "signing_key": str(tmp_path / "none.pem"),
        }
        found = {
            c.name: c
            for c in services.examine(kfp_host=address, store=str(blocked / "models"), **given)
        }
        away = {c.name: c for c in services.examine(kfp_host=f"{address}/x", store="", **given)}
    states = {name: check.state.value for name, check in found.items()}
    assert states == {
        "pipelines": "ok",
        "mlflow": "missing",
        "decisions": "ok",
        "signing key": "missing",
        "feast registry": "missing",
        "feast online store": "missing",
        "object store": "missing",
    }
    assert "secret" not in " ".join(f"{c.value} {c.remedy}" for c in found.values())
    assert "ledger key" in found["signing key"].remedy
    assert away["pipelines"].value.endswith("answers 404")


def test_a_service_that_restarts_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(services.time, "sleep", waited.append)
    with pipelines.serve() as (held, address):
        given = {"tracking_uri": "", "database_uri": "", "signing_key": "", "store": ""}
        held.down = 2
        (check,) = services.examine(kfp_host=address, **given)
        assert (check.state, len(waited)) == (State.OK, 2)
        held.down = 9
        (check,) = services.examine(kfp_host=address, **given)
        assert (check.state, check.value[-3:]) == (State.MISSING, "503")
        assert held.down == 6


def test_from_the_command_line(cluster: Cluster, tmp_path: Path) -> None:
    needs = tmp_path / "needs.yaml"
    needs.write_text(yaml.safe_dump(NEEDS | {"address": cluster.address}))
    command = ["doctor", "--cluster", "--needs", str(needs), "--store", str(tmp_path / "models")]
    run = CliRunner().invoke(app, [*command, "--json"])
    assert run.exit_code == 0, run.output
    told = json.loads(run.stdout)
    assert {one["state"] for one in told} == {"ok"}
    assert told[-1]["name"] == "object store"
    assert CliRunner().invoke(app, [*command, "--gpus", "640", "--json"]).exit_code == 14
    wrong = CliRunner().invoke(app, [*command, "--namespace", "elsewhere", "--json"])
    missing = [one["name"] for one in json.loads(wrong.stdout) if one["state"] == "missing"]
    assert missing[:2] == ["brewhouse-train may", "brewhouse-train may"]


def test_the_guide_it_names_is_there() -> None:
    assert (ROOT / preflight.INSTALL).is_file()
