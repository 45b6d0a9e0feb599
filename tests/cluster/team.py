"""A team's namespace on a cluster."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.beside import IMAGE
from tests.cluster.kubernetes import Kubernetes
from tests.cluster.older import lowered
from tests.cluster.wait import wait_for
from tests.kfp.server import Server as Pipelines

NAMESPACE = "ranker"
USER = 10001
"""Of the image, and of every pod of the manifests that runs it."""
CLUSTER = {
    "namespace": NAMESPACE,
    "nodes": 2,
    "processes_per_node": 1,
    "gpu_resource": "",
    "cpu": "2",
    "memory": "4Gi",
    "claim": "training",
    "poll_s": 1,
}
"""A TrainJob of two nodes without GPUs, as the overlay `local` has room for."""
SHORT: dict[str, Any] = {
    "seed": 3,
    "model": "tiny",
    "baselines": "popularity,lightgbm",
    "processes": 1,
    "max_test_sessions": 600,
    "train_options": {
        "batch_tokens": 1024,
        "stages": [
            {"name": "finetune", "shards": "train", "loss": "answers", "tokens": 20000, "lr": 1e-3}
        ],
    },
    "policy": "smoke",
    "champion": "none",
    "author": "ci",
}
"""What a run is told beyond the overlay's arguments, to be short."""


@dataclass
class Team:
    """What is in the namespace, and the Kubeflow Pipelines that takes its orders.

    Attributes:
        folder: Where the guide's commands were typed.
        typed: What they printed, as one process.
        submits: Its block that starts a run, which has not been typed.
        asks: Its block that reaches the console, likewise.
    """

    node: Kubernetes
    folder: Path
    pipelines: Pipelines
    image: str
    environment: dict[str, str]
    typed: subprocess.CompletedProcess[str] = field(init=False)
    submits: str = field(init=False)
    asks: str = field(init=False)

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Type commands into a shell of one who follows the guide."""
        return subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=900,
        )

    def get(self, *arguments: str) -> Any:
        return self.node.get(*arguments, "--namespace", NAMESPACE)

    def kubectl(self, *arguments: str, sent: Any = None) -> str:
        return self.node.kubectl("--namespace", NAMESPACE, *arguments, sent=sent)

    def claim(self, name: str) -> Path:
        """Folder of this machine that a claim is bound to."""
        volume = self.get("persistentvolumeclaim", name)["spec"]["volumeName"]
        found = self.node.get("persistentvolume", volume)["spec"]["hostPath"]["path"]
        return Path(found)

    def arguments(self) -> dict[str, Any]:
        """What the overlay tells a run, made short."""
        path = self.folder / "manifests" / "overlays" / "local" / "team" / "arguments.yaml"
        return dict(yaml.safe_load(path.read_text())) | SHORT

    @contextmanager
    def submitted(self, arguments: dict[str, Any]) -> Iterator[subprocess.Popen[str]]:
        """The guide's block is being typed, with these arguments in the file that it names."""
        path = self.folder / "manifests" / "overlays" / "local" / "team" / "arguments.yaml"
        kept = path.read_text()
        path.write_text(yaml.safe_dump(arguments))
        process = subprocess.Popen(
            ["bash", "-c", f"set -e\n{self.submits}"],
            cwd=self.folder,
            env=self.environment,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            path.write_text(kept)
            # With the port-forward, which stays behind.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)

    def apply(self, objects: list[dict[str, Any]]) -> None:
        """Objects of the manifests, with the image of this session."""
        text = yaml.safe_dump_all([lowered(value) for value in objects])
        text = re.sub(r"registry\.example\.com/brewhouse/steps@sha256:0+", self.image, text)
        self.node.kubectl("apply", "-f", "-", sent=list(yaml.safe_load_all(text)))

    def job(self, name: str) -> tuple[bool, str]:
        """Do now what a CronJob does at its hour: whether it ended well, and what it said."""
        spec = self.get("cronjob", name)["spec"]["jobTemplate"]
        meta = {"name": f"{name}-now", "namespace": NAMESPACE}
        made = spec | {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta}
        self.node.kubectl("apply", "-f", "-", sent=made)
        status = wait_for(
            lambda: self.get("job", meta["name"])["status"],
            lambda found: bool(found.get("conditions")),
            name,
        )
        said = self.kubectl("logs", f"job/{meta['name']}", "--tail=60")
        return status.get("succeeded") == 1, said

    @contextmanager
    def prober(
        self, labels: dict[str, str], namespace: str
    ) -> Iterator[Callable[[dict[str, tuple[str, int]]], set[str]]]:
        """A pod with labels: which of some places, by host and port, answer it."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "prober", "namespace": namespace, "labels": labels},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [
                    {
                        "name": "prober",
                        "image": IMAGE,
                        "command": ["sleep", "infinity"],
                        "resources": {"limits": {"cpu": "100m", "memory": "64Mi"}},
                    }
                ],
            },
        }
        there = ("pod/prober", "-n", namespace)
        self.node.kubectl("apply", "-f", "-", sent=pod)
        self.node.kubectl("wait", "--for=condition=Ready", *there, "--timeout=60s")
        address = self.node.get(*there)["status"]["podIP"]
        # Until the firewall knows it.
        known = re.compile(rf"\b{re.escape(address)}\b")
        rules = ("nft", "list", "set", "inet", "policies", "pods")
        wait_for(lambda: known.search(self.node.inside(*rules)), bool, "the firewall", 30)

        def reached(places: dict[str, tuple[str, int]]) -> set[str]:
            shell = "".join(
                f"(timeout 3 bash -c '</dev/tcp/{host}/{port}' && echo {name}) & "
                for name, (host, port) in places.items()
            )
            told = self.node.kubectl("exec", *there, "--", "bash", "-c", f"{shell} wait")
            return set(told.split())

        try:
            yield reached
        finally:
            self.node.kubectl("delete", *there, "--now")

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[Address]:
        """A Service's pod, by kubectl port-forward."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            local = probe.getsockname()[1]
        command = ["kubectl", "port-forward", "-n", NAMESPACE, f"svc/{service}", f"{local}:{port}"]
        process = subprocess.Popen(
            command, env=os.environ | self.environment, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout
            assert "Forwarding from" in process.stdout.readline()
            yield Address(local)
        finally:
            process.terminate()
            process.wait(30)


@dataclass
class Address:
    """A port of this machine."""

    port: int

    def ask(
        self, method: str, path: str, *, sent: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Status and body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        body = None if sent is None else json.dumps(sent)
        told = {"Content-Type": "application/json", **(headers or {})}
        try:
            connection.request(method, path, body=body, headers=told)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def call(self, path: str, sent: Any = None) -> Any:
        """What the console's API answers bob."""
        status, body = self.ask(
            "GET" if sent is None else "POST",
            f"/api/v1{path}",
            sent=sent,
            headers={"Host": "localhost:8600", "kubeflow-userid": "bob@example.com"},
        )
        assert status == 200, body
        return json.loads(body)
