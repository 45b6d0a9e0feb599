"""What the install guides tell to type, typed with the real kubectl, as it stands in their blocks.

The API server is ours: it validates what is applied, asks for the namespace first, keeps field
owners. What needs a node, a release or Kubeflow Pipelines, port-forward among it, is left out.
"""

from __future__ import annotations

import base64
import copy
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from tests.kube.server import Cluster, serve
from tests.kube.test_manifests import built

GUIDES = ROOT / "docs" / "how-to"
PRELUDE = """
set -euo pipefail
# Not here: a cluster's nodes, images, a release, and what runs once all of it is there.
curl() { :; }; kind() { :; }; make() { :; }; podman() { :; }; tar() { :; }; sha256sum() { :; }
tools/image.sh() { :; }
brewhouse() { case "$1" in ledger) command brewhouse "$@" ;; esac; }
kubectl() { case "$1" in port-forward) ;; *) command kubectl "$@" ;; esac; }
"""
FILES = {
    "mlflow.env": "MLFLOW_BACKEND_STORE_URI=postgresql+psycopg://mlflow:try@db/mlflow\n",
    "release.env": "BREWHOUSE_TRACKING_URI=http://mlflow:5000\nBREWHOUSE_APPROVALS=local\n",
}
"""What a reader has written by then, beside the files that the page shows."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """An empty cluster with two nodes, which kubectl reaches, and a folder to stand in."""
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    shutil.copytree(ROOT / "manifests", tmp_path / "manifests")
    shown = re.findall(
        r"^```yaml\n# (\S+)\n(.*?)^```", (GUIDES / "install.md").read_text(), re.M | re.S
    )
    for name, text in [*FILES.items(), *shown]:
        (tmp_path / name).write_text(text)
    with serve() as (held, address):
        held.strict = True
        for node in ("NODE", "brewhouse-control-plane"):
            value = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}}
            value["status"] = {"capacity": {}}
            held.objects["v1", "nodes", "", node] = value
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ours", "cluster": {"server": address}}],
            "contexts": [{"name": "ours", "context": {"cluster": "ours", "user": ""}}],
            "current-context": "ours",
        }
        (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("HOME", str(tmp_path))
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        monkeypatch.setenv("PATH", path)
        yield held


def _typed(page: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Type all blocks of a page, one after another, in one shell."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (GUIDES / page).read_text(), re.M | re.S)
    return subprocess.run(
        ["bash", "-c", PRELUDE + "".join(blocks)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("page", "applied", "secrets"),
    [
        (
            "install.md",
            ("manifests/cluster", "manifests/overlays/prod"),
            {
                "brewhouse-console": {"secret"},
                "brewhouse-mlflow": {"MLFLOW_BACKEND_STORE_URI"},
                "brewhouse-release": {"BREWHOUSE_TRACKING_URI", "BREWHOUSE_APPROVALS"},
                "brewhouse-feast": {
                    "redis",
                    "sql",
                    "BREWHOUSE_FEAST_ENV",
                    "BREWHOUSE_FEAST_REDIS",
                    "BREWHOUSE_FEAST_REGISTRY",
                },
            },
        ),
        (
            "install-on-kind.md",
            ("my",),
            {
                "brewhouse-console": {"secret"},
                "brewhouse-mlflow": {"MLFLOW_BACKEND_STORE_URI"},
                "brewhouse-postgres": {"POSTGRES_PASSWORD"},
                "brewhouse-release": {"BREWHOUSE_TRACKING_URI", "BREWHOUSE_APPROVALS"},
            },
        ),
    ],
)
def test_the_guide_s_commands_leave_what_it_promises(
    cluster: Cluster,
    tmp_path: Path,
    page: str,
    applied: tuple[str, ...],
    secrets: dict[str, set[str]],
) -> None:
    done = _typed(page, tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    there = {(v["kind"], v["metadata"]["name"]) for v in cluster.objects.values()}
    for folder in applied:
        missing = {(o["kind"], o["metadata"]["name"]) for o in built(tmp_path / folder)} - there
        assert not missing
    for name, keys in secrets.items():
        secret = cluster.objects["v1", "secrets", "ranker", name]
        assert set(secret.get("data") or secret["stringData"]) == keys
    keys = set(cluster.objects["v1", "secrets", "ranker", "brewhouse-signing-key"]["data"])
    assert "ledger.pem" in keys
    assert len([key for key in keys if key.endswith(".pub")]) == 1
    # Every secret that something names is made.
    for value in cluster.objects.values():
        for named in _secrets(value):
            assert ("Secret", named) in there, (value["metadata"]["name"], named)
    secret = cluster.objects["v1", "secrets", "ranker", "brewhouse-console"]["data"]["secret"]
    assert len(base64.b64decode(secret)) >= 32
    nodes = {key[3]: value for key, value in cluster.objects.items() if key[1] == "nodes"}
    node = nodes["NODE" if page == "install.md" else "brewhouse-control-plane"]
    assert node["metadata"]["labels"] == {"brewhouse.dev/pool": "h100"}
    if page == "install-on-kind.md":
        assert node["status"]["capacity"] == {"nvidia.com/gpu": "2"}
    before = _without_bookkeeping(cluster)
    for folder in applied:
        subprocess.run(
            ["kubectl", "apply", "--server-side", "-k", folder],
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )
    assert _without_bookkeeping(cluster) == before


def _secrets(value: Any) -> Iterator[str]:
    """Names of secrets within an object that must be there."""
    if isinstance(value, list):
        for part in value:
            yield from _secrets(part)
    if not isinstance(value, dict):
        return
    for field, part in value.items():
        if field in ("secretRef", "secretKeyRef") and not part.get("optional"):
            yield part["name"]
        elif field == "secret" and isinstance(part, dict) and not part.get("optional"):
            yield part.get("secretName") or part["name"]
        else:
            yield from _secrets(part)


def _without_bookkeeping(cluster: Cluster) -> dict[Any, Any]:
    found = copy.deepcopy(cluster.objects)
    for value in found.values():
        for field in ("managedFields", "resourceVersion"):
            value["metadata"].pop(field, None)
    return found


def test_without_its_namespace_nothing_is_taken(cluster: Cluster, tmp_path: Path) -> None:
    """That the server is no easier than a real one."""
    secret = ["kubectl", "create", "secret", "generic", "x", "-n", "absent", "--from-literal=a=b"]
    done = subprocess.run(secret, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'namespaces "absent" not found' in done.stderr
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: default}\ndatum: {}\n"
    )
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}
    cluster.objects["v1", "namespaces", "", "default"] = namespace
    done = subprocess.run(
        ["kubectl", "apply", "--server-side", "-f", str(wrong)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "datum" in done.stderr
