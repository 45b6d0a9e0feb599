"""From trigger to run: one run wherever it dies, told what it was told first, on the past alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from brewhouse.drift.policy import load_drift_policy
from brewhouse.errors import ConfigError, PipelineError
from brewhouse.files import read_json
from brewhouse.platform import pipelines
from brewhouse.platform.database import Database
from brewhouse.platform.drift_log import DriftLog
from brewhouse.release import retraining
from brewhouse.release.settings import Settings

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


class Kubeflow:
    """Runs by name, as the API server keeps them."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.lost = 0

    def submit(self, _name: str, arguments: dict[str, Any], *, run_name: str, **_: str) -> str:
        self.runs.setdefault(run_name, arguments)
        if self.lost:
            self.lost -= 1
            msg = "the connection was lost after the request was sent"
            raise PipelineError(msg)
        return f"id-{run_name}"


def _start(log: DriftLog, settings: Settings) -> list[retraining.Started]:
    return retraining.start(log, settings, POLICY, BASE, as_of=AS_OF)


def test_kubeflow_gets_one_run_however_often(
    log: DriftLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, where = Kubeflow(), replace(settings, kfp_host="https://kfp.test")
    monkeypatch.setattr(retraining, "submit", server.submit)
    server.lost = 1
    with pytest.raises(PipelineError, match="connection was lost"):
        _start(log, where)
    assert log.triggers()[0].run == ""
    (started,) = _start(log, where)
    assert started.run == f"id-{started.trigger}"
    assert _start(log, where) == []
    assert list(server.runs) == [started.trigger]


def test_a_run_is_told_the_past_alone_and_why(
    log: DriftLog, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, where = Kubeflow(), replace(settings, kfp_host="https://kfp.test")
    monkeypatch.setattr(retraining, "submit", server.submit)
    _start(log, where)
    ((trigger, told),) = server.runs.items()
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
    folder = retraining.local_folder(settings, started.trigger)
    assert read_json(folder / retraining.DONE)["run"] == log.triggers()[0].run


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


class Recurring:
    """The client's calls about recurring runs."""

    jobs: list[Any] = []  # noqa: RUF012

    def __init__(self, host: str) -> None:
        self.host = host

    def create_experiment(self, name: str) -> Any:
        return type("E", (), {"experiment_id": name})

    def list_recurring_runs(self, **_: Any) -> Any:
        return type("L", (), {"recurring_runs": self.jobs, "next_page_token": ""})

    def create_recurring_run(self, **given: Any) -> Any:
        assert Path(given["pipeline_package_path"]).read_text().startswith("# PIPELINE DEFINITION")
        job = type("J", (), {"display_name": given["job_name"], "recurring_run_id": "r1"} | given)
        self.jobs.append(job)
        return job


def test_the_monitor_is_scheduled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import kfp.client

    monkeypatch.setattr(kfp.client, "Client", Recurring)
    given = {"host": "https://kfp.test", "experiment": "e", "job_name": "monitor-linkedin"}
    for _ in range(2):
        found = pipelines.schedule("monitor", {"domain": "linkedin"}, cron="0 0 6 * * *", **given)
        assert found == "r1"
    (job,) = Recurring.jobs
    assert (job.max_concurrency, job.no_catchup, job.enable_caching) == (1, True, False)
    with pytest.raises(ConfigError, match="5 fields; write six"):
        pipelines.schedule("monitor", {}, cron="0 6 * * *", **given)
