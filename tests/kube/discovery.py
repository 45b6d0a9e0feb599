"""What an API server tells of itself: groups, kinds, and which parameters a request may have.

https://kubernetes.io/docs/reference/using-api/api-concepts/#discovery-api
"""

from __future__ import annotations

from typing import Any

from tests.kube.schema import crds

BUILT_IN: dict[str, dict[str, str]] = {
    "v1": {
        "configmaps": "ConfigMap",
        "events": "Event",
        "limitranges": "LimitRange",
        "namespaces": "Namespace",
        "nodes": "Node",
        "persistentvolumeclaims": "PersistentVolumeClaim",
        "pods": "Pod",
        "resourcequotas": "ResourceQuota",
        "secrets": "Secret",
        "serviceaccounts": "ServiceAccount",
        "services": "Service",
    },
    "apps/v1": {"deployments": "Deployment", "statefulsets": "StatefulSet"},
    "batch/v1": {"cronjobs": "CronJob", "jobs": "Job"},
    "networking.k8s.io/v1": {"networkpolicies": "NetworkPolicy"},
    "policy/v1": {"poddisruptionbudgets": "PodDisruptionBudget"},
    "rbac.authorization.k8s.io/v1": {
        "clusterrolebindings": "ClusterRoleBinding",
        "clusterroles": "ClusterRole",
        "rolebindings": "RoleBinding",
        "roles": "Role",
    },
    # Of KubeRay, whose definitions are not at hand.
    "ray.io/v1": {"rayclusters": "RayCluster"},
}
CLUSTER_WIDE = {"namespaces", "nodes", "clusterroles", "clusterrolebindings"}
WITH_STATUS = {"cronjobs", "deployments", "jobs", "namespaces", "nodes", "pods", "resourcequotas"}
"""Built-in kinds whose status is a resource of its own."""
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]


Kinds = dict[str, dict[str, str]]
"""Kinds by plural by group and version."""


def served() -> Kinds:
    """What a cluster has where all products are installed whose definitions are at hand."""
    found = {version: dict(of) for version, of in BUILT_IN.items()}
    for crd in crds().values():
        found.setdefault(f"{crd.group}/{crd.version}", {})[crd.plural] = crd.kind
    return found


def is_namespaced(version: str, plural: str) -> bool:
    """Whether objects of a kind lie in namespaces."""
    for crd in crds().values():
        if (f"{crd.group}/{crd.version}", crd.plural) == (version, plural):
            return crd.namespaced
    return plural not in CLUSTER_WIDE


def told(parts: list[str], kinds: Kinds) -> dict[str, Any] | None:
    """The answer to a path of discovery; None for any other path, and for what is not there."""
    version = "/".join(parts[1:])
    if parts == ["api"]:
        return {"kind": "APIVersions", "versions": ["v1"]}
    if parts == ["apis"]:
        names = dict.fromkeys(v.partition("/")[0] for v in kinds if "/" in v)
        groups = [_group(name, kinds) for name in names]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
    if parts == ["openapi", "v3"]:
        return {
            "paths": {_root(v): {"serverRelativeURL": f"/openapi/v3/{_root(v)}"} for v in kinds}
        }
    if parts[:2] == ["openapi", "v3"]:
        version = "/".join(parts[3:])
        return {"openapi": "3.0.0", "paths": _paths(version, kinds)} if version in kinds else None
    if parts[0] not in ("api", "apis"):
        return None
    if version in kinds:
        resources = [_resource(version, *one) for one in kinds[version].items()]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": resources,
        }
    if any(v.startswith(f"{version}/") for v in kinds):
        return {"kind": "APIGroup", "apiVersion": "v1", **_group(version, kinds)}
    return None


def _group(name: str, kinds: Kinds) -> dict[str, Any]:
    versions = [
        {"groupVersion": v, "version": v.partition("/")[2]}
        for v in kinds
        if v.startswith(f"{name}/")
    ]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _resource(version: str, plural: str, kind: str) -> dict[str, Any]:
    return {
        "name": plural,
        "singularName": kind.lower(),
        "namespaced": is_namespaced(version, plural),
        "kind": kind,
        "verbs": VERBS,
    }


def _root(version: str) -> str:
    return f"apis/{version}" if "/" in version else f"api/{version}"


def _paths(version: str, kinds: Kinds) -> dict[str, Any]:
    """Every kind may be patched, and says which fields it does not know."""
    group, _, number = version.rpartition("/")
    return {
        f"/{_root(version)}/{plural}/{{name}}": {
            "patch": {
                "parameters": [{"name": "fieldValidation", "in": "query"}],
                "responses": {},
                "x-kubernetes-group-version-kind": {
                    "group": group,
                    "version": number,
                    "kind": kind,
                },
            }
        }
        for plural, kind in kinds[version].items()
    }
