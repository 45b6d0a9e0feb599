"""The house's rules for manifests, wherever a pod is described: in runtimes and templates too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Object = dict[str, Any]
_VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
"""Kinds of volumes that Pod Security's `restricted` admits."""
_SECRET = re.compile(r"(?i)password|passwd|secret|token|credential|_key$|_uri$|_dsn$")
_PLACEHOLDER = "0" * 64


def findings(objects: list[Object]) -> list[str]:
    """What breaks a rule in what is applied together, a line each."""
    return [
        *_namespaces(objects),
        *(f for o in objects for pod, labels in pods(o) for f in _pod(o, pod, labels, objects)),
        *_access(objects),
        *_availability(objects),
        *(f"{name(o)}: a Secret in the manifests" for o in objects if o["kind"] == "Secret"),
    ]


def name(value: Object) -> str:
    """Kind and name, for people."""
    return f"{value['kind']}/{value['metadata']['name']}"


def pods(value: Any, labels: dict[str, str] | None = None) -> Iterator[tuple[Object, Object]]:
    """Pod specs anywhere in an object, with the labels that their pods get."""
    if isinstance(value, dict):
        if isinstance(value.get("containers"), list) and "image" in value["containers"][0]:
            yield value, labels or {}
        own = value.get("metadata", {})
        for key, part in value.items():
            given = own.get("labels") if key == "spec" and isinstance(own, dict) else labels
            # KServe names its container `model` and describes it beside the pod's own fields.
            if key == "predictor":
                model = part["model"] | {"name": "model", "image": f"kserve@sha256:{_PLACEHOLDER}"}
                service = {"serving.kserve.io/inferenceservice": value_name(value)}
                yield part | {"containers": [model]}, service
            else:
                yield from pods(part, given)
    elif isinstance(value, list):
        for part in value:
            yield from pods(part, labels)


def value_name(value: Object) -> str:
    """Name of the InferenceService around a spec; its selector label carries it."""
    return str(value.get("name", "ranker"))


def _of(objects: list[Object], kind: str) -> list[Object]:
    return [o for o in objects if o["kind"] == kind]


def _pod(owner: Object, pod: Object, labels: Object, objects: list[Object]) -> Iterator[str]:
    where = name(owner)
    context = pod.get("securityContext", {})
    served = owner["kind"] == "InferenceService"
    if context.get("runAsNonRoot") is not True:
        yield f"{where}: may run as root"
    if not served and not context.get("runAsUser", 0) > 0:
        yield f"{where}: no user of its own"
    if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield f"{where}: no seccomp profile"
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(field):
            yield f"{where}: {field}"
    account = pod.get("serviceAccountName", "")
    accounts = {a["metadata"]["name"] for a in _of(objects, "ServiceAccount")}
    if account in ("", "default"):
        yield f"{where}: no service account"
    elif accounts and account not in accounts:
        yield f"{where}: service account {account} does not exist"
    if pod.get("automountServiceAccountToken") is not False:
        yield f"{where}: mounts a token of the API server"
    for volume in pod.get("volumes", []):
        kinds = set(volume) - {"name"}
        if kinds - _VOLUMES:
            yield f"{where}: volume {volume['name']} of kind {kinds}"
    yield from _references(where, pod, objects)
    policies = _of(objects, "NetworkPolicy")
    if policies and not any(_selects(p["spec"]["podSelector"], labels) for p in policies):
        yield f"{where}: no network policy names its pods"
    if owner.get("metadata", {}).get("namespace") and not served:
        for label in ("app.kubernetes.io/part-of", "brewhouse.dev/cost-center"):
            if label not in labels:
                yield f"{where}: its pods lack the label {label}"
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        yield from _container(f"{where}: {container['name']}", container)


def _container(where: str, container: Object) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{where}: may gain privileges"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{where}: its root may be written"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or own["capabilities"].get("add"):
        yield f"{where}: keeps capabilities"
    image = container["image"]
    if not re.search(r"@sha256:[0-9a-f]{64}$", image):
        yield f"{where}: image {image} is not named by its digest"
    resources = container.get("resources", {})
    for part in ("requests", "limits"):
        if not {"cpu", "memory"} <= set(resources.get(part, {})):
            yield f"{where}: no {part} of cpu and memory"
    for variable in container.get("env", []):
        if _SECRET.search(variable["name"]) and variable.get("value"):
            yield f"{where}: {variable['name']} is written out; refer to a secret"


def _references(where: str, pod: Object, objects: list[Object]) -> Iterator[str]:
    claims = {c["metadata"]["name"] for c in _of(objects, "PersistentVolumeClaim")}
    maps = {c["metadata"]["name"] for c in _of(objects, "ConfigMap")}
    for volume in pod.get("volumes", []):
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim and claim not in claims:
            yield f"{where}: claim {claim} does not exist"
        config = volume.get("configMap", {}).get("name")
        if config and config not in maps:
            yield f"{where}: ConfigMap {config} does not exist"


def _selects(selector: Object, labels: Object) -> bool:
    """Whether a selector names these labels; one that names everything is no opening."""
    wanted = selector.get("matchLabels", {})
    if not wanted:
        return False
    return all(labels.get(key) == value for key, value in wanted.items())


def _namespaces(objects: list[Object]) -> Iterator[str]:
    spaces = [o["metadata"]["name"] for o in _of(objects, "Namespace")]
    for space in _of(objects, "Namespace"):
        if space["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name(space)}: pod security is not `restricted`"
    for value in objects:
        space = value["metadata"].get("namespace")
        if space and spaces and space not in spaces:
            yield f"{name(value)}: in namespace {space}, which is not here"
    for space in spaces:
        inside = [o for o in objects if o["metadata"].get("namespace") == space]
        for kind in ("ResourceQuota", "LimitRange"):
            if not _of(inside, kind):
                yield f"Namespace/{space}: no {kind}"
        closed = [
            p
            for p in _of(inside, "NetworkPolicy")
            if not p["spec"]["podSelector"]
            and set(p["spec"]["policyTypes"]) == {"Ingress", "Egress"}
            and not p["spec"].get("ingress")
            and not p["spec"].get("egress")
        ]
        if not closed:
            yield f"Namespace/{space}: traffic is not denied by default"


def _access(objects: list[Object]) -> Iterator[str]:
    roles = {(r["kind"], r["metadata"]["name"]): r for r in objects if r["kind"].endswith("Role")}
    accounts = {a["metadata"]["name"] for a in _of(objects, "ServiceAccount")}
    for role in roles.values():
        for rule in role["rules"]:
            for field in ("apiGroups", "resources", "verbs"):
                if "*" in rule[field]:
                    yield f"{name(role)}: a wildcard in {field}"
            wide = set(rule["resources"]) & {"secrets", "pods/exec", "pods/attach"}
            if "secrets" in wide and not rule.get("resourceNames"):
                yield f"{name(role)}: any secret"
            if wide - {"secrets"}:
                yield f"{name(role)}: may enter pods"
            if set(rule["verbs"]) & {"escalate", "bind", "impersonate"}:
                yield f"{name(role)}: may take rights of others"
    for binding in objects:
        if binding["kind"] in ("RoleBinding", "ClusterRoleBinding"):
            given = binding["roleRef"]
            if (given["kind"], given["name"]) not in roles:
                yield f"{name(binding)}: no {given['kind']} {given['name']}"
            for subject in binding["subjects"]:
                ours = binding["kind"] == "RoleBinding" and subject["kind"] == "ServiceAccount"
                if ours and subject["name"] not in accounts:
                    yield f"{name(binding)}: no account {subject['name']}"


def _availability(objects: list[Object]) -> Iterator[str]:
    budgets = [b["spec"]["selector"]["matchLabels"] for b in _of(objects, "PodDisruptionBudget")]
    for value in _of(objects, "Deployment"):
        template = value["spec"]["template"]
        labels = template["metadata"]["labels"]
        if not any(set(b.items()) <= set(labels.items()) for b in budgets):
            yield f"{name(value)}: no PodDisruptionBudget"
        for container in template["spec"]["containers"]:
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe not in container:
                    yield f"{name(value)}: {container['name']} has no {probe}"
