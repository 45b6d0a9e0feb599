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

from brewhouse.platform import capacity
from brewhouse.platform.capacity import KUEUE, POOL, ClusterNeeds
from brewhouse.platform.checks import Check, State, guarded, missing, ok, unknown
from brewhouse.platform.cluster_reader import ClusterReader
from brewhouse.platform.launcher import connect
from brewhouse.platform.trainjob import GROUP as TRAINER

OLDEST = (1, 31)
"""Kubernetes: native sidecars, and success policies of Jobs that JobSet needs."""
SKEW_S = 30.0
"""Seconds between clocks: tokens are refused beyond a minute, and labels join by time."""
PIPELINES = "pipelines.kubeflow.org"
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


def examine(needs: ClusterNeeds) -> Iterator[Check]:
    """Look at a cluster.

    Raises:
        ConfigError: There is no cluster to talk to.
    """
    api = connect(needs.address)
    looks = _Looks(api, needs)
    overlay, shared = "manifests/overlays/prod", "manifests/cluster"
    for name, remedy, look in (
        ("kubernetes", f"kubectl --namespace {needs.namespace} get pods", looks.server),
        ("kinds", f"see {INSTALL}", looks.kinds),
        ("rights", f"kubectl apply -k {overlay}", looks.rights),
        ("runtime", f"kubectl apply -k {shared}", looks.runtime),
        ("queue", f"kubectl apply -k {overlay}", partial(capacity.queue, looks.reader, needs)),
        ("pools", f"kubectl label node N {POOL}=P", partial(capacity.pools, looks.reader, needs)),
        ("quota", f"kubectl apply -k {overlay}", partial(capacity.quota, looks.reader, needs)),
        ("workspace", f"kubectl apply -k {overlay}", looks.workspace),
    ):
        yield from guarded(name, remedy, look)


class _Looks:
    """Looks at one cluster."""

    def __init__(self, api: Any, needs: ClusterNeeds) -> None:
        from kubernetes import client

        self.reader, self.needs = ClusterReader(api), needs
        self.core = client.CoreV1Api(api)

    def server(self) -> Iterator[Check]:
        """Version and clock."""
        asked = datetime.now(UTC)
        found, date = self.reader.version()
        minor = tuple(int(part) for part in found.lstrip("v").split(".")[:2])
        if minor < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            yield missing("kubernetes", found, f"upgrade the cluster to {wanted} or newer")
        else:
            yield ok("kubernetes", found)
        if not date:
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
                served = self.reader.served(group)
                if served is None:
                    yield unknown(plural, "may not be discovered", "bind system:discovery")
                    continue
                if version in served and plural in self.reader.resources(group, version):
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
            allowed = self.reader.may(asked, who if needs.impersonate else "")
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
        found = self.reader.named(
            TRAINER, "v1alpha1", "clustertrainingruntimes", self.needs.runtime
        )
        if found is None:
            yield unknown("runtime", "may not be looked at", "bind brewhouse-cluster-reader")
        elif not found:
            remedy = "kubectl apply -k manifests/cluster"
            yield missing("runtime", f"no ClusterTrainingRuntime {self.needs.runtime}", remedy)
        else:
            yield ok("runtime", self.needs.runtime)

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
