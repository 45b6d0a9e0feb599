"""What NetworkPolicies mean, as the API's reference has it: rules for pods that are made up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.firewall import _rules

PODS = [
    {
        "ip": f"10.244.0.{number}",
        "namespace": namespace,
        "labels": {"app": app},
        "ports": {"http": 8000 + number},
    }
    for number, (namespace, app) in enumerate(
        [("ours", "web"), ("ours", "store"), ("theirs", "web"), ("theirs", "store")], start=2
    )
]
WEB, STORE, THEIR_WEB, THEIR_STORE = (pod["ip"] for pod in PODS)
NAMESPACES = {name: {"kubernetes.io/metadata.name": name} for name in ("ours", "theirs")}
THEIRS = {"matchLabels": {"kubernetes.io/metadata.name": "theirs"}}
STORES = {"matchLabels": {"app": "store"}}


def _chain(direction: str, opening: dict[str, Any] | None) -> list[str]:
    """Lines of web's chain, under a policy with one opening or none."""
    spec: dict[str, Any] = {
        "podSelector": {"matchLabels": {"app": "web"}},
        "policyTypes": [direction],
    }
    if opening is not None:
        spec[direction.lower()] = [opening]
    policy = {"metadata": {"namespace": "ours"}, "spec": spec}
    rules = _rules(PODS, [policy], NAMESPACES).splitlines()
    name = f"{direction.lower()}_{WEB.replace('.', '_')}"
    (line,) = [line for line in rules if line.startswith(f"chain {name} ")]
    # Nobody else is kept in or out, in whichever namespace.
    assert (
        len([line for line in rules if line.startswith(("chain egress_", "chain ingress_"))]) == 1
    )
    return line.partition("{ ")[2].removesuffix("; }").split("; ")


@pytest.mark.parametrize(
    ("opening", "lines"),
    [
        (None, []),
        # Nobody named is anybody, nothing named is any port.
        ({}, ["return"]),
        ({"to": [], "ports": []}, ["return"]),
        ({"ports": [{"port": 443}]}, ["tcp dport 443 return"]),
        ({"ports": [{"port": 53, "protocol": "UDP"}]}, ["udp dport 53 return"]),
        ({"ports": [{"protocol": "UDP"}]}, ["meta l4proto udp return"]),
        ({"ports": [{"port": 8000, "endPort": 8009}]}, ["tcp dport 8000-8009 return"]),
        # A selector alone is of the policy's own namespace, both are of that of the other.
        ({"to": [{"podSelector": STORES}]}, [f"ip daddr {STORE} return"]),
        (
            {"to": [{"namespaceSelector": THEIRS}]},
            [f"ip daddr {THEIR_WEB} return", f"ip daddr {THEIR_STORE} return"],
        ),
        (
            {"to": [{"namespaceSelector": THEIRS, "podSelector": STORES}]},
            [f"ip daddr {THEIR_STORE} return"],
        ),
        (
            {"to": [{"namespaceSelector": {}, "podSelector": STORES}]},
            [f"ip daddr {STORE} return", f"ip daddr {THEIR_STORE} return"],
        ),
        # A name is the port that each of the peers calls so.
        (
            {"to": [{"podSelector": STORES}], "ports": [{"port": "http"}]},
            [f"ip daddr {STORE} tcp dport 8003 return"],
        ),
        ({"to": [{"podSelector": STORES}], "ports": [{"port": "absent"}]}, []),
        # What is left of a block, however its exceptions overlap.
        (
            {
                "to": [
                    {"ipBlock": {"cidr": "10.0.0.0/30", "except": ["10.0.0.0/32", "10.0.0.0/31"]}}
                ]
            },
            ["ip daddr 10.0.0.2/31 return"],
        ),
    ],
)
def test_what_goes_out(opening: dict[str, Any] | None, lines: list[str]) -> None:
    assert _chain("Egress", opening) == [*lines, "drop"]


@pytest.mark.parametrize(
    ("opening", "lines"),
    [
        ({"from": [{"podSelector": STORES}]}, [f"ip saddr {STORE} return"]),
        # A name is a port of the pod that is asked.
        ({"ports": [{"port": "http"}]}, ["tcp dport 8002 return"]),
    ],
)
def test_what_comes_in(opening: dict[str, Any], lines: list[str]) -> None:
    assert _chain("Ingress", opening) == [*lines, "drop"]


@pytest.mark.parametrize(
    ("expression", "chosen"),
    [
        ({"key": "app", "operator": "In", "values": ["store"]}, {STORE}),
        ({"key": "app", "operator": "NotIn", "values": ["store"]}, {WEB}),
        ({"key": "app", "operator": "Exists"}, {WEB, STORE}),
        ({"key": "app", "operator": "DoesNotExist"}, set()),
    ],
)
def test_expressions_choose(expression: dict[str, Any], chosen: set[str]) -> None:
    lines = _chain("Egress", {"to": [{"podSelector": {"matchExpressions": [expression]}}]})
    assert lines == [*(f"ip daddr {ip} return" for ip in sorted(chosen)), "drop"]
