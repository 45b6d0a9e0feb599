"""An object store on premises: who holds its keys reaches it, and nobody holds them elsewhere."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml

from tests.kube.policy import Object, findings, pods
from tests.kube.test_manifests import MANIFESTS, VERSIONS, built

SECRET = "brewhouse-store"  # noqa: S105 - its name
PORTS = {9000, 8333}


@pytest.fixture(scope="module")
def on_premises(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    """Production, with its store on premises."""
    copy = tmp_path_factory.mktemp("on-premises") / "manifests"
    shutil.copytree(MANIFESTS, copy)
    path = copy / "overlays" / "prod" / "kustomization.yaml"
    overlay = yaml.safe_load(path.read_text())
    overlay["components"].append("../../components/store-on-premises")
    path.write_text(yaml.safe_dump(overlay))
    return built(path.parent)


def holders(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Names and labels of pods that take the secret."""
    for value in objects:
        for pod, labels in pods(value):
            for container in pod["containers"]:
                sources = [s.get("secretRef", {}) for s in container.get("envFrom", [])]
                if any(s.get("name") == SECRET for s in sources):
                    yield value["metadata"]["name"], labels


def reached(objects: list[Object], labels: Object) -> set[int]:
    """Ports that a pod may call anywhere."""
    found: set[int] = set()
    for value in objects:
        if value["kind"] != "NetworkPolicy":
            continue
        selector = value["spec"]["podSelector"]
        wanted = selector.get("matchLabels", {}).items()
        rules = selector.get("matchExpressions", [])
        if all(labels.get(k) == v for k, v in wanted) and all(
            r["key"] in labels if r["operator"] == "Exists" else labels.get(r["key"]) in r["values"]
            for r in rules
        ):
            for rule in value["spec"].get("egress", []):
                if "to" not in rule:
                    found |= {p["port"] for p in rule["ports"]}
    return found


def test_who_holds_its_keys_reaches_it(on_premises: list[Object]) -> None:
    assert findings(on_premises) == []
    for value in on_premises:
        if value["kind"] == "NetworkPolicy":
            for version in VERSIONS:
                kubernetes_validate.validate(value, version, strict=True)
    held = dict(holders([*on_premises, *built(MANIFESTS / "cluster")]))
    assert set(held) == {"console", "drift-monitor", "brewhouse-train"}
    steps = {"pipeline/runid": "1", "app.kubernetes.io/part-of": "brewhouse"}
    served = {"serving.kserve.io/inferenceservice": "ranker"}
    for name, labels in {**held, "steps": steps, "served": served}.items():
        assert reached(on_premises, labels) >= PORTS, name


def test_elsewhere_nothing_asks_for_them() -> None:
    assert list(holders(built(MANIFESTS / "overlays/prod"))) == []
