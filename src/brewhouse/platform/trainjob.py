"""A training run as a TrainJob of Kubeflow Trainer: where it runs, and the object itself.

The job's name comes from the run id, so that whoever starts the same run again finds the job that
is there.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import Field, model_validator

from brewhouse.domains.strict import Strict
from brewhouse.training.config import parse_settings
from brewhouse.training.estimate import Pool

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
LABEL_RUN = "brewhouse.dev/run"
ANNOTATION_DIGEST = "brewhouse.dev/config-digest"
NODE = "node"
"""Name of the replicated job and of its container in a torch runtime."""
_MANAGER = "brewhouse.dev/train-ranker"


class ClusterSpec(Strict):
    """Where and how large a training job runs."""

    namespace: str = Field(description="Namespace of the job")
    runtime: str = Field(default="brewhouse-train", description="ClusterTrainingRuntime")
    image: str = Field(default="", description="Image in place of the runtime's")
    nodes: int = Field(default=1, ge=1)
    processes_per_node: int = Field(default=8, ge=1, description="Ranks, one a GPU")
    gpu_resource: str = Field(default="nvidia.com/gpu", description="Empty for CPU nodes")
    cpu: str = "32"
    memory: str = Field(default="1000Gi", description="Of a node, requested and limited")
    queue: str = Field(default="", description="Kueue LocalQueue; not queued if empty")
    priority: str = Field(default="", description="Kueue WorkloadPriorityClass")
    labels: dict[str, str] = Field(
        default={}, description="Of the job and its pods, such as brewhouse.dev/cost-center"
    )
    node_selector: dict[str, str] = {}
    tolerations: list[dict[str, Any]] = []
    claim: str = Field(default="", description="Claim with the workspace, mounted by all nodes")
    mount: str = Field(default="/workspace", description="Where the claim is mounted")
    env: list[dict[str, Any]] = []
    volumes: list[dict[str, Any]] = []
    volume_mounts: list[dict[str, Any]] = []
    heartbeat_minutes: float = Field(
        default=30.0, gt=0, description="A running job that says nothing for longer is given up"
    )
    poll_s: float = Field(default=10.0, gt=0, description="Seconds between looks at the job")
    address: str = Field(
        default="", description="API server; the one around this process or of KUBECONFIG if empty"
    )
    gpu_gib: float = Field(default=80.0, gt=0, description="Memory of a GPU, for the estimate")
    host_gib: float = Field(default=1024.0, gt=0, description="Memory of a node's CPUs")
    tflops: float = Field(
        default=989.0, gt=0, description="Dense bfloat16 TFLOP/s of a GPU at its best"
    )
    mfu: float | None = Field(
        default=None, gt=0, le=1, description="Part of it that training reaches, once measured"
    )
    on_cancel: Literal["delete", "suspend"] = "delete"

    @model_validator(mode="after")
    def _one_keeper(self) -> ClusterSpec:
        if self.queue and self.on_cancel == "suspend":
            msg = "on_cancel: suspend does not go with a queue, which would start the job again"
            raise ValueError(msg)
        return self

    def pool(self) -> Pool:
        """The GPUs, for the estimate."""
        return Pool(
            nodes=self.nodes,
            gpus_per_node=self.processes_per_node,
            gpu_gib=self.gpu_gib,
            host_gib=min(self.host_gib, _gib(self.memory)),
            tflops=self.tflops,
        )

    @classmethod
    def parse(cls, value: dict[str, Any]) -> ClusterSpec:
        """Validate.

        Raises:
            ConfigError: A field is missing, unknown or out of range.
        """
        return parse_settings(cls, value, where="cluster")

    def with_task(self, task: dict[str, Any]) -> ClusterSpec:
        """With what a pipeline set on the step itself: it is meant for the job.

        Args:
            task: Fields of `kfp.dsl.TaskConfig`.
        """
        changes: dict[str, Any] = {}
        for name in ("tolerations", "env", "volumes", "volume_mounts"):
            if task.get(name):
                changes[name] = [*getattr(self, name), *task[name]]
        if task.get("node_selector"):
            changes["node_selector"] = self.node_selector | task["node_selector"]
        return self.model_copy(update=changes)


def job_name(run_id: str) -> str:
    """Name of the job of a run: a DNS label that begins with a letter, the same for the same id."""
    return f"train-{hashlib.sha256(run_id.encode()).hexdigest()[:16]}"


def build(spec: ClusterSpec, *, run_id: str, config: str, digest: str) -> dict[str, Any]:
    """The TrainJob of a run.

    Args:
        spec: Cluster.
        run_id: Identifies the run; of it the name is made.
        config: Path of `train.json` as the nodes see it.
        digest: Of what the run does; a job of the same run with another is not adopted.
    """
    labels = spec.labels | {LABEL_RUN: job_name(run_id).removeprefix("train-")}
    if spec.queue:
        labels["kueue.x-k8s.io/queue-name"] = spec.queue
    if spec.priority:
        labels["kueue.x-k8s.io/priority-class"] = spec.priority
    amounts: dict[str, Any] = {"cpu": spec.cpu, "memory": spec.memory}
    if spec.gpu_resource:
        amounts[spec.gpu_resource] = spec.processes_per_node
    trainer: dict[str, Any] = {
        "numNodes": spec.nodes,
        "numProcPerNode": spec.processes_per_node,
        "command": ["python", "-m", "brewhouse.training.agent"],
        "args": ["-m", "brewhouse.training", "--config", config],
        "env": [*spec.env, {"name": "PYTHONUNBUFFERED", "value": "1"}],
        "resourcesPerNode": {"requests": amounts, "limits": amounts},
    }
    if spec.image:
        trainer["image"] = spec.image
    job: dict[str, Any] = {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {
            "name": job_name(run_id),
            "namespace": spec.namespace,
            "labels": labels,
            "annotations": {ANNOTATION_DIGEST: digest, "brewhouse.dev/run-id": run_id},
        },
        "spec": {
            "runtimeRef": {"name": spec.runtime, "kind": "ClusterTrainingRuntime"},
            "trainer": trainer,
        },
    }
    pod = _pod_patch(spec)
    if pod or spec.labels:
        inner: dict[str, Any] = {"spec": pod} if pod else {}
        if spec.labels:
            inner["metadata"] = {"labels": spec.labels}
        template = {"spec": {"template": inner}}
        runtime = {"template": {"spec": {"replicatedJobs": [{"name": NODE, "template": template}]}}}
        job["spec"]["runtimePatches"] = [{"manager": _MANAGER, "trainingRuntimeSpec": runtime}]
    return job


def _pod_patch(spec: ClusterSpec) -> dict[str, Any]:
    volumes, mounts = list(spec.volumes), list(spec.volume_mounts)
    if spec.claim and spec.mount not in {mount.get("mountPath") for mount in mounts}:
        claim = {"claimName": spec.claim}
        volumes.append({"name": "workspace", "persistentVolumeClaim": claim})
        mounts.append({"name": "workspace", "mountPath": spec.mount})
    pod: dict[str, Any] = {}
    if spec.node_selector:
        pod["nodeSelector"] = spec.node_selector
    if spec.tolerations:
        pod["tolerations"] = spec.tolerations
    if volumes:
        pod["volumes"] = volumes
        pod["containers"] = [{"name": NODE, "volumeMounts": mounts}]
    return pod


def _gib(quantity: str) -> float:
    """A Kubernetes quantity of memory in GiB."""
    from kubernetes.utils.quantity import parse_quantity

    return float(parse_quantity(quantity)) / 2**30
