"""What an API server does with a custom resource: defaults, structural schema, then CEL rules."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import celpy
import yaml
from jsonschema import Draft202012Validator

CRDS = Path(__file__).resolve().parents[3] / "shared" / "crds"


class Crd:
    """One served version of a custom resource definition."""

    def __init__(self, definition: dict[str, Any], version: dict[str, Any]) -> None:
        spec = definition["spec"]
        self.group, self.kind = spec["group"], spec["names"]["kind"]
        self.plural, self.namespaced = spec["names"]["plural"], spec["scope"] == "Namespaced"
        self.version = version["name"]
        self.status = "status" in version.get("subresources", {})
        self.schema = version["schema"]["openAPIV3Schema"]

    def admit(self, value: dict[str, Any], old: dict[str, Any] | None = None) -> dict[str, Any]:
        """The object with defaults.

        Raises:
            ValueError: What an API server would refuse, one fault a line.
        """
        found = _defaulted(self.schema, copy.deepcopy(value))
        faults = [
            f"{'.'.join(map(str, e.absolute_path))}: {e.message}"
            for e in Draft202012Validator(_plain(self.schema)).iter_errors(found)
        ]
        faults += _unknown(self.schema, found, "")
        if not faults:
            faults = _rules(self.schema, found, old, "")
        if faults:
            raise ValueError(f"{self.kind}: " + "\n".join(faults))
        return found


@cache
def crds() -> dict[tuple[str, str], Crd]:
    """All served versions by (group/version, kind)."""
    found = {}
    for path in sorted(CRDS.glob("*.yaml")):
        definition = yaml.safe_load(path.read_text())
        for version in definition["spec"]["versions"]:
            if version["served"]:
                crd = Crd(definition, version)
                found[f"{crd.group}/{crd.version}", crd.kind] = crd
    return found


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    return schema.get("properties") or {}


def _defaulted(schema: dict[str, Any], value: Any) -> Any:
    if isinstance(value, dict):
        for name, part in _properties(schema).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                value[name] = _defaulted(part, value[name])
        extra = schema.get("additionalProperties")
        if isinstance(extra, dict):
            for name in value:
                value[name] = _defaulted(extra, value[name])
    elif isinstance(value, list):
        return [_defaulted(schema.get("items") or {}, item) for item in value]
    return value


def _plain(schema: Any) -> Any:
    """The schema in JSON Schema's words: int-or-string and nullable are Kubernetes' own."""
    if isinstance(schema, list):
        return [_plain(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: _plain(v) for k, v in schema.items() if not k.startswith("x-kubernetes")}
    if schema.get("x-kubernetes-int-or-string"):
        found.pop("anyOf", None)
        found["type"] = ["integer", "string"]
    if found.pop("nullable", False) and isinstance(found.get("type"), str):
        found["type"] = [found["type"], "null"]
    found.pop("format", None)
    found.pop("default", None)
    return found


def _unknown(schema: dict[str, Any], value: Any, path: str) -> list[str]:
    """Fields that the server would drop, which strict clients are told of."""
    if isinstance(value, list):
        part = schema.get("items") or {}
        return [f for i, v in enumerate(value) for f in _unknown(part, v, f"{path}[{i}]")]
    if not isinstance(value, dict) or schema.get("x-kubernetes-preserve-unknown-fields"):
        return []
    extra = schema.get("additionalProperties")
    known, faults = _properties(schema), []
    if not known and not extra:
        return []
    for name, item in value.items():
        here = f"{path}.{name}".lstrip(".")
        if name in known:
            faults += [] if here == "metadata" else _unknown(known[name], item, here)
        elif isinstance(extra, dict):
            faults += _unknown(extra, item, here)
        elif not extra:
            faults.append(f"{here}: unknown field")
    return faults


def _rules(schema: dict[str, Any], value: Any, old: Any, path: str) -> list[str]:
    faults = []
    for rule in schema.get("x-kubernetes-validations", []):
        transition = "oldSelf" in rule["rule"]
        if transition and old is None:
            continue
        given = {"self": celpy.json_to_cel(value)}
        if transition:
            given["oldSelf"] = celpy.json_to_cel(old)
        if not _program(rule["rule"]).evaluate(given):
            faults.append(f"{path}: {rule.get('message', rule['rule'])}")
    if isinstance(value, dict):
        extra = schema.get("additionalProperties")
        for name, item in value.items():
            part = _properties(schema).get(name) or (extra if isinstance(extra, dict) else None)
            if part:
                before = old.get(name) if isinstance(old, dict) else None
                faults += _rules(part, item, before, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        keys = schema.get("x-kubernetes-list-map-keys")
        for index, item in enumerate(value):
            before = None
            if keys and isinstance(old, list):
                same = [o for o in old if all(o.get(k) == item.get(k) for k in keys)]
                before = same[0] if same else None
            faults += _rules(schema.get("items") or {}, item, before, f"{path}[{index}]")
    return faults


@cache
def _program(rule: str) -> celpy.Runner:
    environment = celpy.Environment()
    return environment.program(environment.compile(rule))
