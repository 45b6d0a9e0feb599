"""An API server for a test: ours, or a real control plane where one is named."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubernetes import client

from brewhouse.platform.launcher import connect
from brewhouse.platform.trainjob import GROUP, PLURAL, VERSION
from tests.cluster.kubernetes import BINARIES
from tests.conftest import ROOT
from tests.kube.envtest import CEL_SINCE, control_plane
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


@pytest.fixture(scope="module")
def real() -> Iterator[client.ApiClient]:
    """kube-apiserver and etcd of `KUBEBUILDER_ASSETS`, or those of `make kubernetes`."""
    assets = Path(os.environ.get("KUBEBUILDER_ASSETS") or BINARIES)
    if not (assets / "kube-apiserver").is_file():
        pytest.skip("no control plane: run `make kubernetes` or set KUBEBUILDER_ASSETS")
    with control_plane(assets) as found:
        yield found


@pytest.fixture(params=["ours", "real"])
def api(request: pytest.FixtureRequest) -> Iterator[client.ApiClient]:
    """Ours, and the real one."""
    if request.param == "ours":
        with serve() as (_, address):
            yield connect(address)
        return
    found = request.getfixturevalue("real")
    yield found
    jobs = client.CustomObjectsApi(found)
    where = (GROUP, VERSION, "default", PLURAL)
    jobs.delete_collection_namespaced_custom_object(*where)
    while jobs.list_namespaced_custom_object(*where)["items"]:
        time.sleep(0.1)


@pytest.fixture
def has_rules(api: client.ApiClient) -> bool:
    """Whether the server knows CEL rules of custom resources, as those from 1.25 on do."""
    told = client.VersionApi(api).get_code() if api.configuration.ssl_ca_cert else None
    return told is None or int(told.minor.rstrip("+")) >= CEL_SINCE
