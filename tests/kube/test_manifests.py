"""Manifests: they build, pass schemas and CEL rules, and keep the house's rules for every pod."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes.utils.quantity import parse_quantity

from brewhouse.platform.trainjob import ClusterSpec
from tests.conftest import ROOT
from tests.kube.policy import Object, findings, name, pods
from tests.kube.schema import crds

MANIFESTS = ROOT / "manifests"
APPLIED = {
    str(p.parent.relative_to(MANIFESTS)): p.parent
    for p in sorted(MANIFESTS.rglob("kustomization.yaml"))
    if "kind: Kustomization" in p.read_text() and p.parent.name not in ("base", "team")
}
"""What somebody applies: overlays, and what a cluster has once."""
VERSIONS = ("1.33", "1.34", "1.35")
UNCHECKED = {"RayCluster"}
"""Kinds whose definition is not at hand; their pods are checked all the same."""
BIN = Path(sys.executable).parent


@cache
def _built(folder: Path) -> str:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    found = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return found.stdout


def built(folder: Path) -> list[Object]:
    """Objects of a kustomization."""
    return [o for o in yaml.safe_load_all(_built(folder)) if o]


def objects(folder: Path) -> dict[tuple[str, str], Object]:
    """The same by kind and name."""
    return {(o["kind"], o["metadata"]["name"]): o for o in built(folder)}


each = pytest.mark.parametrize("folder", APPLIED.values(), ids=list(APPLIED))


@each
def test_they_build_and_pass_their_schemas(folder: Path) -> None:
    for value in built(folder):
        key = (value["apiVersion"], value["kind"])
        if key in crds():
            crds()[key].admit(value)
        elif value["kind"] not in UNCHECKED:
            for version in VERSIONS:
                kubernetes_validate.validate(value, version, strict=True)


@each
def test_they_keep_the_rules(folder: Path) -> None:
    assert findings(built(folder)) == []


def test_production_has_every_component() -> None:
    used = yaml.safe_load((MANIFESTS / "overlays/prod/kustomization.yaml").read_text())
    there = {p.name for p in (MANIFESTS / "components").iterdir()}
    # Where it has workload identity.
    assert {Path(c).name for c in used["components"]} == there - {"store-on-premises"}


def _pod_of(value: Object) -> Object:
    return next(pod for pod, _ in pods(value))


def _drop(*path: str) -> Callable[[Object], None]:
    def change(value: Object) -> None:
        found: Any = _pod_of(value)
        for part in path[:-1]:
            found = found[0] if part == "0" else found[part]
        found.pop(path[-1])

    return change


def _put(put: Any, *path: str) -> Callable[[Object], None]:
    def change(value: Object) -> None:
        found: Any = _pod_of(value)
        for part in path[:-1]:
            found = found[0] if part == "0" else found[part]
        found[path[-1]] = put

    return change


def _rule(put: list[str], field: str) -> Callable[[Object], None]:
    return lambda value: value["rules"][0].__setitem__(field, put)


def _selector(value: Object) -> None:
    value["spec"]["podSelector"] = {"matchLabels": {"app": "another"}}


BROKEN: dict[str, tuple[tuple[str, str], Callable[[Object], None], str]] = {
    "root": (("Deployment", "console"), _drop("securityContext", "runAsNonRoot"), "run as root"),
    "root in a job template": (
        ("CronJob", "drift-monitor"),
        _put(False, "securityContext", "runAsNonRoot"),
        "run as root",
    ),
    "root in a Ray worker": (
        ("RayCluster", "scoring"),
        _put(0, "securityContext", "runAsUser"),
        "no user of its own",
    ),
    "latest": (
        ("Deployment", "mlflow"),
        _put("registry.example.com/brewhouse/steps:latest", "containers", "0", "image"),
        "not named by its digest",
    ),
    "no limits": (
        ("Deployment", "mlflow"),
        _drop("containers", "0", "resources", "limits"),
        "no limits",
    ),
    "writable root": (
        ("Deployment", "mlflow"),
        _put(False, "containers", "0", "securityContext", "readOnlyRootFilesystem"),
        "root may be written",
    ),
    "capabilities": (
        ("InferenceService", "ranker"),
        lambda v: v["spec"]["predictor"]["model"]["securityContext"].pop("capabilities"),
        "keeps capabilities",
    ),
    "no account": (("Deployment", "console"), _drop("serviceAccountName"), "no service account"),
    "unknown account": (
        ("Deployment", "console"),
        _put("someone", "serviceAccountName"),
        "someone does not exist",
    ),
    "token": (("Deployment", "console"), _drop("automountServiceAccountToken"), "mounts a token"),
    "host path": (
        ("Deployment", "console"),
        lambda v: _pod_of(v)["volumes"].append({"name": "h", "hostPath": {"path": "/"}}),
        "hostPath",
    ),
    "no network policy": (
        ("NetworkPolicy", "console"),
        _selector,
        "Deployment/console: no network policy",
    ),
    "open namespace": (("NetworkPolicy", "default-deny"), _selector, "not denied by default"),
    "a written secret": (
        ("Deployment", "mlflow"),
        lambda v: _pod_of(v)["containers"][0]["env"].append(
            {"name": "DATABASE_PASSWORD", "value": "x"}
        ),
        "refer to a secret",
    ),
    "no budget": (
        ("PodDisruptionBudget", "console"),
        lambda v: v["spec"]["selector"]["matchLabels"].update({"app": "another"}),
        "no PodDisruptionBudget",
    ),
    "wildcard": (("Role", "brewhouse-pipeline-step"), _rule(["*"], "verbs"), "wildcard in verbs"),
    "all secrets": (
        ("Role", "brewhouse-train-ranker"),
        _rule(["secrets"], "resources"),
        "any secret",
    ),
    "a shell in pods": (
        ("Role", "brewhouse-train-ranker"),
        _rule(["pods/exec"], "resources"),
        "enter pods",
    ),
    "no quota": (
        ("ResourceQuota", "team"),
        lambda v: v.__setitem__("kind", "Other"),
        "no ResourceQuota",
    ),
    "baseline pods": (
        ("Namespace", "ranker"),
        lambda v: v["metadata"]["labels"].update(
            {"pod-security.kubernetes.io/enforce": "baseline"}
        ),
        "not `restricted`",
    ),
    "no cost label": (
        ("CronJob", "drift-monitor"),
        lambda v: v["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"].pop(
            "brewhouse.dev/cost-center"
        ),
        "lack the label brewhouse.dev/cost-center",
    ),
    "a claim that is not there": (
        ("PersistentVolumeClaim", "training"),
        lambda v: v["metadata"].update({"name": "other"}),
        "claim training does not exist",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_found(case: str) -> None:
    (kind, called), change, said = BROKEN[case]
    found = copy.deepcopy(built(MANIFESTS / "overlays/prod"))
    change(next(o for o in found if name(o) == f"{kind}/{called}"))
    assert any(said in finding for finding in findings(found)), findings(found)


def test_a_job_finds_the_queue_the_runtime_and_its_container() -> None:
    cluster, team = objects(MANIFESTS / "cluster"), objects(MANIFESTS / "overlays/prod")
    runtime = cluster["ClusterTrainingRuntime", ClusterSpec(namespace="n").runtime]
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    assert job["name"] == "node"
    spec = job["template"]["spec"]
    assert [c["name"] for c in spec["template"]["spec"]["containers"]] == ["node"]
    retried = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert retried == [75]
    assert ("PersistentVolumeClaim", "training") in team
    assert ("ServiceAccount", spec["template"]["spec"]["serviceAccountName"]) in team


@pytest.mark.parametrize("team", ["local", "staging", "prod", "second-team"])
def test_a_queue_leads_to_a_share_of_pools_that_are_there(team: str) -> None:
    space = objects(MANIFESTS / "overlays" / team)
    cluster = objects(MANIFESTS / "cluster") | space
    own = MANIFESTS / "overlays" / team / "cluster"
    if own.is_dir():
        cluster |= objects(own)
    queue = space["LocalQueue", "gpu"]
    share = cluster["ClusterQueue", queue["spec"]["clusterQueue"]]["spec"]
    allowed = share["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert queue["metadata"]["namespace"] == allowed
    _fits_quota(share, space["ResourceQuota", "team"]["spec"]["hard"])
    flavors = {f["name"] for group in share["resourceGroups"] for f in group["flavors"]}
    assert flavors <= {called for kind, called in cluster if kind == "ResourceFlavor"}
    arguments = yaml.safe_load(space_map(space, "drift-arguments")["arguments.yaml"])
    account = {"kind": "ServiceAccount", "name": "brewhouse-train", "namespace": allowed}
    assert account in cluster["ClusterRoleBinding", "brewhouse-cluster-reader"]["subjects"]
    if arguments["launcher"] == "trainer":
        asked = ClusterSpec.parse(arguments["cluster"])
        assert asked.namespace == queue["metadata"]["namespace"]
        assert ("LocalQueue", asked.queue) in space
        assert ("PersistentVolumeClaim", asked.claim) in space
        assert ("WorkloadPriorityClass", asked.priority) in cluster


def _fits_quota(share: Object, quota: dict[str, str]) -> None:
    """A namespace has room for all that its queue may admit, and for what no queue counts."""
    held: dict[str, Decimal] = {}
    for flavor in share["resourceGroups"][0]["flavors"]:
        for counted in flavor["resources"]:
            most = parse_quantity(counted["nominalQuota"])
            most += parse_quantity(counted["borrowingLimit"])
            held[counted["name"]] = held.get(counted["name"], Decimal(0)) + most
    for resource, most in held.items():
        room = parse_quantity(quota[f"requests.{resource}"])
        assert room >= most if "/" in resource else room > most, resource


def space_map(space: dict[tuple[str, str], Object], prefix: str) -> dict[str, str]:
    """Data of a ConfigMap whose name kustomize lengthened with its hash."""
    found = next(
        v for (kind, n), v in space.items() if kind == "ConfigMap" and n.startswith(prefix)
    )
    return dict(found["data"])


def test_every_command_of_the_pods_is_understood() -> None:
    """Options of `brewhouse` and `mlflow` in the manifests exist."""
    from typer.main import get_command

    from brewhouse.cli.main import app

    seen = set()
    for folder in APPLIED.values():
        for value in built(folder):
            for pod, _ in pods(value):
                for container in pod["containers"]:
                    command = [*container.get("command", []), *container.get("args", [])]
                    if command[:1] == ["brewhouse"]:
                        _understood(get_command(app), command[1:])
                        seen.add(command[1])
                    elif command[:2] == ["mlflow", "server"]:
                        _mlflow_understands(command[2:])
                        seen.add("mlflow")
    assert {"console", "drift", "mlflow"} <= seen


def _understood(group: Any, words: list[str]) -> None:
    import click

    context = click.Context(group, info_name="brewhouse")
    while isinstance(group, click.Group):
        called, group, words = group.resolve_command(context, words)
        context = click.Context(group, info_name=called, parent=context)
    group.parse_args(context, list(words))


@cache
def _mlflow_help() -> str:
    return subprocess.run(
        [str(BIN / "mlflow"), "server", "--help"], capture_output=True, text=True, check=True
    ).stdout


def _mlflow_understands(words: list[str]) -> None:
    for word in words:
        assert f"{word.partition('=')[0]} " in _mlflow_help(), word


def test_the_alerts_are_those_that_promtool_tests() -> None:
    made = subprocess.run(
        [
            sys.executable,
            "-c",
            "import runpy; print(runpy.run_path('tools/alert_rules.py')['manifest'](), end='')",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    there = (MANIFESTS / "components/alerts/rules.yaml").read_text()
    assert there == made, "run `make docs`"


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("yamllint", ["--strict", "manifests", "monitoring", ".github", ".yamllint.yaml"]),
        ("hadolint", ["Containerfile"]),
    ],
)
def test_linters_find_nothing(tool: str, arguments: list[str]) -> None:
    found = subprocess.run(
        [str(BIN / tool), *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
