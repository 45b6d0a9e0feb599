"""What a machine has, and what to do about what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

from brewhouse.cli.console import emit, table

PACKAGES = {
    "kfp": "pipelines",
    "kubernetes": "pipelines",
    "feast": "features",
    "great-expectations": "validation",
    "torch": "train",
    "transformers": "train",
    "deepspeed": "train",
    "lightgbm": "baselines",
    "mlflow": "tracking",
    "matplotlib": "report",
    "evidently": "drift",
}
_ENOUGH_GIB = 8


def examine(folder: Path) -> list[dict[str, Any]]:
    """Check interpreter, packages, disk, cores and an accelerator; imports nothing heavy."""
    found = [
        _item(
            "python",
            sys.version.split()[0],
            "ok" if sys.version_info[:2] == (3, 11) else "missing",
            "use Python 3.11",
        )
    ]
    for package, extra in PACKAGES.items():
        try:
            version = importlib.metadata.version(package)
            found.append(_item(package, version, "ok", ""))
        except importlib.metadata.PackageNotFoundError:
            found.append(_item(package, "-", "missing", f"pip install 'brewhouse[{extra}]'"))
    free = shutil.disk_usage(folder).free / 2**30
    found.append(
        _item(
            "disk",
            f"{free:.0f} GiB free",
            "ok" if free > _ENOUGH_GIB else "missing",
            f"free {_ENOUGH_GIB} GiB in {folder}",
        )
    )
    found.append(_item("cores", str(os.cpu_count()), "ok", ""))
    found.append(_item("platform", platform.platform(), "ok", ""))
    gpu = Path("/proc/driver/nvidia/version").exists()
    found.append(
        _item(
            "accelerator",
            "NVIDIA driver" if gpu else "none",
            "ok",
            "" if gpu else "not needed: training runs on the CPU",
        )
    )
    return found


def _item(name: str, value: str, state: str, remedy: str) -> dict[str, Any]:
    return {"name": name, "value": value, "state": state, "remedy": remedy}


def show(found: list[dict[str, Any]], as_json: bool) -> None:
    """Print the findings."""
    emit(
        found,
        as_json,
        lambda: table(
            "brewhouse doctor",
            ["part", "value", "state", "remedy"],
            [
                [i["name"], i["value"], i["state"], i["remedy"] if i["state"] != "ok" else ""]
                for i in found
            ],
            left=4,
        ),
    )
