"""A KServe InferenceService of a version: what serves the exported checkpoint in a cluster."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from brewhouse.domains.strict import Strict
from brewhouse.errors import ConfigError

SCHEMES = ("s3://", "gs://", "https://", "pvc://", "oci://")
"""What KServe fetches models from."""


class ServingSpec(Strict):
    """Where and how large a served model is; YAML of `brewhouse inference-service --spec`."""

    name: str = Field(default="ranker", pattern=r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$")
    namespace: str = "ranker"
    runtime: str = Field(
        default="kserve-huggingfaceserver", description="ServingRuntime with vLLM behind it"
    )
    service_account: str = "brewhouse-serving"
    gpus: int = Field(default=1, ge=0)
    gpu_resource: str = "nvidia.com/gpu"
    cpu: str = "4"
    memory: str = "32Gi"
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=2, ge=1)
    dtype: str = Field(
        default="auto", description="Of the computation; float32 gives evaluation's scores"
    )
    args: list[str] = Field(default=[], description="Further arguments of the server")


def inference_service(
    spec: ServingSpec, *, storage: str, version: str, digest: str, answers: int
) -> dict[str, Any]:
    """The object.

    Args:
        spec: Where and how large.
        storage: URI of the exported model.
        version: What is served, for people.
        digest: Of its weights.
        answers: Answers of the question that has most.

    Raises:
        ConfigError: KServe cannot fetch from there.
    """
    if not storage.startswith(SCHEMES):
        msg = (
            f"KServe cannot fetch {storage}; keep versions at one of {', '.join(SCHEMES)} "
            "(model_store of the run), or give --storage with where a copy lies"
        )
        raise ConfigError(msg)
    resources: dict[str, str] = {"cpu": spec.cpu, "memory": spec.memory}
    if spec.gpus:
        resources[spec.gpu_resource] = str(spec.gpus)
    arguments = [
        f"--model_name={spec.name}",
        "--backend=vllm",
        f"--dtype={spec.dtype}",
        # Answers are told whole, however unlikely they are among all words.
        f"--max-logprobs={answers}",
        "--logprobs-mode=processed_logprobs",
        # Candidates of a member share their trunk.
        "--enable-prefix-caching",
        *spec.args,
    ]
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": spec.name,
            "namespace": spec.namespace,
            "labels": {"app.kubernetes.io/part-of": "brewhouse"},
            "annotations": {"brewhouse.dev/version": version, "brewhouse.dev/weights": digest},
        },
        "spec": {
            "predictor": {
                "serviceAccountName": spec.service_account,
                "automountServiceAccountToken": False,
                "minReplicas": spec.min_replicas,
                "maxReplicas": spec.max_replicas,
                "securityContext": {
                    "runAsNonRoot": True,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "model": {
                    "modelFormat": {"name": "huggingface"},
                    "runtime": spec.runtime,
                    "protocolVersion": "v2",
                    "storageUri": storage,
                    "args": arguments,
                    "env": [
                        {"name": name, "value": value}
                        for name, value in (
                            ("HF_HUB_OFFLINE", "1"),
                            ("VLLM_NO_USAGE_STATS", "1"),
                            ("DO_NOT_TRACK", "1"),
                            ("HOME", "/tmp"),
                        )
                    ],
                    "resources": {"requests": resources, "limits": dict(resources)},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "scratch", "mountPath": "/tmp"},
                        {"name": "shared-memory", "mountPath": "/dev/shm"},
                    ],
                },
                "volumes": [
                    {"name": "scratch", "emptyDir": {}},
                    {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
                ],
            }
        },
    }
