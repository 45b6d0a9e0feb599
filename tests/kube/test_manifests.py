"""Manifests: they build, pass schemas and CEL rules, and keep the house's rules for every pod."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import kubernetes_validate
import pytest
import yaml

from brewhouse.platform.launcher import Launcher
from brewhouse.platform.trainjob import GROUP, PLURAL, ClusterSpec
from tests.conftest import ROOT
from tests.kube.schema import crds

FOLDERS = sorted(p.parent for p in (ROOT / "manifests").rglob("kustomization.yaml"))
VERSIONS = ("1.33", "1.34", "1.35")


def built(folder: Any) -> list[dict[str, Any]]:
    """Objects of a kustomization."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    found = subprocess.run(
        ["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    return [o for o in yaml.safe_load_all(found.stdout) if o]


def pods(value: Any) -> Iterator[dict[str, Any]]:
    """Pod specs anywhere in an object: in runtimes and job templates too."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list):
            yield value
        for part in value.values():
            yield from pods(part)
    elif isinstance(value, list):
        for part in value:
            yield from pods(part)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_they_build_and_pass_their_schemas(folder: Any) -> None:
    for value in built(folder):
        key = (value["apiVersion"], value["kind"])
        if key in crds():
            crds()[key].admit(value)
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(value, version, strict=True)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda f: f.name)
def test_every_pod_keeps_the_rules(folder: Any) -> None:
    for value in built(folder):
        for pod in pods(value):
            context = pod["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["seccompProfile"]["type"] == "RuntimeDefault"
            assert pod["serviceAccountName"] not in ("", "default")
            assert pod["automountServiceAccountToken"] is False
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                own = container["securityContext"]
                assert own["allowPrivilegeEscalation"] is False
                assert own["readOnlyRootFilesystem"] is True
                assert own["capabilities"]["drop"] == ["ALL"]
                assert "@sha256:" in container["image"]
                assert {"cpu", "memory"} <= set(container["resources"]["limits"])


def test_a_job_finds_the_queue_the_runtime_and_its_container() -> None:
    objects = {(o["kind"], o["metadata"]["name"]): o for o in built(ROOT / "manifests/training")}
    runtime = objects["ClusterTrainingRuntime", ClusterSpec(namespace="n").runtime]
    job = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]
    assert job["name"] == "node"
    spec = job["template"]["spec"]
    assert [c["name"] for c in spec["template"]["spec"]["containers"]] == ["node"]
    retried = spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]
    assert retried == [75]
    queue = objects["LocalQueue", "gpu"]["spec"]["clusterQueue"]
    covered = objects["ClusterQueue", queue]["spec"]["resourceGroups"][0]
    flavors = {f["name"] for f in covered["flavors"]}
    assert flavors == {name for kind, name in objects if kind == "ResourceFlavor"}
    assert ("PersistentVolumeClaim", "training") in objects
    assert ("WorkloadPriorityClass", "retrain") in objects


def test_the_role_allows_what_the_launcher_does() -> None:
    """Every call that the launcher's clients can make from its code is in the role."""
    import inspect

    objects = {(o["kind"], o["metadata"]["name"]): o for o in built(ROOT / "manifests/training")}
    rules = objects["Role", "brewhouse-train-ranker"]["rules"]
    allowed = {(r["apiGroups"][0], x, v) for r in rules for x in r["resources"] for v in r["verbs"]}
    source = inspect.getsource(Launcher)
    needed = {
        "create_namespaced_custom_object": (GROUP, PLURAL, "create"),
        "get_namespaced_custom_object": (GROUP, PLURAL, "get"),
        "patch_namespaced_custom_object": (GROUP, PLURAL, "patch"),
        "delete_namespaced_custom_object": (GROUP, PLURAL, "delete"),
        "list_namespaced_pod": ("", "pods", "list"),
        "read_namespaced_pod_log": ("", "pods/log", "get"),
    }
    called = {name for name in needed if name in source}
    assert called == set(needed)
    assert {needed[name] for name in called} <= allowed
    assert not [r for r in rules if "*" in r["verbs"] or "*" in r["resources"]]
