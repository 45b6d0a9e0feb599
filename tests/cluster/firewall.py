"""NetworkPolicies in force: packets between pods that no policy opens a way for are dropped.

The plugins of Debian enforce none. This does what the API's documentation says of `ingress` and
`egress`, as rules of nftables on the node, renewed when pods or policies change. What a node itself
sends (probes of the kubelet) is let through, as the documentation has it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.cluster.kubernetes import PODS, Kubernetes
from tests.cluster.wait import kept

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
        namespaces = {
            o["metadata"]["name"]: {"kubernetes.io/metadata.name": o["metadata"]["name"]}
            | (o["metadata"].get("labels") or {})
            for o in self.node.listed("/api/v1/namespaces")
        }
        pods = [
            {
                "ip": o["status"]["podIP"],
                "namespace": o["metadata"]["namespace"],
                "labels": o["metadata"].get("labels") or {},
                "ports": {
                    port["name"]: port["containerPort"]
                    for container in o["spec"]["containers"]
                    for port in container.get("ports") or []
                    if "name" in port
                },
            }
            for o in self.node.listed("/api/v1/pods")
            if o.get("status", {}).get("podIP")
            and o["status"]["phase"] not in {"Succeeded", "Failed"}
        ]
        policies = self.node.listed("/apis/networking.k8s.io/v1/networkpolicies")
        return pods, policies, namespaces


@contextmanager
def enforced(node: Kubernetes) -> Iterator[None]:
    """Policies hold for as long as the block lasts."""
    wall = Firewall(node)
    wall.renew()
    with kept(wall.renew, _EVERY_S, "the firewall"):
        yield


_SIDES = {"Egress": ("saddr", "daddr", "to"), "Ingress": ("daddr", "saddr", "from")}
"""Where a packet has a pod's own address, where its peer's; how an opening names peers."""
_HOOK = "type filter hook {} priority 10; policy accept; ct state established,related accept"


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
                for port in _ports(opening, [pod] if direction == "Ingress" else peer)
            ]
            name = f"{direction.lower()}_{pod['ip'].replace('.', '_')}"
            chains.append(f"chain {name} {{ {'; '.join([*lines, 'drop'])}; }}")
            jumps.append(f"ip {side} {pod['ip']} jump {name}")
    known = ", ".join(pod["ip"] for pod in pods)
    # A pod that has not been seen yet says nothing, nor does any by IPv6.
    strangers = [f"ip saddr {PODS} ip saddr != @pods drop", "meta nfproto ipv6 drop"]
    # To the node itself, where the API server answers, goes what may leave the pod.
    outward = [jump for jump in jumps if "saddr" in jump]
    parts = [
        f"set pods {{ type ipv4_addr; elements = {{ {known} }}; }}",
        *chains,
        f"chain forward {{ {'; '.join([_HOOK.format('forward'), *strangers, *jumps])}; }}",
        f"chain input {{ {'; '.join([_HOOK.format('input'), *outward])}; }}",
    ]
    return "table inet policies {\n" + "\n".join(parts) + "\n}\n"


def _matches(
    peers: list[Object] | None,
    side: str,
    pod: Object,
    pods: list[Object],
    namespaces: dict[str, Object],
) -> list[tuple[str, list[Object]]]:
    """What a packet of a peer looks like, and which pods it may be of; anyone's if unsaid."""
    if not peers:
        return [("", pods)]
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
) -> list[tuple[str, list[Object]]]:
    """Addresses of a peer, with the pods that have them."""
    if block := peer.get("ipBlock"):
        kept_nets = [ipaddress.ip_network(block["cidr"])]
        for out in map(ipaddress.ip_network, block.get("except", [])):
            kept_nets = [part for net in kept_nets for part in _without(net, out)]
        return [(str(net), []) for net in kept_nets]
    chosen = peer.get("namespaceSelector")
    return [
        (pod["ip"], [pod])
        for pod in pods
        if (
            pod["namespace"] == own
            if chosen is None
            else _selects(chosen, namespaces.get(pod["namespace"], {}))
        )
        and _selects(peer.get("podSelector") or {}, pod["labels"])
    ]


def _without(net: Any, out: Any) -> list[Any]:
    if net.subnet_of(out):
        return []
    return list(net.address_exclude(out)) if out.subnet_of(net) else [net]


def _ports(opening: Object, targets: list[Object]) -> list[str]:
    """What a packet to one of the ports looks like; a name is a port of each target that has it."""
    found = []
    for port in opening.get("ports") or [{}]:
        protocol = port.get("protocol", "TCP").lower()
        number = port.get("port")
        if not port:
            found.append("")
        elif number is None:
            found.append(f"meta l4proto {protocol} ")
        elif isinstance(number, str):
            named = {pod["ports"][number]: None for pod in targets if number in pod["ports"]}
            found += [f"{protocol} dport {one} " for one in named]
        else:
            last = f"-{port['endPort']}" if "endPort" in port else ""
            found.append(f"{protocol} dport {number}{last} ")
    return found


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
