"""From trigger to run: one run wherever it dies, told what it was told first, on the past alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from brewhouse.drift.policy import load_drift_policy
from brewhouse.errors import ConfigError, PipelineError
from brewhouse.platform import pipelines
from brewhouse.platform.database import Database
from brewhouse.platform.drift_log import DriftLog
from brewhouse.release import retraining
from brewhouse.release.settings import Settings
from tests.kfp.server import Open, Server, serve

AS_OF = datetime(2026, 5, 10, 6, tzinfo=UTC)
BASE = {"domain": "linkedin", "preset": "tiny", "train_end": "2020-01-01", "champion": "none"}
POLICY = load_drift_policy("default")


@pytest.fixture
def log(tmp_path: Path) -> DriftLog:
    found = DriftLog(Database(f"sqlite:///{tmp_path / 'b.db'}"), "ranker")
    found.order("3", date(2026, 5, 8), actor="olga", reason="the feed changed")
    return found


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.read(tmp_path / "home")


@pytest.fixture
def kubeflow(settings: Settings) -> Iterator[tuple[Server, Settings]]:
    """A server of pipelines, and settings that name it."""
    with serve() as (held, address):
        yield held, replace(settings, kfp_host=address)


def _start(log: DriftLog, settings: Settings) -> list[retraining.Started]:
    return retraining.start(log, settings, POLICY, BASE, as_of=AS_OF)


def test_kubeflow_gets_one_run_however_often(
    log: DriftLog, kubeflow: tuple[Server, Settings]
) -> None:
    server, where = kubeflow
    server.lose = ["after"]
    (started,) = _start(log, where)
    assert list(server.runs) == [started.run]
    assert server.runs[started.run]["display_name"] == started.trigger
    assert server.runs[started.run]["service_account"] == "brewhouse-train"
    assert log.triggers()[0].run == started.run
    assert _start(log, where) == []
    assert len(server.runs) == 1


def test_two_who_start_at_the_same_moment_share_a_run(
    log: DriftLog, kubeflow: tuple[Server, Settings]
) -> None:
    """The monitor and a person: both looked before either had started."""
    server, where = kubeflow
    server.lock = Open()  # type: ignore[assignment]
    theirs: list[list[retraining.Started]] = []
    server.meanwhile = lambda: theirs.append(_start(log, where))
    ours = _start(log, where)
    assert ours[0].run == theirs[0][0].run == log.triggers()[0].run
    assert sorted(run["state"] for run in server.runs.values()) == ["CANCELING", "PENDING"]
    assert server.runs[ours[0].run]["state"] == "PENDING"


def test_how_a_run_ended_is_noted(log: DriftLog, kubeflow: tuple[Server, Settings]) -> None:
    server, where = kubeflow
    (started,) = _start(log, where)
    retraining.note_ends(log, where)
    assert log.triggers()[0].ended == ""
    server.runs[started.run] |= {"state": "FAILED", "error": {"message": "out of memory"}}
    server.down = 1
    retraining.note_ends(log, where)
    assert log.triggers()[0].ended == "FAILED"
    # It has its run: nothing is started for it again.
    assert _start(log, where) == []


def test_a_run_is_told_the_past_alone_and_why(
    log: DriftLog, kubeflow: tuple[Server, Settings]
) -> None:
    server, where = kubeflow
    _start(log, where)
    (run,) = server.runs.values()
    told, trigger = run["runtime_config"]["parameters"], run["display_name"]
    # Window's end less maturity (3), tests (14) and gap (2).
    assert told["train_end"] == "2026-04-19"
    assert told["until"] == AS_OF.isoformat()
    assert told["trigger"] == told["run_id"] == trigger
    assert told["trigger_window"] == "2026-05-08/2026-05-08"
    assert told["trigger_reason"] == "the feed changed"
    # Whatever the run of before was compared with, this one is compared with the champion.
    assert told["champion"] == ""
    assert told["preset"] == "tiny"
    # Every argument is one that the pipeline knows.
    known = pipelines.load_pipeline(retraining.PIPELINE).pipeline_spec.root.input_definitions
    assert set(told) <= set(known.parameters)


def test_a_local_run_that_died_goes_on_as_it_began(
    log: DriftLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def dies_once(_name: str, arguments: dict[str, Any], *_: Any, **__: Any) -> None:
        told.append(arguments)
        if len(told) == 1:
            msg = "killed"
            raise PipelineError(msg)

    monkeypatch.setattr(retraining, "run_local", dies_once)
    with pytest.raises(PipelineError, match="killed"):
        _start(log, settings)
    later = datetime(2026, 6, 1, tzinfo=UTC)
    (started,) = retraining.start(log, settings, POLICY, BASE, as_of=later)
    assert told[0] == told[1]
    assert told[0]["home"] == str(settings.home)
    assert _start(log, settings) == []
    assert len(told) == 2
    assert log.triggers()[0].ended == "SUCCEEDED"


def test_a_corrected_argument_reaches_a_run_that_failed(
    log: DriftLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[dict[str, Any]] = []

    def wants_data(_name: str, arguments: dict[str, Any], *_: Any, **__: Any) -> None:
        told.append(arguments)
        if arguments["source"] == "/wrong":
            msg = "no files in /wrong"
            raise PipelineError(msg)

    monkeypatch.setattr(retraining, "run_local", wants_data)
    with pytest.raises(PipelineError, match="no files"):
        retraining.start(log, settings, POLICY, BASE | {"source": "/wrong"}, as_of=AS_OF)
    assert log.triggers()[0].ended == "FAILED"
    later = datetime(2026, 6, 1, tzinfo=UTC)
    retraining.start(log, settings, POLICY, BASE | {"source": "/right"}, as_of=later)
    assert [one["source"] for one in told] == ["/wrong", "/right"]
    assert told[0]["until"] == told[1]["until"]
    assert log.triggers()[0].ended == "SUCCEEDED"


def test_another_home_leaves_a_run_alone(
    log: DriftLog,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One database, two machines: whoever began finishes, and what is done is done for all."""
    trained: list[str] = []

    def train(_name: str, arguments: dict[str, Any], *_: Any, **__: Any) -> None:
        trained.append(arguments["home"])
        if len(trained) == 1:
            msg = "killed"
            raise PipelineError(msg)

    monkeypatch.setattr(retraining, "run_local", train)
    other = Settings.read(tmp_path / "elsewhere")
    with pytest.raises(PipelineError, match="killed"):
        _start(log, settings)
    assert _start(log, other) == []
    assert f"local:{settings.home}" in capsys.readouterr().err
    assert not (other.home / "retrains").exists()
    assert len(_start(log, settings)) == 1
    assert _start(log, other) == []
    assert trained == [str(settings.home)] * 2


def test_a_run_at_work_is_left_alone(
    log: DriftLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[list[retraining.Started]] = []

    def at_work(*_: Any, **__: Any) -> None:
        # Another monitor starts while the run of this one is under way.
        inner.append(_start(log, settings))

    monkeypatch.setattr(retraining, "run_local", at_work)
    assert len(_start(log, settings)) == 1
    assert inner == [[]]


def test_without_arguments_there_is_one_message(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="nothing says how to train; give the arguments"):
        retraining.run_arguments(settings, None)
    assert retraining.run_arguments(settings, BASE) == BASE
    with pytest.raises(ConfigError, match="need `domain`, got preset"):
        retraining.run_arguments(settings, {"preset": "tiny"})
