"""Pods, made by tests as Kubeflow Pipelines' driver and Kubeflow Trainer make them.

Neither's own code can run here. Pods of steps are made from what the compiled pipeline says of each
(account, labels, secrets, claims, users, sizes), pods of nodes from runtime and TrainJob. A node of
two cores stands in for a pool, so what they request is cut down. Steps are held to the profile
`restricted` here, which Kubeflow Pipelines leaves to its own settings.
"""

from __future__ import annotations

import copy
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml
from kubernetes import client
from kubernetes.utils.quantity import parse_quantity

from brewhouse.platform.kubeflow import ACCOUNTS
from brewhouse.platform.launcher import JOB_LABEL
from brewhouse.platform.trainjob import GROUP, PLURAL, VERSION
from tests.cluster.kubernetes import Kubernetes
from tests.cluster.wait import kept, wait_for
from tests.conftest import ROOT

Object = dict[str, Any]
_RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class Steps:
    """Runs steps of a pipeline as pods; it stands where podman's runner of containers would.

    Args:
        node: Where.
        namespace: Of the pods.
        pipeline: A compiled one.
        image: In place of those that it names.
    """

    def __init__(self, node: Kubernetes, namespace: str, pipeline: str, image: str) -> None:
        self.node, self.namespace, self.image = node, namespace, image
        path = ROOT / "pipelines" / pipeline / f"{pipeline}.yaml"
        spec, platform = yaml.safe_load_all(path.read_text())
        self.executors = spec["deploymentSpec"]["executors"]
        self.of_platform = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        self.account = ACCOUNTS[pipeline]
        self.run = str(uuid.uuid4())

    def __call__(self, _plan: Any, *, command: list[str], volumes: Object, **_: Any) -> int:
        """Run one to its end, print what it said, return its exit code."""
        function = command[command.index("--function_to_execute") + 1]
        pod = self._pod(function, command, volumes)
        name = pod["metadata"]["name"]
        self.node.kubectl("create", "-f", "-", sent=pod)
        phase = wait_for(
            lambda: self.node.get("pod", name, "-n", self.namespace)["status"]["phase"],
            lambda phase: phase in {"Succeeded", "Failed"},
            f"step {function}",
        )
        print(self.node.kubectl("logs", name, "-n", self.namespace))
        (status,) = self.node.get("pod", name, "-n", self.namespace)["status"]["containerStatuses"]
        code = int(status["state"]["terminated"]["exitCode"])
        assert (code == 0) == (phase == "Succeeded")
        return code

    def _pod(self, function: str, command: list[str], volumes: Object) -> Object:
        executor = f"exec-{function.replace('_', '-')}"
        wanted, platform = self.executors[executor]["container"], self.of_platform[executor]
        sizes = wanted["resources"]
        # The run's artifacts, which a cluster's object store would hold.
        mounts = {f"artifacts-{i}": path for i, path in enumerate(volumes)}
        kept: list[Object] = [
            {"name": name, "hostPath": {"path": path}} for name, path in mounts.items()
        ]
        seen = [{"name": name, "mountPath": volumes[path]["bind"]} for name, path in mounts.items()]
        for secret in platform.get("secretAsVolume", []):
            kept.append(
                {
                    "name": secret["secretName"],
                    "secret": {
                        "secretName": secret["secretName"],
                        "optional": secret["optional"],
                    },
                }
            )
            seen.append({"name": secret["secretName"], "mountPath": secret["mountPath"]})
        for claim in platform.get("pvcMount", []):
            kept.append({"name": "claim", "persistentVolumeClaim": {"claimName": "training"}})
            seen.append({"name": "claim", "mountPath": claim["mountPath"]})
        environment = [
            {
                "name": key["envVar"],
                "valueFrom": {
                    "secretKeyRef": {
                        "name": secret["secretName"],
                        "key": key["secretKey"],
                        "optional": secret["optional"],
                    }
                },
            }
            for secret in platform.get("secretAsEnv", [])
            for key in secret["keyToEnv"]
        ]
        # The machine has other work than this.
        environment.append({"name": "OMP_NUM_THREADS", "value": "1"})
        user = {
            name: value if isinstance(value, bool) else int(value)
            for name, value in platform["securityContext"].items()
        }
        container = {
            "name": "main",
            "image": self.image,
            "command": command,
            "env": environment,
            "securityContext": user | _RESTRICTED,
            "resources": cut(
                {
                    "cpu": sizes["resourceCpuLimit"],
                    "memory": sizes["resourceMemoryLimit"],
                }
            ),
            "volumeMounts": seen,
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{function.replace('_', '-')}-{uuid.uuid4().hex[:6]}",
                "namespace": self.namespace,
                "labels": platform["podMetadata"]["labels"] | {"pipeline/runid": self.run},
            },
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": self.account,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [container],
                "volumes": kept,
            },
        }


def cut(limits: dict[str, str]) -> Object:
    """Limits as they are, requests of which many fit into two cores."""
    memory = min(parse_quantity(limits["memory"]), 512 * 2**20)
    return {"limits": limits, "requests": {"cpu": "50m", "memory": str(int(memory))}}


class Trainer:
    """Makes nodes of TrainJobs, tells how they ended, and starts all again when one was stopped."""

    def __init__(self, node: Kubernetes, namespace: str) -> None:
        self.node, self.namespace = node, namespace
        self.rounds: dict[str, int] = {}

    def look(self) -> None:
        """Once over all jobs."""
        for job in self.node.get("trainjobs", "-n", self.namespace):
            name = job["metadata"]["name"]
            if any(c["status"] == "True" for c in job.get("status", {}).get("conditions", [])):
                continue
            pods = self.node.get("pods", "-n", self.namespace, "-l", f"{JOB_LABEL}={name}")
            if not pods:
                self.rounds[name] = self.rounds.get(name, 0) + 1
                self.node.kubectl("apply", "-f", "-", sent=self._objects(job))
                continue
            phases = {pod["status"].get("phase") for pod in pods}
            if phases == {"Succeeded"}:
                self._tell(name, "Complete")
            elif not phases & {"Pending", "Running"}:
                codes = {code for pod in pods if (code := _code(pod)) is not None}
                if codes & {2, 3, 6, 7, 8}:
                    self._tell(name, "Failed")
                else:
                    self.node.kubectl(
                        *("delete", "pods", "-n", self.namespace, "-l", f"{JOB_LABEL}={name}")
                    )

    def _objects(self, job: Object) -> list[Object]:
        name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
        runtime = self.node.get("clustertrainingruntime", job["spec"]["runtimeRef"]["name"])
        (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
        template = replicated["template"]["spec"]["template"]
        for patch in job["spec"].get("runtimePatches", []):
            of_job = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
            template = _merged(template, of_job["template"]["spec"]["template"])
        owner = {
            "apiVersion": job["apiVersion"],
            "kind": "TrainJob",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
        }
        meta = {"namespace": self.namespace, "ownerReferences": [owner]}
        found: list[Object] = [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": meta | {"name": name},
                "spec": {
                    "clusterIP": "None",
                    "publishNotReadyAddresses": True,
                    "selector": {JOB_LABEL: name},
                },
            }
        ]
        for index in range(trainer["numNodes"]):
            pod = copy.deepcopy(template)
            spec, host = pod["spec"], f"{name}-node-0-{index}"
            (container,) = spec["containers"]
            limits = trainer["resourcesPerNode"]["limits"]
            container |= {
                "image": trainer.get("image", container["image"]),
                "command": trainer["command"],
                "args": trainer["args"],
                "resources": cut({k: str(v) for k, v in limits.items()}),
                "env": [
                    *container.get("env", []),
                    *trainer.get("env", []),
                    {"name": "OMP_NUM_THREADS", "value": "1"},
                    {"name": "PET_NNODES", "value": str(trainer["numNodes"])},
                    {"name": "PET_NPROC_PER_NODE", "value": str(trainer["numProcPerNode"])},
                    {"name": "PET_NODE_RANK", "value": str(index)},
                    {"name": "PET_MASTER_ADDR", "value": f"{name}-node-0-0.{name}"},
                    {"name": "PET_MASTER_PORT", "value": "29400"},
                ],
            }
            spec |= {"hostname": host, "subdomain": name, "restartPolicy": "Never"}
            labels = {JOB_LABEL: name, "batch.kubernetes.io/job-completion-index": str(index)}
            found.append(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": meta
                    | {
                        "name": f"{host}-{self.rounds[name]}",
                        "labels": pod.get("metadata", {}).get("labels", {}) | labels,
                    },
                    "spec": spec,
                }
            )
        return found

    def _tell(self, name: str, kind: str) -> None:
        condition = {
            "type": kind,
            "status": "True",
            "reason": kind,
            "message": "as its nodes ended",
            "lastTransitionTime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        client.CustomObjectsApi(self.node.api).patch_namespaced_custom_object_status(
            *(GROUP, VERSION, self.namespace, PLURAL, name),
            {"status": {"conditions": [condition]}},
        )


@contextmanager
def trainer(node: Kubernetes, namespace: str) -> Iterator[Trainer]:
    """TrainJobs are seen to for as long as the block lasts."""
    found = Trainer(node, namespace)
    with kept(found.look, 1, "what stands for Trainer"):
        yield found


def _code(pod: Object) -> int | None:
    for status in pod["status"].get("containerStatuses", []):
        if ended := status["state"].get("terminated"):
            return int(ended["exitCode"])
    return None


def _merged(base: Object, patch: Object) -> Object:
    """A strategic merge: named items of lists are merged, others added."""
    found = dict(base)
    for key, value in patch.items():
        if isinstance(value, dict):
            found[key] = _merged(found.get(key, {}), value)
        elif isinstance(value, list):
            items = list(found.get(key, []))
            for item in value:
                same = [i for i in items if i.get("name") == item.get("name")]
                if same and key == "containers":
                    items[items.index(same[0])] = _merged(same[0], item)
                else:
                    items.append(item)
            found[key] = items
        else:
            found[key] = value
    return found
