"""A pod of the manifests, run by podman as a kubelet would run it.

User, groups, capabilities, read-only root, limits of cores, memory and scratch, command, variables
from secrets, and volumes with the owners and modes that a kubelet gives them are the pod's own. The
network is the machine's, so that a Service's name is a name of loopback: network policies do not
hold here, nor do seccomp profiles and deadlines.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from kubernetes.utils.quantity import parse_quantity

from tests.conftest import ROOT

NAMED = "brewhouse-test-"
"""How the containers' names begin."""
USER = 10001
"""Of the image, and of every pod of the manifests that runs it."""


@dataclass
class Namespace:
    """What an overlay puts into a namespace, with the secrets that its guide makes.

    Attributes:
        objects: Rendered manifests.
        folder: Where claims and mounted files lie.
        image: What runs in place of the image that the manifests name.
        secrets: Data of secrets by name.
    """

    objects: list[dict[str, Any]]
    folder: Path
    image: str
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, overlay: str, folder: Path, image: str) -> Namespace:
        """An overlay, rendered."""
        built = subprocess.run(
            ["kubectl", "kustomize", str(ROOT / "manifests" / "overlays" / overlay)],
            capture_output=True,
            text=True,
            check=True,
        )
        return cls(list(yaml.safe_load_all(built.stdout)), folder, image)

    def find(self, kind: str, name: str) -> dict[str, Any]:
        return next(o for o in self.objects if (o["kind"], o["metadata"]["name"]) == (kind, name))

    def pod(self, kind: str, name: str) -> dict[str, Any]:
        """The pod's spec within a workload."""
        spec: dict[str, Any] = self.find(kind, name)["spec"]
        while "template" in spec or "jobTemplate" in spec:
            spec = spec.get("jobTemplate", spec.get("template"))["spec"]
        return spec

    def claim(self, name: str) -> Path:
        """Folder of a persistent volume claim; new ones belong to the pods' group."""
        self.find("PersistentVolumeClaim", name)
        folder = self.folder / "claims" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            os.chown(folder, 0, USER)
            folder.chmod(0o2775)
        return folder

    def data(self, name: str) -> dict[str, str]:
        """Data of a generated ConfigMap, whose name ends in a hash."""
        found: dict[str, str] = next(
            o["data"]
            for o in self.objects
            if o["kind"] == "ConfigMap" and o["metadata"]["name"].rpartition("-")[0] == name
        )
        return found

    def services(self) -> dict[str, str]:
        """Addresses by name of Service."""
        return {o["metadata"]["name"]: "127.0.0.1" for o in self.objects if o["kind"] == "Service"}

    def mounted(self, secret: str, *, mode: int = 0o440) -> Path:
        """Folder of a secret's files."""
        return self._written(secret, self.secrets[secret], mode)

    def _written(self, name: str, files: dict[str, str], mode: int) -> Path:
        folder = self.folder / "mounts" / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in files.items():
            (folder / file).write_text(text)
            os.chown(folder / file, 0, USER)
            (folder / file).chmod(mode)
        return folder

    @contextmanager
    def running(self, name: str) -> Iterator[Server]:
        """A Deployment's pod, from the moment that its probes succeed until the block ends."""
        pod = self.pod("Deployment", name)
        log = self.folder / f"{name}.log"
        with log.open("w") as out:
            process = subprocess.Popen(self._command(pod, NAMED + name), stdout=out, stderr=out)
        server = Server(name, pod["containers"][0], process, log)
        try:
            server.wait()
            yield server
        finally:
            subprocess.run(["podman", "stop", "-t", "20", NAMED + name], check=False)
            process.wait(60)

    def run(self, name: str) -> subprocess.CompletedProcess[str]:
        """A CronJob's pod, to its end."""
        return subprocess.run(
            self._command(self.pod("CronJob", name), NAMED + name),
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    def _command(self, pod: dict[str, Any], name: str) -> list[str]:
        (container,) = pod["containers"]
        user, own = pod["securityContext"], container["securityContext"]
        limits = container["resources"]["limits"]
        told = [
            *(
                "podman",
                "--runtime",
                "runc",
                "run",
                "--rm",
                "--replace",
                "--name",
                name,
                "--network",
                "host",
            ),
            *("--user", f"{user['runAsUser']}:{user['runAsGroup']}"),
            *("--group-add", str(user["fsGroup"])),
            *("--memory", _bytes(limits["memory"]), "--cpus", limits["cpu"]),
            *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"),
        ]
        told += [f"--cap-drop={drop}" for drop in own["capabilities"]["drop"]]
        told += [] if own["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]
        told += ["--read-only", "--read-only-tmpfs=false"] if own["readOnlyRootFilesystem"] else []
        for service, address in self.services().items():
            told += ["--add-host", f"{service}:{address}"]
        # By a file: a command line is everybody's to read.
        told += ["--env-file", str(self._environment(name, container))]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            told += self._mount(volumes[mount["name"]], mount)
        # A command replaces the image's own entry point.
        first, *rest = container["command"]
        return [*told, "--entrypoint", first, self.image, *rest, *container.get("args", [])]

    def _environment(self, name: str, container: dict[str, Any]) -> Path:
        found = {}
        for source in container.get("envFrom", []):
            found |= self.secrets[source["secretRef"]["name"]]
        found |= {one["name"]: one["value"] for one in container.get("env", [])}
        path = self.folder / f"{name}.env"
        path.touch(mode=0o600)
        path.write_text("".join(f"{key}={value}\n" for key, value in found.items()))
        return path

    def _mount(self, volume: dict[str, Any], mount: dict[str, Any]) -> list[str]:
        target = mount["mountPath"]
        mode = ":ro" if mount.get("readOnly") else ""
        if "emptyDir" in volume:
            most = _bytes(volume["emptyDir"]["sizeLimit"])
            return ["--tmpfs", f"{target}:rw,mode=1777,size={most}"]
        if claim := volume.get("persistentVolumeClaim"):
            return ["--volume", f"{self.claim(claim['claimName'])}:{target}{mode}"]
        if secret := volume.get("secret"):
            at = self.mounted(secret["secretName"], mode=secret.get("defaultMode", 0o644))
        elif config := volume.get("configMap"):
            at = self._written(
                config["name"], self.find("ConfigMap", config["name"])["data"], 0o644
            )
        else:
            # The token of a service account, which no server here would take.
            token = volume["projected"]["sources"][0]["serviceAccountToken"]
            at = self._written(volume["name"], {token["path"]: "-"}, 0o640)
        return ["--volume", f"{at}:{target}:ro"]


def _bytes(quantity: str) -> str:
    return str(int(parse_quantity(quantity)))


class Server:
    """A container that answers."""

    def __init__(
        self, name: str, container: dict[str, Any], process: subprocess.Popen[bytes], log: Path
    ) -> None:
        self.name, self.container, self.process, self.log = name, container, process, log
        self.ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def wait(self) -> None:
        """Until it is ready, within what the startup probe allows."""
        startup = self.container["startupProbe"]
        deadline = time.monotonic() + startup["failureThreshold"] * startup["periodSeconds"]
        while not (self.probe("startupProbe") and self.probe("readinessProbe")):
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def probe(self, kind: str, host: str = "10.244.0.7") -> bool:
        """What a kubelet finds: it names the pod's address."""
        asked = self.container[kind]
        port = self.ports[asked["httpGet"]["port"]]
        try:
            status, _ = self.ask(
                "GET",
                asked["httpGet"]["path"],
                headers={"Host": f"{host}:{port}"},
                timeout=asked.get("timeoutSeconds", 1),
            )
        except OSError:
            return False
        return 200 <= status < 400

    def exec(self, *command: str) -> str:
        """What a command prints within."""
        return subprocess.run(
            ["podman", "--runtime", "runc", "exec", NAMED + self.name, *command],
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: str = "",
        headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        (port,) = self.ports.values()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        try:
            connection.request(method, path, body=body or None, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()
