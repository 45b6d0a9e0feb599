"""A Kubernetes of one node on this machine, gone with the process that started it.

Its binaries are those of `tools/kubernetes.sh`; containerd, CNI plugins and etcd are Debian's. All
of it runs in process, mount and network namespaces of its own, as a node of kind does: nothing
listens on the machine's addresses, and its firewall is the node's alone. A cable between the two
carries what tests ask. A kubelet sets a few values of the kernel for all namespaces; they are set
back.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config

from tests.conftest import ROOT

BINARIES = ROOT / "build" / "kubernetes"
HOST, NODE = "10.243.0.1", "10.243.0.2"
"""Ends of the cable."""
NAME = "brewhouse-control-plane"
"""As kind would call the node."""
PODS, SERVICES, DNS = "10.244.0.0/24", "10.96.0.0/16", "10.96.0.10"
TOOLS = (
    *("conntrack", "containerd", "curl", "etcd", "ip", "iptables", "kubectl", "nft", "nsenter"),
    *("openssl", "podman", "runc", "setpriv", "sysctl", "unshare"),
)
_DISK_GIB = 14
"""What unpacked images take, and the archives that they come from until then."""
_WAIT_S = 120
_PROC = Path("/proc/sys")
_TUNED = (
    *("kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic"),
    *("kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom"),
)
_CNI = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "bridge",
            "bridge": "pods",
            "isGateway": True,
            "ipMasq": True,
            "hairpinMode": True,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


def missing(folder: Path) -> list[str]:
    """What this machine lacks to run a node that keeps its images below a folder."""
    found = [tool for tool in TOOLS if shutil.which(tool) is None]
    found += [] if os.geteuid() == 0 else ["root"]
    found += [] if (BINARIES / "stamp").is_file() else ["`make kubernetes`"]
    found += [] if Path("/proc/sys/net/bridge").is_dir() else ["the kernel's br_netfilter"]
    if not found:
        spaces = ["--fork", "--pid", "--mount", "--net", "--uts"]
        done = subprocess.run(["unshare", *spaces, "true"], check=False, capture_output=True)
        found += [] if done.returncode == 0 else ["namespaces of its own"]
    free = shutil.disk_usage(folder).free / 2**30
    found += [] if free > _DISK_GIB else [f"{_DISK_GIB} GiB of disk ({free:.0f} are free)"]
    return found + (
        [] if Path("/usr/lib/cni/bridge").is_file() else ["containernetworking-plugins"]
    )


@dataclass
class Kubernetes:
    """A node that is up.

    Attributes:
        folder: Logs, keys, images, and volumes of the node.
        pid: Of the first process in its namespaces.
    """

    folder: Path
    pid: int

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "admin.conf"

    @cached_property
    def api(self) -> client.ApiClient:
        """Of the Python client."""
        return config.new_client_from_config(str(self.kubeconfig))

    def kubectl(self, *arguments: str, sent: Any = None, timeout: float = 300) -> str:
        """What kubectl prints; `sent` goes to its standard input as YAML.

        Raises:
            AssertionError: It failed.
        """
        given = yaml.safe_dump_all(sent if isinstance(sent, list) else [sent]) if sent else None
        done = subprocess.run(
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, *arguments: str) -> Any:
        """An object, or the items of a list."""
        found = json.loads(self.kubectl("get", *arguments, "--output", "json"))
        return found.get("items", found)

    def listed(self, path: str) -> list[Any]:
        """Items of a collection of the API; cheap enough to be asked all the time."""
        found, *_ = self.api.call_api(path, "GET", response_type="object")
        return list(found["items"])

    def inside(self, *command: str, given: str | None = None) -> str:
        """What a command prints within the node's namespaces."""
        done = subprocess.run(
            [*self._enter(), *command], input=given, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def _enter(self) -> list[str]:
        return ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid"]

    def load(self, *images: str) -> None:
        """Give the node images that podman has."""
        socket = ["--address", str(self.folder / "containerd.sock"), "--namespace", "k8s.io"]
        for image in images:
            save = ["podman", "save", "--quiet", image]
            with subprocess.Popen(save, stdout=subprocess.PIPE) as saved:
                done = subprocess.run(
                    [*self._enter(), "ctr", *socket, "images", "import", "-"],
                    stdin=saved.stdout,
                    capture_output=True,
                    text=True,
                    check=False,
                )
            assert (saved.returncode, done.returncode) == (0, 0), f"{image}: {done.stderr}"
        # Layers are unpacked; as archives they would lie here a second time.
        for line in self.inside("ctr", *socket, "content", "ls").splitlines()[1:]:
            digest, size, *_ = line.split()
            if size.endswith(("MB", "MiB", "GB", "GiB")):
                self.inside("ctr", *socket, "content", "rm", digest)


@contextmanager
def running(folder: Path) -> Iterator[Kubernetes]:
    """A node that is ready, with nothing on it."""
    _sweep()
    if _pods_groups():
        msg = "a kubelet runs on this machine; a second one would take its pods for strangers"
        raise RuntimeError(msg)
    for name in ("logs", "pki", "cni"):
        (folder / name).mkdir()
    _keys(folder)
    (folder / "cni" / "pods.conflist").write_text(json.dumps(_CNI))
    (folder / "containerd.toml").write_text(_containerd(folder))
    (folder / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(folder)))
    environment = os.environ | {
        "NODE_ADDRESS": NODE,
        "NODE_NAME": NAME,
        "HOST_ADDRESS": HOST,
        "PODS": PODS,
        "SERVICES": SERVICES,
    }
    namespaces = ["--fork", "--kill-child", "--pid", "--mount", "--mount-proc", "--net", "--uts"]
    guarded, script = ["setpriv", "--pdeathsig", "KILL"], Path(__file__).with_name("node.sh")
    with (folder / "logs" / "node.log").open("w") as log:
        process = subprocess.Popen(
            [*guarded, "unshare", *namespaces, script, BINARIES, folder],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=environment,
        )
    try:
        with _tunables():
            _until(lambda: (folder / "up").exists(), process, folder, "namespaces")
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
            pid = int(children.read_text().split()[0])
            _cable(pid)
            node = Kubernetes(folder, pid)
            _until((folder / "containerd.sock").exists, process, folder, "containerd")
            _pause(folder)
            node.load("localhost/brewhouse/pause:test")

            def ready() -> bool:
                with suppress(AssertionError):
                    found = node.get("node", NAME)["status"]["conditions"]
                    return any(c["type"] == "Ready" and c["status"] == "True" for c in found)
                return False

            _until(ready, process, folder, "the node")
            yield node
    finally:
        process.kill()
        process.wait(30)
        subprocess.run(["ip", "link", "delete", "node0"], check=False, capture_output=True)
        _sweep()
        # Logs stay; images would fill the disk run by run.
        for name in ("containerd", "containerd-state", "etcd", "kubelet"):
            shutil.rmtree(folder / name, ignore_errors=True)


def _until(done: Any, process: subprocess.Popen[bytes], folder: Path, what: str) -> None:
    deadline = time.monotonic() + _WAIT_S
    while not done():
        if process.poll() is not None or time.monotonic() > deadline:
            logs = sorted((folder / "logs").glob("*.log"))
            told = "\n".join(f"== {log.name}\n{log.read_text()[-1500:]}" for log in logs)
            msg = f"{what} did not come up\n{told}"
            raise RuntimeError(msg)
        time.sleep(0.2)


def _cable(pid: int) -> None:
    """A pair of interfaces, one of them the node's. Pods come out under the node's address."""
    for command in (
        f"link add node0 type veth peer name node1 netns {pid}",
        f"address add {HOST}/30 dev node0",
        "link set node0 up",
    ):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def _pods_groups() -> list[Path]:
    """Control groups of pods, as a kubelet names them."""
    root = Path("/sys/fs/cgroup")
    return [*root.glob("kubepods"), *root.glob("*/kubepods")]


def _sweep() -> None:
    """Remove the control groups that pods of a node that is gone leave."""
    for root in _pods_groups():
        for path, _, _ in os.walk(root, topdown=False):
            for _ in range(50):
                with suppress(OSError):
                    Path(path).rmdir()
                    break
                time.sleep(0.1)


@contextmanager
def _tunables() -> Iterator[None]:
    """Give the machine's kernel back what a kubelet sets for all namespaces."""
    before = {name: path.read_text() for name in _TUNED if (path := _PROC / name).exists()}
    try:
        yield
    finally:
        for name, value in before.items():
            (_PROC / name).write_text(value)


def _pause(folder: Path) -> None:
    """The image of a pod's first container."""
    build = folder / "pause"
    build.mkdir()
    shutil.copy(BINARIES / "pause", build / "pause")
    (build / "Containerfile").write_text(
        'FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT ["/pause"]\n'
    )
    command = ["podman", "build", "--quiet", "--tag", "localhost/brewhouse/pause:test", str(build)]
    subprocess.run(command, check=True, capture_output=True)


def _keys(folder: Path) -> None:
    """An authority, and who it knows."""
    pki = folder / "pki"

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=pki, check=True, capture_output=True)

    openssl("genrsa", "-out", "accounts.key", "2048")
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=ca"),
        *("-keyout", "ca.key", "-out", "ca.crt"),
    )
    names = f"IP:{NODE},IP:10.96.0.1,DNS:kubernetes.default.svc"
    for name, subject in {
        "apiserver": "/CN=kube-apiserver",
        "admin": "/O=system:masters/CN=admin",
        "controllers": "/CN=system:kube-controller-manager",
        "scheduler": "/CN=system:kube-scheduler",
        "proxy": "/CN=system:kube-proxy",
        "kubelet": f"/O=system:nodes/CN=system:node:{NAME}",
    }.items():
        (pki / "of.cnf").write_text(
            f"subjectAltName={names}\nextendedKeyUsage=clientAuth,serverAuth\n"
        )
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject),
            *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
        )
        openssl(
            *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
            *("-CAcreateserial", "-days", "2", "-extfile", "of.cnf", "-out", f"{name}.crt"),
        )
        if name == "apiserver":
            continue
        cluster = {"server": f"https://{NODE}:6443", "certificate-authority": str(pki / "ca.crt")}
        user = {
            "client-certificate": str(pki / f"{name}.crt"),
            "client-key": str(pki / f"{name}.key"),
        }
        known = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "node", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "node", "context": {"cluster": "node", "user": name}}],
            "current-context": "node",
        }
        (folder / f"{name}.conf").write_text(yaml.safe_dump(known))


def _containerd(folder: Path) -> str:
    return f"""version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"
[grpc]
  address = "{folder}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "localhost/brewhouse/pause:test"
  # A machine may not let even root take itself out of the reach of the out-of-memory killer.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{folder}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
"""


def _kubelet(folder: Path) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(folder / "pki" / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "cgroupDriver": "cgroupfs",
        "clusterDNS": [DNS],
        "clusterDomain": "cluster.local",
        "evictionHard": {"memory.available": "100Mi"},
        "failSwapOn": False,
        "imageGCHighThresholdPercent": 100,
        "tlsCertFile": str(folder / "pki" / "kubelet.crt"),
        "tlsPrivateKeyFile": str(folder / "pki" / "kubelet.key"),
    }
