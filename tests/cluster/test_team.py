"""A team's namespace on Kubernetes, installed by typing what the guide for kind tells to type.

The node is real (`kubernetes.py` says of what), policies of traffic are in force, and the steps of
runs are pods; `runs.py` makes those, for Kubeflow Pipelines and Trainer are not here. One candidate
goes all the way: a run registers it, a person releases it in the console, the monitor watches it.
A file's tests run in order.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client

from brewhouse.domains.linkedin.simulate import simulate
from brewhouse.domains.linkedin.world import preset
from brewhouse.errors import PreflightError
from brewhouse.platform import containers
from brewhouse.platform.containers import ContainerPlan
from brewhouse.platform.pipelines import LocalRun, run_local
from tests.cluster import beside
from tests.cluster.older import lowered
from tests.cluster.runs import Steps
from tests.cluster.team import CLUSTER, NAMESPACE, USER, Address, Team
from tests.cluster.wait import wait_for
from tests.kube.test_manifests import built
from tools import access_table

pytestmark = [pytest.mark.slow, pytest.mark.image, pytest.mark.timeout(1800)]


PIPELINES, SERVER = "ml-pipeline.kubeflow", "kubernetes.default"
GATEWAY = {"app": "istio-ingressgateway"}
NODE_LABELS = {
    "app.kubernetes.io/name": "training-node",
    "app.kubernetes.io/part-of": "brewhouse",
}
"""As the runtime has them."""


@pytest.fixture(scope="module")
def console(team: Team) -> Iterator[Address]:
    """By the Service's port, as one who has no gateway reaches it."""
    team.kubectl("wait", "--for=condition=Available", "deployment", "--all", "--timeout=180s")
    with team.forwarded("console", 80) as found:
        yield found


@pytest.fixture
def run(team: Team, service: None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a pipeline that was ordered, its steps as pods."""

    def started(pipeline: str, name: str, arguments: dict[str, Any]) -> None:
        steps = Steps(team.node, NAMESPACE, pipeline, team.image)
        monkeypatch.setattr(containers, "_run_container", steps)
        out = LocalRun(out=team.folder / "runs" / name, cache_key="pods")
        run_local(pipeline, arguments, out, marker="brewhouse: ", containers=ContainerPlan())

    return started


def test_the_guide_s_commands_install_it(team: Team) -> None:
    # What the doctor finds last is not of this cluster: a server of today, and kinds of others.
    assert team.typed.returncode == 14, team.typed.stdout[-2000:] + team.typed.stderr[-3000:]
    team.kubectl("wait", "--for=condition=Available", "deployment", "--all", "--timeout=180s")
    assert "upgrade the cluster to 1.31 or newer" in team.typed.stdout
    told = team.shell("brewhouse doctor --cluster --namespace ranker --gpus 0 --json")
    found = {row["name"]: row for row in json.loads(told.stdout)}
    missing = {name for name, row in found.items() if row["state"] == "missing"}
    assert missing == {"kubernetes", "jobsets"}, found
    assert {name for name, row in found.items() if row["state"] == "absent"} == {"rayclusters"}
    assert {row["state"] for row in found.values()} == {"ok", "missing", "absent"}
    (node,) = team.node.get("nodes")
    assert node["status"]["allocatable"]["nvidia.com/gpu"] == "2"


def test_applied_again_it_stays_as_it_is(team: Team) -> None:
    def generations() -> dict[str, int]:
        kinds = "deployment,statefulset,cronjob,networkpolicy,poddisruptionbudget"
        return {
            f"{o['kind']}/{o['metadata']['name']}": o["metadata"].get("generation", 0)
            for o in team.get(kinds)
        }

    before = generations()
    manifests = "kubectl kustomize my | python -m tests.cluster.older"
    again = team.shell(
        f"set -euo pipefail; {manifests} | kubectl apply --server-side --force-conflicts -f -"
    )
    assert again.returncode == 0, again.stderr
    assert generations() == before
    diff = team.shell(
        f"set -o pipefail; {manifests} | kubectl diff --server-side --force-conflicts -f -"
    )
    assert diff.returncode == 0, diff.stdout + diff.stderr


def test_each_account_may_do_what_its_page_says_and_nothing_else(team: Team) -> None:
    """As the server's own authorizer has it."""
    objects = [o for o in built(team.folder / "my") if o["metadata"].get("namespace")]
    accounts = access_table.granted(objects)
    every = {right for roles in accounts.values() for held in roles.values() for right in held}
    # What nobody should.
    every |= {
        ("", "secrets", "get"),
        ("", "secrets", "list"),
        ("", "pods", "create"),
        ("", "pods/exec", "create"),
        ("", "serviceaccounts/token", "create"),
        ("rbac.authorization.k8s.io", "rolebindings", "create"),
        ("trainer.kubeflow.org", "clustertrainingruntimes", "patch"),
    }
    asked = client.AuthorizationV1Api(team.node.api)
    for account, roles in accounts.items():
        held = set().union(*roles.values())
        kind, _, name = account.rpartition(" ")
        everyone = ["system:serviceaccounts", f"system:serviceaccounts:{NAMESPACE}"]
        who = {
            "user": f"system:serviceaccount:{NAMESPACE}:{name}",
            "groups": [*everyone, "system:authenticated"],
        }
        if kind:
            who = {"user": "somebody", f"{kind}s": [name, "system:authenticated"]}
        for group, named, verb in every:
            plain, _, only = named.partition(" (")
            resource, _, part = plain.partition("/")
            attributes = {
                "namespace": NAMESPACE,
                "group": group,
                "resource": resource,
                "subresource": part,
                "verb": verb,
                "name": only.rstrip(")"),
            }
            spec = who | {"resourceAttributes": attributes}
            status = asked.create_subject_access_review({"spec": spec}).status
            assert status.allowed == ((group, named, verb) in held), (account, group, named, verb)


def test_mlflow_answers_to_its_service_s_name_alone(team: Team, console: Address) -> None:
    with team.forwarded("mlflow", 5000) as mlflow:
        for host, status in (("mlflow:5000", 200), ("evil.example.com", 403)):
            found, body = mlflow.ask(
                *("POST", "/api/2.0/mlflow/experiments/search"),
                sent={"max_results": 5},
                headers={"Host": host},
            )
            assert found == status, body


def test_the_console_runs_as_its_manifest_says(team: Team, console: Address) -> None:
    def said(*command: str) -> str:
        return team.kubectl("exec", "deployment/console", "--", *command).strip()

    assert said("id", "-u") == str(USER)
    assert "Read-only file system" in said("sh", "-c", "touch /opt/x 2>&1 || true")
    # No token of an account, no capability, no way to more rights, and system calls are filtered.
    assert said("sh", "-c", "ls /var/run/secrets/kubernetes.io 2>&1 || true").endswith("directory")
    status = dict(line.split(":\t", 1) for line in said("cat", "/proc/1/status").splitlines())
    assert (int(status["CapBnd"], 16), status["NoNewPrivs"], status["Seccomp"]) == (0, "1", "2")
    assert console.ask("GET", "/api/v1/versions", headers={"Host": "localhost:8600"})[0] == 401
    asked = team.shell(f"set -e; trap 'kill %1' EXIT\n{team.asks}")
    assert (asked.returncode, json.loads(asked.stdout.splitlines()[-1])) == (0, []), asked.stderr


@pytest.mark.parametrize(
    ("labels", "namespace", "reached"),
    [
        ({"who": "nobody"}, NAMESPACE, set()),
        ({"pipeline/runid": "1"}, NAMESPACE, {"mlflow", "postgres", PIPELINES, SERVER}),
        (NODE_LABELS, NAMESPACE, {"mlflow"}),
        # No policy keeps a pod of another namespace in, and those of ours keep it out.
        ({"pipeline/runid": "1"}, "default", {PIPELINES, SERVER}),
        (GATEWAY, "default", {PIPELINES, SERVER}),
        # Of a peer that is a label in a namespace, both must hold.
        (GATEWAY, NAMESPACE, set()),
        (GATEWAY, "istio-system", {"console", PIPELINES, SERVER}),
    ],
)
def test_traffic_goes_where_a_policy_opens_a_way(
    team: Team, console: Address, labels: dict[str, str], namespace: str, reached: set[str]
) -> None:
    ports = {"mlflow": 5000, "postgres": 5432, "console": 80, PIPELINES: 8888, SERVER: 443}
    team.node.kubectl("apply", "-f", "-", sent=beside.named(namespace))
    with team.prober(labels, namespace) as prober:
        found = prober({n: (n if "." in n else f"{n}.{NAMESPACE}", p) for n, p in ports.items()})
    assert found == reached


def test_a_run_that_the_cluster_cannot_hold_ends_with_its_first_step(
    team: Team, console: Address, run: Any
) -> None:
    """The step asks as its own account, from within, before anything is computed."""
    arguments = team.arguments() | {
        "launcher": "trainer",
        "cluster": CLUSTER | {"queue": "gpu"},
    }
    with pytest.raises(PreflightError, match=r"kubernetes.*1\.31"):
        run("train_and_evaluate", "too-early", arguments)
    (report,) = (team.folder / "runs" / "too-early").rglob("preflight/**/report")
    rows = {row["name"]: row["state"] for row in json.loads(report.read_text())}
    # Two nodes cannot share the claim as the overlay makes it for one machine.
    missing = {name for name, state in rows.items() if state == "missing"}
    assert missing == {"kubernetes", "jobsets", "workspace"}


def test_a_submitted_run_registers_a_candidate(team: Team, console: Address, run: Any) -> None:
    """The guide's own block: forwarded to Kubeflow Pipelines, submitted, followed to its end."""
    with team.submitted(team.arguments() | {"publish_to": "/workspace/e"}) as process:
        (order,) = wait_for(lambda: team.pipelines.sent, bool, "the order", 120)
        (name,) = team.pipelines.runs
        told = order["runtime_config"]["parameters"]
        run("train_and_evaluate", "first", told)
        team.pipelines.runs[name]["state"] = "SUCCEEDED"
        assert process.wait(120) == 0
    evidence = team.claim("training") / "e"
    assert json.loads((evidence / "status.json").read_text())["state"] == "SUCCEEDED"
    assert json.loads((evidence / "verdict.json").read_text())["outcome"] == "PASS"
    lineage = json.loads((evidence / "lineage.json").read_text())
    assert {"import_data", "train_ranker", "evaluate"} <= set(lineage["steps"])
    # Nothing was written as root, on the steps' claim or on MLflow's, which keeps versions.
    kept = team.claim("mlflow")
    files = [p for at in (team.claim("training"), kept) for p in at.rglob("*") if p.is_file()]
    assert {p.stat().st_uid for p in files} == {USER}
    assert len(list(kept.rglob("dossier/index.html"))) == 1
    (version,) = console.call("/versions")
    assert (version["version"], version["state"]) == ("1", "PENDING_APPROVAL")


def test_a_person_releases_it_in_the_console(team: Team, console: Address, run: Any) -> None:
    for act in ("approve", "order"):
        version = console.call("/versions/1")
        sent = {"act": act, "reason": "holds on every slice", "revision": version["revision"]}
        console.call("/versions/1/decisions", sent)
    order = team.pipelines.sent[-1]
    assert order["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "promote"
    run("promote", "promote", order["runtime_config"]["parameters"])
    assert console.call("/versions/1")["state"] == "CHAMPION"


def test_the_monitor_watches_it(team: Team, console: Address) -> None:
    workspace = team.claim("training")
    log = simulate(preset("tiny", seed=3), workspace / "log", workers=1)
    os.chown(log, USER, USER)
    done, said = team.job("drift-monitor")
    assert done, said
    assert (workspace / "drift" / "drift.html").is_file()


def test_housekeeping_throws_away_old_runs_alone(team: Team, console: Address) -> None:
    workspace = team.claim("training")
    of_prod = [
        o
        for o in built(team.folder / "manifests" / "overlays" / "prod")
        if o["metadata"]["name"].removeprefix("brewhouse-") == "housekeeping"
    ]
    team.apply(of_prod)
    runs = workspace / "runs"
    current, *_ = list(runs.iterdir())
    old = runs / "of-last-summer"
    shutil.copytree(current, old)
    for path in (*old.rglob("*"), old):
        os.chown(path, USER, USER)
        os.utime(path, (0, 0))
    done, said = team.job("housekeeping")
    assert done, said
    # A model stays, for nothing says here that it was registered.
    assert [path.name for path in old.iterdir()] == ["model"]
    assert (current / "train.json").is_file()


def test_of_two_consoles_one_at_a_time_is_evicted(team: Team, console: Address) -> None:
    """Where the budget is that of `prod`."""
    team.apply(
        [
            o
            for o in built(team.folder / "manifests" / "overlays" / "prod")
            if (o["kind"], o["metadata"]["name"]) == ("PodDisruptionBudget", "console")
        ]
    )
    team.kubectl("scale", "deployment/console", "--replicas=2")
    team.kubectl("rollout", "status", "deployment/console", "--timeout=120s")
    wait_for(
        lambda: team.get("poddisruptionbudget", "console")["status"].get("disruptionsAllowed"),
        lambda allowed: allowed == 1,
        "the budget",
        60,
    )
    pods = [p["metadata"]["name"] for p in team.get("pods", "-l", "app.kubernetes.io/name=console")]
    evict = client.CoreV1Api(team.node.api).create_namespaced_pod_eviction
    told = []
    for name in pods:
        body = {"apiVersion": "policy/v1beta1", "kind": "Eviction", "metadata": {"name": name}}
        try:
            evict(name, NAMESPACE, body)
            told.append(201)
        except client.ApiException as refused:
            told.append(refused.status)
    assert told == [201, 429]


@pytest.mark.parametrize("overlay", ["staging", "prod", "second-team"])
def test_the_server_takes_every_overlay(team: Team, overlay: str) -> None:
    """All that it has but what KubeRay defines, whose kinds are not at hand."""
    objects = [
        lowered(o)
        for o in built(team.folder / "manifests" / "overlays" / overlay)
        if not o["apiVersion"].startswith("ray.io/")
    ]
    team.node.kubectl("apply", "-f", "-", sent=beside.named("tried"))
    for value in objects:
        if "namespace" in value["metadata"]:
            value["metadata"]["namespace"] = "tried"
    told = team.node.kubectl(
        *("apply", "--server-side", "--force-conflicts", "--dry-run=server", "-f", "-"),
        sent=objects,
    )
    assert len(told.splitlines()) == len(objects)
