"""A cluster, and on it a team's namespace, installed by typing what the guide for kind says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster import beside, firewall, kubernetes
from tests.cluster.team import Team
from tests.conftest import ROOT, SHARED
from tests.kfp.server import serve as serve_pipelines

GUIDE = ROOT / "docs" / "how-to" / "install-on-kind.md"
PRELUDE = f"""
set -euo pipefail
# Not here: the cluster is there, and so are its images.
kind() {{ :; }}; make() {{ :; }}; podman() {{ :; }}; tools/image.sh() {{ :; }}
kubectl() {{
  if [ "$1" = apply ] && [ "$3" = -k ]; then
    command kubectl kustomize "$4" | {sys.executable} -m tests.cluster.older |
      command kubectl apply --server-side --force-conflicts -f -
  else command kubectl "$@"; fi
}}
"""
RELEASE = """BREWHOUSE_DATABASE_URI=postgresql+psycopg://brewhouse:try@postgres/brewhouse
BREWHOUSE_TRACKING_URI=http://mlflow:5000
BREWHOUSE_APPROVALS=local
BREWHOUSE_MODEL_NAME=ranker
BREWHOUSE_SIGNING_KEY=/etc/brewhouse/keys/ledger.pem
BREWHOUSE_TRUSTED_KEYS=/etc/brewhouse/keys
BREWHOUSE_KFP_HOST=http://ml-pipeline.kubeflow:8888
"""


@pytest.fixture(scope="package")
def node(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[kubernetes.Kubernetes]:
    """A node with names, kinds, volumes and images, on which NetworkPolicies hold."""
    if absent := kubernetes.missing(tmp_path_factory.getbasetemp()):
        pytest.skip(f"no node can run here: needs {', '.join(absent)}")
    if not (SHARED / "crds").is_dir():
        pytest.skip("CRD folder ../shared/crds is absent")
    folder = tmp_path_factory.mktemp("node")
    with kubernetes.running(folder) as found:
        beside.build()
        found.load(beside.IMAGE)
        with ThreadPoolExecutor(1) as beside_us:
            # By far the largest.
            loaded = beside_us.submit(found.load, image)
            beside.kinds(found)
            beside.volumes(found, 4)
            with beside.names(found), firewall.enforced(found):
                loaded.result()
                yield found


@pytest.fixture(scope="package")
def team(
    node: kubernetes.Kubernetes, image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Team]:
    """The overlay `local`, as the guide for kind installs it, but for its last two blocks."""
    folder = tmp_path_factory.mktemp("team")
    shutil.copytree(ROOT / "manifests", folder / "manifests")
    (folder / "release.env").write_text(RELEASE)
    environment = os.environ | {
        "KUBECONFIG": str(node.kubeconfig),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "IMAGE": image,
    }
    with serve_pipelines(host=kubernetes.HOST) as (pipelines, address):
        beside.relay(node, "kubeflow", "ml-pipeline", 8888, int(address.rpartition(":")[2]))
        found = Team(node, folder, pipelines, image, environment)
        shown = re.findall(r"^```bash\n(.*?)^```", GUIDE.read_text(), re.M | re.S)
        *blocks, found.submits, found.asks = shown
        # Its images are there under names of their own.
        text = "".join(blocks)
        for told, here in (
            ('newName: postgres, newTag: "16"', _named(beside.IMAGE)),
            ("newName: localhost/brewhouse/steps, newTag: dev", _named(image)),
        ):
            assert told in text
            text = text.replace(told, here)
        found.typed = found.shell(PRELUDE + text)
        # Jobs are started by tests, at whatever hour they run.
        found.kubectl("patch", "cronjob", "drift-monitor", "-p", '{"spec": {"suspend": true}}')
        yield found


def _named(image: str) -> str:
    name, _, tag = image.rpartition(":")
    return f'newName: {name}, newTag: "{tag}"'
