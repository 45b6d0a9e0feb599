"""What a cluster must have before GPUs are paid for: looked at through its API server.

Everything is asked as whoever asks, or as a service account by impersonation; what may not be
looked at is told as unknown, never as fine.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any

from pydantic import Field

from brewhouse.domains.strict import Strict
from brewhouse.platform.checks import Check, State, guarded, missing, ok, unknown
from brewhouse.platform.launcher import connect
from brewhouse.platform.trainjob import GROUP as TRAINER

OLDEST = (1, 31)
"""Kubernetes: native sidecars, and success policies of Jobs that JobSet needs."""
SKEW_S = 30.0
"""Seconds between clocks: tokens are refused beyond a minute, and labels join by time."""
KUEUE, PIPELINES = "kueue.x-k8s.io", "pipelines.kubeflow.org"
POOL = "brewhouse.dev/pool"
INSTALL = "docs/how-to/install.md"

REQUIRED = {
    (TRAINER, "v1alpha1"): ("trainjobs", "Kubeflow Trainer 2.3"),
    ("jobset.x-k8s.io", "v1alpha2"): ("jobsets", "JobSet, with Kubeflow Trainer"),
}
QUEUED = {(KUEUE, "v1beta2"): ("localqueues", "Kueue 0.19")}
"""Required where jobs are queued."""
OPTIONAL = {
    ("serving.kserve.io", "v1beta1"): ("inferenceservices", "KServe 0.20, to serve"),
    ("monitoring.coreos.com", "v1"): ("prometheusrules", "Prometheus operator, for alerts"),
    ("feast.dev", "v1"): ("featurestores", "Feast's operator, for its servers"),
    ("ray.io", "v1"): ("rayclusters", "KubeRay, to score with Ray"),
}
PROMISES: dict[str, tuple[tuple[str, str, str], ...]] = {
    "brewhouse-train": (
        (TRAINER, "trainjobs", "create"),
        (TRAINER, "trainjobs", "get"),
        (TRAINER, "trainjobs", "patch"),
        (TRAINER, "trainjobs", "delete"),
        ("", "pods", "list"),
        ("", "pods/log", "get"),
    ),
    "brewhouse-monitor": (
        (PIPELINES, "runs", "create"),
        (PIPELINES, "runs", "get"),
        (PIPELINES, "runs", "list"),
        (PIPELINES, "runs", "terminate"),
        (PIPELINES, "experiments", "create"),
        (PIPELINES, "experiments", "list"),
    ),
}
"""What the code asks for under each account, as manifests grant it."""


class ClusterNeeds(Strict):
    """What a run will need."""

    namespace: str = Field(default="ranker", description="Of runs and jobs")
    account: str = Field(
        default="brewhouse-train", description="Service account whose promises are checked"
    )
    impersonate: bool = Field(
        default=True, description="Ask as the account; false inside a pod that runs under it"
    )
    nodes: int = Field(default=1, ge=1, description="Nodes of a training job")
    gpus: int = Field(default=0, ge=0, description="GPUs of the whole job; 0 to train on CPUs")
    gpu_resource: str = "nvidia.com/gpu"
    runtime: str = Field(default="brewhouse-train", description="ClusterTrainingRuntime")
    queue: str = Field(default="gpu", description="Kueue LocalQueue; empty for none")
    claim: str = Field(default="training", description="Claim with the workspace")
    address: str = Field(default="", description="API server, in place of KUBECONFIG's")


def examine(needs: ClusterNeeds) -> Iterator[Check]:
    """Look at a cluster.

    Raises:
        ConfigError: There is no cluster to talk to.
    """
    api = connect(needs.address)
    looks = _Looks(api, needs)
    address = f"kubectl --namespace {needs.namespace} get pods"
    for name, remedy, look in (
        ("kubernetes", address, looks.server),
        ("kinds", f"see {INSTALL}", looks.kinds),
        ("rights", "kubectl apply -k manifests/overlays/prod", looks.rights),
        ("runtime", "kubectl apply -k manifests/cluster", looks.runtime),
        ("queue", "kubectl apply -k manifests/overlays/prod", looks.queue),
        ("pools", f"kubectl label node NODE {POOL}=NAME", looks.pools),
        ("quota", "kubectl apply -k manifests/overlays/prod", looks.quota),
        ("workspace", "kubectl apply -k manifests/overlays/prod", looks.workspace),
    ):
        yield from guarded(name, remedy, look)


class _Looks:
    """Looks at one cluster."""

    def __init__(self, api: Any, needs: ClusterNeeds) -> None:
        from kubernetes import client

        self.api, self.needs = api, needs
        self.core = client.CoreV1Api(api)
        self.custom = client.CustomObjectsApi(api)

    def server(self) -> Iterator[Check]:
        """Version and clock."""
        asked = datetime.now(UTC)
        response = self._get("/version", {}, raw=True)
        version = self.api.deserialize(_Text(response), "object")
        found = version["gitVersion"]
        minor = tuple(int(part) for part in found.lstrip("v").split(".")[:2])
        if minor < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            yield missing("kubernetes", found, f"upgrade the cluster to {wanted} or newer")
        else:
            yield ok("kubernetes", found)
        if not (date := response.headers.get("Date")):
            yield unknown("clock", "the server tells no time", "timedatectl status")
            return
        skew = (parsedate_to_datetime(date) - asked).total_seconds()
        told = f"{abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
        if abs(skew) > SKEW_S:
            yield missing("clock", told, "sudo chronyc makestep, on the machine that is wrong")
        else:
            yield ok("clock", f"within {SKEW_S:g} s of the server's")

    def kinds(self) -> Iterator[Check]:
        """Custom resources and the versions that are served."""
        queued = State.MISSING if self.needs.queue else State.ABSENT
        for wanted, bad in (
            (REQUIRED, State.MISSING),
            (QUEUED, queued),
            (OPTIONAL, State.ABSENT),
        ):
            for (group, version), (plural, product) in wanted.items():
                served = self._served(group)
                if served is None:
                    yield unknown(plural, "may not be discovered", "bind system:discovery")
                    continue
                if version in served and plural in self._resources(group, version):
                    yield ok(plural, f"{group}/{version}")
                    continue
                value = f"serves {', '.join(served)}" if served else "not installed"
                remedy = f"install {product}, which serves {group}/{version}: {INSTALL}"
                yield Check(name=plural, value=value, state=bad, remedy=remedy)

    def rights(self) -> Iterator[Check]:
        """What the account may do, asked of the server one by one."""
        needs = self.needs
        who = f"system:serviceaccount:{needs.namespace}:{needs.account}"
        for group, resource, verb in PROMISES.get(needs.account, ()):
            name, _, sub = resource.partition("/")
            asked = {"namespace": needs.namespace, "group": group, "resource": name, "verb": verb}
            asked |= {"subresource": sub} if sub else {}
            allowed = self._may(asked, who if needs.impersonate else "")
            told = f"{verb} {resource}"
            if allowed is None:
                remedy = f"ask whoever may impersonate {who}, or run it in a pod of the account"
                yield unknown(f"{needs.account} may", "only the account itself can say", remedy)
                return
            if allowed:
                yield ok(f"{needs.account} may", told)
                continue
            check = f"kubectl auth can-i {verb} {resource} --as {who} -n {needs.namespace}"
            yield missing(f"{needs.account} may", f"not {told}", f"grant it; `{check}` tells")

    def runtime(self) -> Iterator[Check]:
        """The runtime that jobs name."""
        found = self._object(TRAINER, "v1alpha1", "clustertrainingruntimes", self.needs.runtime)
        if found is None:
            yield unknown("runtime", "may not be looked at", "bind brewhouse-cluster-reader")
        elif not found:
            remedy = "kubectl apply -k manifests/cluster"
            yield missing("runtime", f"no ClusterTrainingRuntime {self.needs.runtime}", remedy)
        else:
            yield ok("runtime", self.needs.runtime)

    def queue(self) -> Iterator[Check]:
        """The queue, and whether it is active."""
        needs = self.needs
        if not needs.queue:
            return
        found = self._object(KUEUE, "v1beta2", "localqueues", needs.queue, needs.namespace)
        if found is None:
            yield unknown("queue", "may not be looked at", "bind brewhouse-preflight")
            return
        if not found:
            remedy = "kubectl apply -k manifests/overlays/prod"
            yield missing("queue", f"no LocalQueue {needs.queue} in {needs.namespace}", remedy)
            return
        share = found["spec"]["clusterQueue"]
        for condition in found.get("status", {}).get("conditions", []):
            if condition["type"] == "Active" and condition["status"] != "True":
                why = condition.get("message", condition.get("reason", "not active"))
                yield missing(
                    "queue", f"{needs.queue}: {why}", "kubectl apply -k manifests/cluster"
                )
                return
        if not needs.gpus:
            yield ok("queue", f"{needs.queue} -> {share}")
            return
        quota = self._object(KUEUE, "v1beta2", "clusterqueues", share)
        if quota is None:
            told = f"{needs.queue} -> {share}, whose quota may not be looked at"
            yield unknown("queue", told, "bind brewhouse-cluster-reader")
            return
        gpus = _nominal(quota or {}, needs.gpu_resource)
        cohort = (quota or {}).get("spec", {}).get("cohortName", "")
        if gpus < needs.gpus and cohort:
            told = f"{share} has {gpus} of {needs.gpus} {needs.gpu_resource} of one kind"
            remedy = f"the rest must be idle in cohort {cohort}; else raise its nominalQuota"
            yield unknown("queue", told, remedy)
        elif gpus < needs.gpus:
            told = f"{share} has {gpus} of {needs.gpus} {needs.gpu_resource}"
            yield missing("queue", told, f"raise nominalQuota of ClusterQueue {share}")
        else:
            yield ok("queue", f"{needs.queue} -> {share}, {gpus} {needs.gpu_resource}")

    def pools(self) -> Iterator[Check]:
        """Nodes with the GPUs that a job asks for."""
        needs = self.needs
        if not needs.gpus:
            return
        nodes = self._listed("/api/v1/nodes", labelSelector=POOL)
        if nodes is None:
            yield unknown("pools", "nodes may not be listed", "bind brewhouse-cluster-reader")
            return
        pools: dict[str, int] = {}
        for node in nodes:
            pool = node["metadata"]["labels"][POOL]
            amount = node.get("status", {}).get("allocatable", {}).get(needs.gpu_resource, "0")
            pools[pool] = pools.get(pool, 0) + int(amount)
        told = ", ".join(f"{pool}: {n}" for pool, n in sorted(pools.items())) or "no node"
        if max(pools.values(), default=0) < needs.gpus:
            # Autoscaled pools may be empty now; Kueue waits for them, so this is told, not refused.
            remedy = (
                f"label nodes with {POOL}, or scale a pool to {needs.gpus} {needs.gpu_resource}"
            )
            yield Check(name="pools", value=told, state=State.ABSENT, remedy=remedy)
        else:
            yield ok("pools", told)

    def quota(self) -> Iterator[Check]:
        """What the namespace may still take."""
        needs = self.needs
        found = self._listed(f"/api/v1/namespaces/{needs.namespace}/resourcequotas")
        if found is None:
            yield unknown("quota", "may not be looked at", "bind brewhouse-preflight")
            return
        key = f"requests.{needs.gpu_resource}"
        for quota in found:
            status, called = quota.get("status", {}), quota["metadata"]["name"]
            if needs.gpus and key in status.get("hard", {}):
                hard, used = (int(status.get(part, {}).get(key, 0)) for part in ("hard", "used"))
                if hard < needs.gpus:
                    told = f"{called}: {key} {hard}, {needs.gpus} are asked"
                    remedy = f"raise ResourceQuota {called} in the overlay and apply it"
                    yield missing("quota", told, remedy)
                    return
                yield ok("quota", f"{called}: {key} {hard - used} of {hard} free")
                return
        yield ok("quota", "names no GPUs; cores and memory are not compared")

    def workspace(self) -> Iterator[Check]:
        """The claim that the step and its nodes share."""
        from kubernetes.client.exceptions import ApiException

        needs = self.needs
        if not needs.claim:
            return
        try:
            found = self.core.read_namespaced_persistent_volume_claim(needs.claim, needs.namespace)
        except ApiException as error:
            if error.status == 403:
                yield unknown("workspace", "may not be looked at", "bind brewhouse-preflight")
                return
            if error.status != 404:
                raise
            remedy = "kubectl apply -k manifests/overlays/prod"
            yield missing("workspace", f"no claim {needs.claim} in {needs.namespace}", remedy)
            return
        modes, phase = found.spec.access_modes or [], found.status.phase if found.status else ""
        kind = found.spec.storage_class_name or "the default class"
        if needs.nodes > 1 and "ReadWriteMany" not in modes:
            told = f"{needs.claim} is {', '.join(modes)}; {needs.nodes} nodes share it"
            remedy = "make the claim ReadWriteMany, of a class that can: `kubectl get storageclass`"
            yield missing("workspace", told, remedy)
        elif phase == "Bound":
            yield ok("workspace", f"{needs.claim}: {', '.join(modes)} of {kind}")
        else:
            remedy = f"kubectl describe pvc {needs.claim} -n {needs.namespace}"
            state = State.ABSENT if phase == "Pending" else State.MISSING
            told = f"{needs.claim} is {phase or 'not bound'}, of {kind}"
            yield Check(name="workspace", value=told, state=state, remedy=remedy)

    # Asking

    def _get(self, path: str, query: dict[str, str], *, raw: bool = False) -> Any:
        return self.api.call_api(
            path,
            "GET",
            query_params=list(query.items()),
            header_params={"Accept": "application/json"},
            auth_settings=["BearerToken"],
            response_type=None if raw else "object",
            _preload_content=not raw,
            _return_http_data_only=True,
        )

    def _tried(self, path: str, **query: str) -> Any:
        """What is there; {} if nothing is, None if it may not be looked at."""
        from kubernetes.client.exceptions import ApiException

        try:
            return self._get(path, query)
        except ApiException as error:
            if error.status == 403:
                return None
            if error.status == 404:
                return {}
            raise

    def _listed(self, path: str, **query: str) -> list[dict[str, Any]] | None:
        found = self._tried(path, **query)
        return None if found is None else list(found.get("items", []))

    def _object(self, group: str, version: str, plural: str, name: str, space: str = "") -> Any:
        where = f"namespaces/{space}/" if space else ""
        return self._tried(f"/apis/{group}/{version}/{where}{plural}/{name}")

    def _served(self, group: str) -> list[str] | None:
        found = self._tried(f"/apis/{group}")
        if found is None:
            return None
        return [one["version"] for one in found.get("versions", [])]

    def _resources(self, group: str, version: str) -> set[str]:
        found = self._tried(f"/apis/{group}/{version}") or {}
        return {one["name"] for one in found.get("resources", [])}

    def _may(self, asked: dict[str, str], who: str) -> bool | None:
        """Whether it is allowed; None if the caller may not ask as someone else."""
        from kubernetes.client.exceptions import ApiException

        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": asked},
        }
        call = partial(
            self.api.call_api,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "POST",
            header_params={"Accept": "application/json", "Content-Type": "application/json"}
            | ({"Impersonate-User": who} if who else {}),
            body=body,
            auth_settings=["BearerToken"],
            response_type="object",
            _return_http_data_only=True,
        )
        try:
            return bool(call()["status"]["allowed"])
        except ApiException as error:
            if error.status == 403:
                return None
            raise


class _Text:
    """A raw response as the client's deserializer wants it."""

    def __init__(self, response: Any) -> None:
        self.data = response.data.decode()


def _nominal(queue: dict[str, Any], resource: str) -> int:
    """Most of a resource in one flavor of a ClusterQueue: nodes of a job are of one kind."""
    found = (
        int(one["nominalQuota"])
        for group in queue.get("spec", {}).get("resourceGroups", [])
        for flavor in group["flavors"]
        for one in flavor["resources"]
        if one["name"] == resource
    )
    return max(found, default=0)
