"""What `brewhouse doctor` says of a machine that lacks something."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections import namedtuple

import pytest
from typer.testing import CliRunner

from brewhouse.cli.main import app

Usage = namedtuple("Usage", "total used free")


def told(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    run = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return run.exit_code, {i["name"]: i for i in json.loads(run.stdout)}


@pytest.mark.parametrize(("free", "state"), [(7.9, "missing"), (8.1, "ok")])
def test_a_full_disk_is_told(monkeypatch: pytest.MonkeyPatch, free: float, state: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, int(free * 2**30)))
    code, found = told()
    assert code == (state == "missing")
    assert found["disk"]["state"] == state
    assert ("free 8 GiB in " in found["disk"]["remedy"]) == (state == "missing")


def test_an_absent_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**40))
    version = importlib.metadata.version

    def without(package: str) -> str:
        if package == "feast":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", without)
    code, found = told()
    assert code == 1
    assert found["feast"]["remedy"] == "pip install 'brewhouse[features]'"
    assert {i["state"] for name, i in found.items() if name != "feast"} == {"ok"}
