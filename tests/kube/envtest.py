"""A real control plane (kube-apiserver and etcd) for the contract tests."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from kubernetes import client, utils
from kubernetes.client.exceptions import ApiException

from tests.cluster.older import lowered
from tests.kube.schema import CRDS

CEL_SINCE = 25
"""Minor version of Kubernetes from which on custom resources have rules."""
_TOKEN = "token-of-a-test"  # noqa: S105 - of a server that lives as long as one test

_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command that ends when this process does, however that ends."""


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def control_plane(assets: Path) -> Iterator[client.ApiClient]:
    """Start both on loopback, install the CRDs, stop both by pid at the end."""
    peer, store, secure = _port(), _port(), _port()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "tokens.csv").write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
        key = work / "sa.key"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True)
        etcd = subprocess.Popen(
            [
                *_WITH_US,
                f"{assets}/etcd",
                f"--data-dir={work}/etcd",
                f"--listen-client-urls=http://127.0.0.1:{store}",
                f"--advertise-client-urls=http://127.0.0.1:{store}",
                f"--listen-peer-urls=http://127.0.0.1:{peer}",
            ]
        )
        server = subprocess.Popen(
            [
                *_WITH_US,
                f"{assets}/kube-apiserver",
                f"--etcd-servers=http://127.0.0.1:{store}",
                "--bind-address=127.0.0.1",
                f"--secure-port={secure}",
                f"--cert-dir={work}/certs",
                f"--token-auth-file={work}/tokens.csv",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://localhost",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--disable-admission-plugins=ServiceAccount",
            ]
        )
        try:
            settings = client.Configuration()
            settings.host, settings.ssl_ca_cert = (
                f"https://127.0.0.1:{secure}",
                str(work / "certs/apiserver.crt"),
            )
            settings.api_key = {"authorization": f"Bearer {_TOKEN}"}
            api = client.ApiClient(settings)
            _wait(api)
            told = client.VersionApi(api).get_code()
            for path in CRDS.glob("trainer*.yaml"):
                value = yaml.safe_load(path.read_text())
                knows = int(told.minor.rstrip("+")) >= CEL_SINCE
                utils.create_from_dict(api, value if knows else lowered(value))
            time.sleep(3)
            yield api
        finally:
            for process in (server, etcd):
                process.terminate()
                process.wait(30)


def _wait(api: client.ApiClient) -> None:
    for _ in range(120):
        try:
            client.CoreV1Api(api).read_namespace("default")
            return
        except (ApiException, OSError):
            time.sleep(0.5)
        except Exception:  # urllib3's own, while the port is closed.
            time.sleep(0.5)
    msg = "the control plane did not come up"
    raise RuntimeError(msg)
