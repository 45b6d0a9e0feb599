"""`brewhouse doctor`: what a machine or a cluster has, and what to do about what it lacks."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brewhouse.cli.console import emit, table
from brewhouse.cli.data import Json
from brewhouse.cli.release import Home

if TYPE_CHECKING:
    from brewhouse.platform.checks import Check

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


def doctor(
    cluster: Annotated[
        bool, typer.Option("--cluster", help="The cluster of KUBECONFIG and its services instead")
    ] = False,
    needs: Annotated[
        Path | None,
        typer.Option(help="YAML with what a run will need: namespace, account, nodes, gpus, ..."),
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of the whole job")] = None,
    namespace: Annotated[str, typer.Option(help="Namespace of runs and jobs")] = "",
    account: Annotated[str, typer.Option(help="Account whose promises are checked")] = "",
    store: Annotated[str, typer.Option(help="Where versions are kept: written and deleted")] = "",
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Tell what this machine, or the cluster, has and what is missing, with the remedy."""
    from dataclasses import asdict

    from brewhouse.platform.checks import State

    if cluster:
        given = {"gpus": gpus, "namespace": namespace, "account": account}
        found = list(_cluster(needs, {k: v for k, v in given.items() if v not in ("", None)}))
        found += _services(home, store)
    else:
        found = list(examine(Path.cwd()))
    emit([asdict(check) for check in found], as_json, lambda: show(found))
    if any(check.state is State.MISSING for check in found):
        raise typer.Exit(14 if cluster else 1)


def _cluster(path: Path | None, changes: dict[str, Any]) -> Iterator[Check]:
    from brewhouse.domains.loader import read_yaml
    from brewhouse.platform.capacity import ClusterNeeds
    from brewhouse.platform.preflight import examine
    from brewhouse.training.config import parse_settings

    value = read_yaml(path)[0] if path else None
    yield from examine(parse_settings(ClusterNeeds, (value or {}) | changes, where="needs"))


def _services(home: str, store: str) -> Iterator[Check]:
    from brewhouse.platform.services import examine
    from brewhouse.release.settings import Settings

    settings = Settings.read(home)
    named = os.environ
    yield from examine(
        kfp_host=settings.kfp_host,
        tracking_uri=named.get("BREWHOUSE_TRACKING_URI", ""),
        database_uri=named.get("BREWHOUSE_DATABASE_URI", ""),
        signing_key=named.get("BREWHOUSE_SIGNING_KEY", ""),
        store=store,
        trusted_keys=named.get("BREWHOUSE_TRUSTED_KEYS", ""),
    )


def examine(folder: Path) -> Iterator[Check]:
    """Check interpreter, packages, disk, cores and an accelerator; imports nothing heavy."""
    from brewhouse.platform.checks import missing, ok

    version = sys.version.split()[0]
    if sys.version_info[:2] == (3, 11):
        yield ok("python", version)
    else:
        yield missing("python", version, "use Python 3.11")
    for package, extra in PACKAGES.items():
        try:
            yield ok(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield missing(package, "-", f"pip install 'brewhouse[{extra}]'")
    free = shutil.disk_usage(folder).free / 2**30
    if free > _ENOUGH_GIB:
        yield ok("disk", f"{free:.0f} GiB free")
    else:
        yield missing("disk", f"{free:.0f} GiB free", f"free {_ENOUGH_GIB} GiB in {folder}")
    yield ok("cores", str(os.cpu_count()))
    yield ok("platform", platform.platform())
    gpu = Path("/proc/driver/nvidia/version").exists()
    yield ok("accelerator", "NVIDIA driver" if gpu else "none; training runs on the CPU")


def show(found: list[Check]) -> None:
    """Print the findings."""
    table(
        "brewhouse doctor",
        ["part", "value", "state", "remedy"],
        [[c.name, c.value, c.state.value, c.remedy] for c in found],
        left=4,
    )
