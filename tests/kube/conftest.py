"""An API server for a test: ours, or a real control plane where one is named."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from kubernetes import client

from brewhouse.platform.launcher import connect
from tests.kube.schema import CRDS
from tests.kube.server import Cluster, serve


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "kube" in str(item.path) and not CRDS.is_dir():
            item.add_marker(pytest.mark.skip(reason="CRD folder ../shared/crds is absent"))


@pytest.fixture
def fake() -> Iterator[tuple[Cluster, client.ApiClient]]:
    """Our server, with what it holds."""
    with serve() as (cluster, address):
        yield cluster, connect(address)


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
