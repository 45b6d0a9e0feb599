"""What a server of Kubernetes 1.20 does not know of today's objects, taken out of them.

CEL rules of custom resources are checked by `tests/kube/schema.py` instead.
"""

from __future__ import annotations

import sys
from typing import Any

import yaml

Object = dict[str, Any]
_VERSIONS = {
    ("batch/v1", "CronJob"): "batch/v1beta1",
    ("policy/v1", "PodDisruptionBudget"): "policy/v1beta1",
}


def lowered(value: Object) -> Object:
    """An object as 1.20 takes it."""
    kind = value["kind"]
    if kind == "CustomResourceDefinition":
        value = _schema(value)
    version = value["apiVersion"]
    found = value | {"apiVersion": _VERSIONS.get((version, kind), version)}
    if kind == "Service":
        # Server-side apply of 1.20 knows no default of a key.
        ports = [{"protocol": "TCP"} | port for port in value["spec"]["ports"]]
        found["spec"] = value["spec"] | {"ports": ports}
    if kind == "CronJob":
        found["spec"] = {k: v for k, v in value["spec"].items() if k != "timeZone"}
    return found


def _schema(value: Any) -> Any:
    """Without CEL."""
    if isinstance(value, list):
        return [_schema(part) for part in value]
    if not isinstance(value, dict):
        return value
    return {k: _schema(v) for k, v in value.items() if k != "x-kubernetes-validations"}


def main() -> None:
    """Lower a stream of YAML."""
    values = [lowered(value) for value in yaml.safe_load_all(sys.stdin) if value]
    print(yaml.safe_dump_all(values))


if __name__ == "__main__":
    main()
