"""Whether a job fits: the queue's share, nodes of one pool, and the quota of the namespace.

GPUs, cores and memory are compared alike; a job of several nodes has them all of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from pydantic import Field

from brewhouse.domains.strict import Strict
from brewhouse.platform.checks import Check, State, missing, ok, unknown
from brewhouse.platform.cluster_reader import ClusterReader

KUEUE = "kueue.x-k8s.io"
POOL = "brewhouse.dev/pool"


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
    cpu: str = Field(default="0", description="Cores of a node of the job; 0 not to compare them")
    memory: str = Field(default="0", description="Memory of such a node; 0 not to compare it")
    runtime: str = Field(default="brewhouse-train", description="ClusterTrainingRuntime")
    queue: str = Field(default="gpu", description="Kueue LocalQueue; empty for none")
    claim: str = Field(default="training", description="Claim with the workspace")
    address: str = Field(default="", description="API server, in place of KUBECONFIG's")

    def of_node(self) -> dict[str, Decimal]:
        """What a node of the job asks for, by resource: cores, bytes, GPUs."""
        asked = {
            "cpu": _amount(self.cpu),
            "memory": _amount(self.memory),
            self.gpu_resource: Decimal(-(-self.gpus // self.nodes)),
        }
        return {name: value for name, value in asked.items() if value}

    def of_job(self) -> dict[str, Decimal]:
        """What all its nodes ask for."""
        return {name: value * self.nodes for name, value in self.of_node().items()} | (
            {self.gpu_resource: Decimal(self.gpus)} if self.gpus else {}
        )


def queue(reader: ClusterReader, needs: ClusterNeeds) -> Iterator[Check]:
    """The queue: whether it is there, active, and its share large enough."""
    if not needs.queue:
        return
    found = reader.named(KUEUE, "v1beta2", "localqueues", needs.queue, needs.namespace)
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
            yield missing("queue", f"{needs.queue}: {why}", "kubectl apply -k manifests/cluster")
            return
    wanted = needs.of_job()
    if not wanted:
        yield ok("queue", f"{needs.queue} -> {share}")
        return
    quota = reader.named(KUEUE, "v1beta2", "clusterqueues", share)
    if quota is None:
        told = f"{needs.queue} -> {share}, whose quota may not be looked at"
        yield unknown("queue", told, "bind brewhouse-cluster-reader")
        return
    yield _fits_share(share, quota.get("spec", {}), wanted, needs)


def _fits_share(
    share: str, spec: dict[str, Any], wanted: dict[str, Decimal], needs: ClusterNeeds
) -> Check:
    groups = spec.get("resourceGroups", [])
    covered = {name for group in groups for name in group["coveredResources"]}
    if bare := sorted(set(wanted) - covered):
        # Kueue admits no workload that asks for what its queue does not count.
        remedy = f"add it to coveredResources of ClusterQueue {share}"
        return missing("queue", f"{share} counts no {', '.join(bare)}", remedy)
    own = _best_flavors(groups, wanted, lambda r: _amount(r["nominalQuota"]))
    if not (short := _short(own, wanted)):
        return ok("queue", f"{needs.queue} -> {share}, {_told(own)}")
    cohort = spec.get("cohortName", "")
    if not cohort:
        remedy = f"raise nominalQuota of ClusterQueue {share}"
        return missing("queue", f"{share} has {short} of one kind", remedy)
    if beyond := _short(_best_flavors(groups, wanted, _with_borrowed), wanted):
        remedy = f"raise nominalQuota or borrowingLimit of ClusterQueue {share}"
        return missing("queue", f"{share} may hold {beyond} of one kind", remedy)
    remedy = f"the rest must be idle in cohort {cohort}; else raise its nominalQuota"
    return unknown("queue", f"{share} has {short} of one kind", remedy)


def _with_borrowed(resource: Mapping[str, Any]) -> Decimal:
    """What a queue of a cohort may hold of a resource; without a limit, anything."""
    limit = resource.get("borrowingLimit")
    borrowed = Decimal("Infinity") if limit is None else _amount(limit)
    return _amount(resource["nominalQuota"]) + borrowed


def _best_flavors(
    groups: list[dict[str, Any]],
    wanted: dict[str, Decimal],
    amount: Callable[[Mapping[str, Any]], Decimal],
) -> dict[str, Decimal]:
    """What each group's best flavor has of what is asked."""
    has: dict[str, Decimal] = {}
    for group in groups:
        asked = {n: v for n, v in wanted.items() if n in group["coveredResources"]}
        flavors = [{r["name"]: amount(r) for r in f["resources"]} for f in group["flavors"]]
        has |= _best_flavor(flavors, asked)
    return has


def _best_flavor(
    flavors: list[dict[str, Decimal]], asked: dict[str, Decimal]
) -> dict[str, Decimal]:
    """What the flavor has that comes nearest to all that is asked: nodes of a job are of a kind."""
    held = [{name: found.get(name, Decimal(0)) for name in asked} for found in flavors]
    none = Decimal(0)
    return max(
        held, key=lambda has: min((has[n] / v for n, v in asked.items()), default=none), default={}
    )


def pools(reader: ClusterReader, needs: ClusterNeeds) -> Iterator[Check]:
    """Nodes of one pool, each with what a node of the job asks for."""
    if not needs.gpus:
        return
    nodes = reader.listed("/api/v1/nodes", labelSelector=POOL)
    if nodes is None:
        yield unknown("pools", "nodes may not be listed", "bind brewhouse-cluster-reader")
        return
    wanted = needs.of_node()
    pools: dict[str, int] = {}
    for node in nodes:
        pool = node["metadata"]["labels"][POOL]
        has = node.get("status", {}).get("allocatable", {})
        fits = not _short({name: _amount(has.get(name, "0")) for name in wanted}, wanted)
        pools[pool] = pools.get(pool, 0) + fits
    told = ", ".join(f"{pool}: {n}" for pool, n in sorted(pools.items())) or "none"
    told = f"nodes with {_told(wanted)}: {told}"
    if max(pools.values(), default=0) < needs.nodes:
        # Autoscaled pools may be empty now; Kueue waits for them, so this is told, not refused.
        remedy = f"label nodes with {POOL}, or scale a pool to {needs.nodes} such nodes"
        yield Check(name="pools", value=told, state=State.ABSENT, remedy=remedy)
    else:
        yield ok("pools", told)


def quota(reader: ClusterReader, needs: ClusterNeeds) -> Iterator[Check]:
    """What the namespace's quotas let a job take."""
    found = reader.listed(f"/api/v1/namespaces/{needs.namespace}/resourcequotas")
    if found is None:
        yield unknown("quota", "may not be looked at", "bind brewhouse-preflight")
        return
    wanted = {
        f"{kind}.{name}": value
        for name, value in needs.of_job().items()
        for kind in ("requests", "limits")
    }
    free: list[str] = []
    scoped = [one["metadata"]["name"] for one in found if _scoped(one)]
    if scoped and wanted:
        told = f"{', '.join(scoped)}: holds for pods of some scopes, not compared"
        yield unknown("quota", told, f"kubectl describe resourcequota -n {needs.namespace}")
    short_of: list[str] = []
    for one in found:
        if _scoped(one):
            continue
        called, status = one["metadata"]["name"], one.get("status", {})
        hard, used = status.get("hard", {}), status.get("used", {})
        # A bare name means requests.
        keys = {key: key if "." in key else f"requests.{key}" for key in hard}
        limits = {key: _amount(hard[key]) for key, full in keys.items() if full in wanted}
        short = {key: limit for key, limit in limits.items() if limit < wanted[keys[key]]}
        for key, limit in short.items():
            asked = _quantity(keys[key], wanted[keys[key]])
            told = f"{called}: {key} {_quantity(key, limit)}, {asked} are asked"
            remedy = f"raise ResourceQuota {called} in the overlay and apply it"
            short_of.append(key)
            yield missing("quota", told, remedy)
        for key in sorted(set(limits) - set(short)):
            rest = _quantity(key, limits[key] - _amount(used.get(key, 0)))
            free.append(f"{called}: {key} {rest} of {_quantity(key, limits[key])} free")
    if free:
        yield ok("quota", "; ".join(free))
    elif not short_of and not scoped:
        yield ok("quota", "nothing to compare")


def _scoped(quota: dict[str, Any]) -> bool:
    return bool({"scopes", "scopeSelector"} & set(quota.get("spec", {})))


def _amount(quantity: str | int) -> Decimal:
    """A Kubernetes quantity as a number: cores, bytes, devices."""
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(quantity))


def _quantity(name: str, value: Decimal) -> str:
    if "memory" in name:
        return f"{value / 2**30:,.4g} GiB"
    return f"{value.normalize():f}"


def _told(amounts: Mapping[str, Decimal]) -> str:
    return ", ".join(f"{_quantity(name, value)} {name}" for name, value in amounts.items())


def _short(has: Mapping[str, Decimal], wanted: Mapping[str, Decimal]) -> str:
    """What there is too little of, in words; empty if there is enough."""
    return ", ".join(
        f"{_quantity(name, has.get(name, Decimal(0)))} of {_quantity(name, value)} {name}"
        for name, value in wanted.items()
        if has.get(name, Decimal(0)) < value
    )
