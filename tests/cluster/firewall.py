"""NetworkPolicies in force: packets between pods that no policy opens a way for are dropped.

The plugins of Debian enforce none. This does what the API's documentation says of `ingress` and
`egress`, as rules of nftables on the node, renewed when pods or policies change. What a node itself
sends (probes of the kubelet) is let through, as the documentation has it.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tests.cluster.kubernetes import Kubernetes

Object = dict[str, Any]
_EVERY_S = 0.5


class Firewall:
    """Rules from what the API server holds."""

    def __init__(self, node: Kubernetes) -> None:
        self.node, self.rules = node, ""

    def renew(self) -> None:
        """Look again, and load the rules if they changed."""
        rules = _rules(*self._seen())
        if rules != self.rules:
            table = "table inet policies"
            self.node.inside("nft", "-f", "-", given=f"{table}\ndelete {table}\n{rules}")
            self.rules = rules

    def _seen(self) -> tuple[list[Object], list[Object], dict[str, Object]]:
        told = self.node.kubectl("get", "pods,networkpolicies,namespaces", "-A", "-o", "json")
        items = json.loads(told)["items"]
        namespaces = {
            o["metadata"]["name"]: {"kubernetes.io/metadata.name": o["metadata"]["name"]}
            | o["metadata"].get("labels", {})
            for o in items
            if o["kind"] == "Namespace"
        }
        pods = [
            {
                "ip": o["status"]["podIP"],
                "namespace": o["metadata"]["namespace"],
                "labels": o["metadata"].get("labels", {}),
                "ports": {
                    port["name"]: port["containerPort"]
                    for container in o["spec"]["containers"]
                    for port in container.get("ports", [])
                    if "name" in port
                },
            }
            for o in items
            if o["kind"] == "Pod"
            and o.get("status", {}).get("podIP")
            and o["status"]["phase"] not in {"Succeeded", "Failed"}
        ]
        return pods, [o for o in items if o["kind"] == "NetworkPolicy"], namespaces


@contextmanager
def enforced(node: Kubernetes) -> Iterator[None]:
    """Policies hold for as long as the block lasts."""
    wall, stopped = Firewall(node), threading.Event()

    def keep() -> None:
        while not stopped.wait(_EVERY_S):
            with suppress(AssertionError):
                wall.renew()

    wall.renew()
    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


_SIDES = {"Egress": ("saddr", "daddr", "to"), "Ingress": ("daddr", "saddr", "from")}
"""Where a packet has a pod's own address, where its peer's; how an opening names peers."""
_HOOK = "type filter hook forward priority 10; policy accept; ct state established,related accept"


def _rules(pods: list[Object], policies: list[Object], namespaces: dict[str, Object]) -> str:
    chains, jumps = [], []
    for pod in pods:
        for direction, (side, other, peers) in _SIDES.items():
            held = [policy for policy in policies if _holds(policy, pod, direction)]
            if not held:
                continue
            lines = [
                f"{match}{port}return"
                for policy in held
                for opening in policy["spec"].get(direction.lower(), [])
                for match, peer in _matches(opening.get(peers), other, pod, pods, namespaces)
                for port in _ports(opening, pod if direction == "Ingress" else peer)
            ]
            name = f"{direction.lower()}_{pod['ip'].replace('.', '_')}"
            chains.append(f"chain {name} {{ {'; '.join([*lines, 'drop'])}; }}")
            jumps.append(f"ip {side} {pod['ip']} jump {name}")
    known = ", ".join(pod["ip"] for pod in pods)
    parts = [
        f"set pods {{ type ipv4_addr; elements = {{ {known} }}; }}",
        *chains,
        f"chain forward {{ {'; '.join([_HOOK, *jumps])}; }}",
    ]
    return "table inet policies {\n" + "\n".join(parts) + "\n}\n"


def _matches(
    peers: list[Object] | None,
    side: str,
    pod: Object,
    pods: list[Object],
    namespaces: dict[str, Object],
) -> list[tuple[str, Object | None]]:
    """What a packet of one of the peers looks like, and the pod that it is; anyone's if unsaid."""
    if not peers:
        return [("", None)]
    return [
        (f"ip {side} {address} ", of)
        for peer in peers
        for address, of in _places(peer, pod["namespace"], pods, namespaces)
    ]


def _holds(policy: Object, pod: Object, direction: str) -> bool:
    spec = policy["spec"]
    return (
        policy["metadata"]["namespace"] == pod["namespace"]
        and direction in spec["policyTypes"]
        and _selects(spec["podSelector"], pod["labels"])
    )


def _places(
    peer: Object, own: str, pods: list[Object], namespaces: dict[str, Object]
) -> list[tuple[str, Object | None]]:
    """Addresses of a peer, with the pod that has each."""
    if block := peer.get("ipBlock"):
        kept = [ipaddress.ip_network(block["cidr"])]
        for text in block.get("except", []):
            out = ipaddress.ip_network(text)
            kept = [
                part
                for net in kept
                for part in (net.address_exclude(out) if out.subnet_of(net) else [net])
            ]
        return [(str(net), None) for net in kept if net.version == 4]  # noqa: PLR2004 - of the cable
    chosen = peer.get("namespaceSelector")
    return [
        (pod["ip"], pod)
        for pod in pods
        if (
            pod["namespace"] == own
            if chosen is None
            else _selects(chosen, namespaces.get(pod["namespace"], {}))
        )
        and _selects(peer.get("podSelector", {}), pod["labels"])
    ]


def _ports(opening: Object, target: Object | None) -> list[str]:
    found = []
    for port in opening.get("ports", []):
        protocol = port.get("protocol", "TCP").lower()
        number = port.get("port")
        if isinstance(number, str):
            number = (target or {"ports": {}})["ports"].get(number)
            if number is None:
                continue
        last = f"-{port['endPort']}" if "endPort" in port else ""
        found.append(f"{protocol} dport {number}{last} " if number else f"meta l4proto {protocol} ")
    return found if "ports" in opening else [""]


def _selects(selector: Object, labels: Object) -> bool:
    return all(labels.get(k) == v for k, v in selector.get("matchLabels", {}).items()) and all(
        _expression(one, labels) for one in selector.get("matchExpressions", [])
    )


def _expression(one: Object, labels: Object) -> bool:
    value = labels.get(one["key"])
    return {
        "In": lambda: value in one["values"],
        "NotIn": lambda: value not in one["values"],
        "Exists": lambda: one["key"] in labels,
        "DoesNotExist": lambda: one["key"] not in labels,
    }[one["operator"]]()
