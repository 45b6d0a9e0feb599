"""Writes the PrometheusRule of the manifests from the rules that promtool tests; `make docs`."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "monitoring" / "prometheus" / "rules.yaml"
TARGET = ROOT / "manifests" / "components" / "alerts" / "rules.yaml"


def manifest() -> str:
    """The rules as an object of the Prometheus operator."""
    value = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "brewhouse-drift"},
        "spec": yaml.safe_load(SOURCE.read_text()),
    }
    head = "# Written by `make docs` from monitoring/prometheus/rules.yaml; change that file.\n"
    return head + yaml.safe_dump(value, sort_keys=False, width=1000)


if __name__ == "__main__":
    TARGET.write_text(manifest())
