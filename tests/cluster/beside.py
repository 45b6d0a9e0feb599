"""What a cluster has beside Brewhouse: names, Kubeflow Pipelines' Service, volumes, kinds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.kubernetes import DNS, HOST, NAME, Kubernetes
from tests.cluster.older import lowered
from tests.cluster.wait import kept, wait_for
from tests.conftest import SHARED

IMAGE = "localhost/brewhouse/beside:test"
_DOMAIN = "cluster.local"


def build() -> None:
    """The image, from the base of the image of the steps."""
    folder = Path(__file__).with_name("image")
    command = ["podman", "build", "--quiet", "--isolation", "chroot", "--format", "docker"]
    subprocess.run([*command, "--tag", IMAGE, str(folder)], check=True, capture_output=True)


def kinds(node: Kubernetes) -> None:
    """Custom resources of Trainer, Kueue, Kubeflow Pipelines, Feast, KServe and Prometheus."""
    found = [
        lowered(value)
        for path in sorted((SHARED / "crds").glob("*.yaml"))
        for value in yaml.safe_load_all(path.read_text())
    ]
    node.kubectl("apply", "--server-side", "-f", "-", sent=found)
    wait_for(lambda: node.get("crds"), lambda there: all(map(_established, there)), "kinds", 60)


def _established(kind: dict[str, Any]) -> bool:
    conditions = kind.get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def volumes(node: Kubernetes, count: int) -> None:
    """Volumes that anyone may write to, as a provisioner would make them on demand."""
    made = []
    for number in range(count):
        folder = node.folder / "volumes" / str(number)
        folder.mkdir(parents=True)
        folder.chmod(0o777)
        made.append(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"volume-{number}"},
                "spec": {
                    "capacity": {"storage": "100Gi"},
                    "accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                    "hostPath": {"path": str(folder)},
                },
            }
        )
    node.kubectl("apply", "-f", "-", sent=made)


def named(namespace: str) -> dict[str, Any]:
    """A namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}


def relay(node: Kubernetes, namespace: str, name: str, port: int, target: int) -> None:
    """A Service whose pod passes on to a server of the tests."""
    labels = {"app": name}
    command = ["socat", f"TCP-LISTEN:{port},fork,reuseaddr", f"TCP:{HOST}:{target}"]
    node.kubectl("apply", "-f", "-", sent=named(namespace))
    service = _service(name, namespace, labels, [("http", "TCP", port)])
    _make(node, namespace, [_pod(name, namespace, labels, command), service])


@contextmanager
def names(node: Kubernetes) -> Iterator[None]:
    """Names of Services, and of pods that have one, resolve for as long as the block lasts."""
    folder = node.folder / "names"
    folder.mkdir()
    folder.chmod(0o755)
    labels = {"k8s-app": "kube-dns"}
    command = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts"]
    command += ["--user=root", f"--local=/{_DOMAIN}/"]
    pod = _pod("kube-dns", "kube-system", labels, [*command, "--hostsdir=/names", "--pid-file"])
    pod["spec"]["volumes"] = [{"name": "names", "hostPath": {"path": str(folder)}}]
    pod["spec"]["containers"][0] |= {
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "names", "mountPath": "/names"}],
    }
    service = _service("kube-dns", "kube-system", labels, [("udp", "UDP", 53), ("tcp", "TCP", 53)])
    service["spec"]["clusterIP"] = DNS
    _make(node, "kube-system", [pod, service])
    written = ""

    def write() -> None:
        nonlocal written
        if (found := _addresses(node)) != written:
            (folder / "all").write_text(found)
            written = found

    with kept(write, 0.5, "names"):
        there = ("pod/kube-dns", "-n", "kube-system")
        node.kubectl("wait", "--for=condition=Ready", *there, "--timeout=60s")
        yield


def _make(node: Kubernetes, namespace: str, objects: list[Any]) -> None:
    """Once the namespace has the account that pods take."""
    accounts = ("serviceaccounts", "--namespace", namespace)
    wait_for(lambda: node.get(*accounts), bool, "an account", 60)
    node.kubectl("apply", "-f", "-", sent=objects)


def _addresses(node: Kubernetes) -> str:
    found = []
    for service in node.listed("/api/v1/services"):
        if (address := service["spec"].get("clusterIP", "None")) != "None":
            found.append(f"{address} {service['metadata']['name']}.{_within(service)}")
    for pod in node.listed("/api/v1/pods"):
        spec = pod["spec"]
        if spec.get("subdomain") and (address := pod["status"].get("podIP")):
            found.append(f"{address} {spec['hostname']}.{spec['subdomain']}.{_within(pod)}")
    return "".join(f"{line}\n" for line in sorted(found))


def _within(value: dict[str, Any]) -> str:
    return f"{value['metadata']['namespace']}.svc.{_DOMAIN}"


def _pod(name: str, namespace: str, labels: dict[str, str], command: list[str]) -> dict[str, Any]:
    container = {"name": name, "image": IMAGE, "command": command}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {"containers": [container], "nodeName": NAME, "enableServiceLinks": False},
    }


def _service(
    name: str, namespace: str, labels: dict[str, str], ports: list[tuple[str, str, int]]
) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "selector": labels,
            "ports": [{"name": n, "protocol": p, "port": port} for n, p, port in ports],
        },
    }
