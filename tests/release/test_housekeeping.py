"""What may be thrown away, and what never is."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from brewhouse.cli.main import app
from brewhouse.errors import ConfigError, RegistryError
from brewhouse.release import housekeeping
from brewhouse.release.settings import Settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _folder(path: Path, days: float, size: int = 10) -> Path:
    path.mkdir(parents=True)
    (path / "inner").mkdir()
    (path / "inner" / "file").write_bytes(b"x" * size)
    moment = (NOW - timedelta(days=days)).timestamp()
    for one in (path / "inner" / "file", path / "inner", path):
        os.utime(one, (moment, moment))
    return path


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Version 3 is in use, 4 waits, 1 and 2 were before."""
    monkeypatch.setattr(housekeeping, "_needed", lambda _: {"3", "4"})
    _folder(tmp_path / "runs" / "train-old", 40, size=1000)
    _folder(tmp_path / "runs" / "train-new", 3)
    for version, days in {"1": 90, "2": 20, "3": 90, "4": 90}.items():
        _folder(tmp_path / "observations" / "ranker" / version, days)
    # Of a model that shares the workspace: this registry says nothing of its versions.
    _folder(tmp_path / "observations" / "other" / "1", 90)
    return tmp_path


def _names(workspace: Path, days: float = 30) -> list[str]:
    settings = Settings.read(workspace / "home")
    found = housekeeping.waste(workspace, settings, days=days, now=NOW)
    return [one.path.relative_to(workspace).as_posix() for one in found]


def test_old_runs_and_versions_out_of_use_may_go(workspace: Path) -> None:
    assert _names(workspace) == ["runs/train-old", "observations/ranker/1"]
    assert _names(workspace, days=1000) == []


def test_a_run_in_which_anything_changed_stays(workspace: Path) -> None:
    """A folder's own time does not change with a file deep inside."""
    deep = workspace / "runs" / "train-old" / "inner" / "file"
    moment = (NOW - timedelta(days=1)).timestamp()
    os.utime(deep, (moment, moment))
    assert _names(workspace) == ["observations/ranker/1"]


def test_a_trained_model_stays(workspace: Path) -> None:
    """Nothing says here that its run registered it."""
    run = workspace / "runs" / "train-old"
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_bytes(b"weights")
    moment = (NOW - timedelta(days=40)).timestamp()
    for path in (run / "model" / "model.safetensors", run / "model", run):
        os.utime(path, (moment, moment))
    settings = Settings.read(workspace / "home")
    (found, _) = housekeeping.waste(workspace, settings, days=30, now=NOW)
    assert found.bytes < 1000 + 3 * 4096 + 1
    housekeeping.remove(found)
    assert [p.name for p in run.iterdir()] == ["model"]
    assert (run / "model" / "model.safetensors").read_bytes() == b"weights"
    assert "runs/train-old" not in _names(workspace)


def test_a_link_is_never_followed(
    workspace: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = _folder(tmp_path_factory.mktemp("elsewhere") / "kept", 90)
    (workspace / "runs" / "link").symlink_to(elsewhere)
    assert "runs/link" not in _names(workspace)


def test_a_folder_that_is_no_workspace_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds neither runs/ nor observations/"):
        _names(tmp_path)


def test_listed_first_and_removed_when_told(workspace: Path) -> None:
    command = ["gc", "--workspace", str(workspace), "--older-than", "0", "--json"]
    listed = CliRunner().invoke(app, command)
    assert listed.exit_code == 0, listed.output
    told = json.loads(listed.stdout)
    assert (told["deleted"], len(told["folders"])) == (False, 4)
    assert (workspace / "runs" / "train-old").is_dir()
    removed = json.loads(CliRunner().invoke(app, [*command, "--delete"]).stdout)
    assert removed["bytes"] == told["bytes"]
    left = sorted(p.relative_to(workspace).as_posix() for p in workspace.glob("observations/*/*"))
    assert left == ["observations/other/1", "observations/ranker/3", "observations/ranker/4"]
    assert not list((workspace / "runs").iterdir())


def test_what_is_in_use_or_waits_is_asked_of_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Known:
        def __init__(self, _uri: str) -> None:
            pass

        def versions(self, _model: str) -> dict[str, object]:
            states = {"1": "REJECTED", "2": "CHAMPION", "3": "PENDING_APPROVAL", "4": "APPROVED"}
            tag = housekeeping.STATE_TAG
            return {n: type("V", (), {"tags": {tag: state}}) for n, state in states.items()}

        def alias(self, _model: str, _alias: str) -> str:
            return "2"

    monkeypatch.setattr(housekeeping, "Registry", Known)
    assert housekeeping._needed(Settings.read(tmp_path)) == {"2", "3", "4"}
    monkeypatch.setattr(Known, "alias", lambda *_: "")
    with pytest.raises(RegistryError, match="has no champion .* nothing says what is in use"):
        housekeeping._needed(Settings.read(tmp_path))


def test_a_registry_that_is_away_is_no_registry_without_a_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = Settings.read(tmp_path).at("http://127.0.0.1:1")
    with pytest.raises(RegistryError):
        housekeeping._needed(away)
