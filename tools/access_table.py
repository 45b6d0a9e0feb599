"""Writes docs/reference/access.md from the production overlay: who may do what; `make docs`."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "docs" / "reference" / "access.md"
OVERLAY = ROOT / "manifests" / "overlays" / "prod"
Object = dict[str, Any]
Right = tuple[str, str, str]
"""API group, resource and verb."""

HEAD = """# Who may do what in a cluster

Written by `make docs` from `manifests/overlays/prod`; change the manifests. Tests hold what the
code asks of the API server and of Kubeflow Pipelines to these rights, in both directions: nothing
is asked that is not granted, and of what is ours nothing is granted that is not asked.
"""
ASKED_BY_OTHERS = {
    "brewhouse-pipeline-step": "Kubeflow Pipelines' own executor, driver and launcher",
    "brewhouse-run-reader": "Kubeflow Pipelines' own driver",
}
"""Roles whose rights are for what others' code does with our accounts."""


@cache
def objects() -> list[Object]:
    """What the overlay applies."""
    built = subprocess.run(
        ["kubectl", "kustomize", str(OVERLAY)], capture_output=True, text=True, check=True
    )
    return [o for o in yaml.safe_load_all(built.stdout) if o]


def rights(role: Object) -> set[Right]:
    """Of a role; a resource that is narrowed to names bears them in brackets."""
    found = set()
    for rule in role["rules"]:
        names = f" ({', '.join(rule['resourceNames'])})" if rule.get("resourceNames") else ""
        for group in rule["apiGroups"]:
            found |= {(group, r + names, v) for r in rule["resources"] for v in rule["verbs"]}
    return found


def granted(found: list[Object]) -> dict[str, dict[str, set[Right]]]:
    """Rights of every account, by role."""
    roles = {o["metadata"]["name"]: o for o in found if o["kind"] == "Role"}
    accounts: dict[str, dict[str, set[Right]]] = {
        o["metadata"]["name"]: {} for o in found if o["kind"] == "ServiceAccount"
    }
    for binding in (o for o in found if o["kind"] == "RoleBinding"):
        role = binding["roleRef"]["name"]
        for subject in binding["subjects"]:
            held = (
                accounts.setdefault(f"{subject['kind'].lower()} {subject['name']}", {})
                if (subject["kind"] != "ServiceAccount")
                else accounts[subject["name"]]
            )
            held[role] = rights(roles[role])
    return accounts


def page(found: list[Object]) -> str:
    """The page."""
    accounts = granted(found)
    kept = {o["metadata"]["name"]: o for o in found if o["kind"] == "ServiceAccount"}
    lines = [HEAD, "## Accounts", "", "| account | used by | token | roles |", "|---|---|---|---|"]
    for name in sorted(accounts):
        account = kept.get(name, {"metadata": {}})
        note = account["metadata"].get("annotations", {}).get("brewhouse.dev/used-by", "people")
        token = "yes" if account.get("automountServiceAccountToken") else "none"
        lines.append(f"| `{name}` | {note} | {token} | {_codes(sorted(accounts[name]))} |")
    lines += ["", "## Rights", "", "An account may do what is marked, and nothing else.", ""]
    holders = sorted(name for name, roles in accounts.items() if roles)
    every = sorted({right for roles in accounts.values() for rs in roles.values() for right in rs})
    lines += [f"| right | {' | '.join(holders)} |", f"|---|{'---|' * len(holders)}"]
    for right in every:
        marks = [
            "may" if any(right in rs for rs in accounts[name].values()) else "-" for name in holders
        ]
        group, resource, verb = right
        lines.append(f"| {verb} `{f'{group}/' if group else ''}{resource}` | {' | '.join(marks)} |")
    without = sorted(name for name, roles in accounts.items() if not roles)
    lines += ["", f"No right at all: {_codes(without)}.", ""]
    lines += [f"Of `{role}`: asked by {who}." for role, who in ASKED_BY_OTHERS.items()]
    lines += [
        "",
        "## Traffic",
        "",
        "Of `prod`; `store-on-premises` adds three. All other traffic is denied.",
        "",
    ]
    lines += ["| policy | pods | asked by | asks |", "|---|---|---|---|"]
    for policy in (o for o in found if o["kind"] == "NetworkPolicy"):
        spec = policy["spec"]
        if not spec["podSelector"] and not spec.get("egress"):
            continue
        into = "; ".join(_opening(one, "from") for one in spec.get("ingress", [])) or "nobody"
        if "Ingress" not in spec["policyTypes"]:
            into = "as others say"
        out = "; ".join(_opening(one, "to") for one in spec.get("egress", [])) or "nobody"
        name = policy["metadata"]["name"]
        lines.append(f"| `{name}` | {_selected(spec['podSelector'])} | {into} | {out} |")
    return "\n".join(lines) + "\n"


def _codes(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def _selected(selector: Object) -> str:
    parts = [f"{key}={value}" for key, value in sorted(selector.get("matchLabels", {}).items())]
    parts += [f"{one['key']} set" for one in selector.get("matchExpressions", [])]
    return ", ".join(f"`{part}`" for part in parts) or "all"


def _opening(one: Object, side: str) -> str:
    places = []
    for peer in one.get(side, []):
        where = []
        if "namespaceSelector" in peer:
            space = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            where.append(f"namespace {space}")
        if "podSelector" in peer:
            where.append(_selected(peer["podSelector"]))
        places.append(" ".join(where))
    ports = sorted({str(port["port"]) for port in one.get("ports", [])}, key=lambda p: p.zfill(6))
    told = " or ".join(places) or "anyone"
    return f"{told} on {', '.join(ports)}" if ports else told


if __name__ == "__main__":
    TARGET.write_text(page(objects()))
