"""An API server for a test: ours, or a real control plane where one is named."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import yaml
from kubernetes import client

from brewhouse.platform.launcher import connect
from tests.conftest import ROOT
from tests.kube.schema import CRDS
from tests.kube.server import Cluster, Right, serve
from tools.access_table import rights

ROLE = ROOT / "manifests" / "components" / "training" / "rbac.yaml"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kube" in str(item.path) and not CRDS.is_dir():
            item.add_marker(pytest.mark.skip(reason="CRD folder ../shared/crds is absent"))


CALLS: set[Right] = set()
"""What the launcher asked for in all tests of this session."""


@pytest.fixture
def fake() -> Iterator[tuple[Cluster, client.ApiClient]]:
    """Our server, with what it holds; it grants what the manifests grant the training step."""
    role = next(
        value
        for value in yaml.safe_load_all(ROLE.read_text())
        if value["metadata"]["name"] == "brewhouse-train-ranker" and value["kind"] == "Role"
    )
    with serve() as (cluster, address):
        cluster.allowed = rights(role)
        yield cluster, connect(address)
        CALLS.update(cluster.calls)


@pytest.fixture(params=["ours", "envtest"])
def api(request: pytest.FixtureRequest) -> Iterator[client.ApiClient]:
    """Ours, and kube-apiserver with etcd from `KUBEBUILDER_ASSETS`."""
    if request.param == "ours":
        with serve() as (_, address):
            yield connect(address)
    else:
        assets = os.environ.get("KUBEBUILDER_ASSETS")
        if not assets:
            pytest.skip("no control plane: KUBEBUILDER_ASSETS is not set")
        from tests.kube.envtest import control_plane

        with control_plane(assets) as real:
            yield real
