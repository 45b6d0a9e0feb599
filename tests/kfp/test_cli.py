"""`brewhouse pipeline` against a server: what people type, what they read, and exit codes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from brewhouse.cli.main import app
from brewhouse.errors import ConfigError, PipelineError
from tests.conftest import ROOT
from tests.kfp.server import Server, serve

PACKAGE = str(ROOT / "pipelines" / "train_and_evaluate" / "train_and_evaluate.yaml")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serve("brewhouse-operator") as (held, address):
        monkeypatch.setenv("BREWHOUSE_KFP_HOST", address)
        yield held


def _run(*words: str) -> Result:
    return CliRunner().invoke(app, ["pipeline", *words])


def _submit(*more: str) -> Result:
    given = ("--run-name", "first", "--package", PACKAGE, "--arg", "domain=linkedin")
    return _run("submit", "train_and_evaluate", *given, *more)


def test_submit_prints_the_id_alone(server: Server, tmp_path: Path) -> None:
    arguments = tmp_path / "arguments.yaml"
    arguments.write_text("preset: tiny\nseed: 9\ncluster: {namespace: feed}\n")
    done = _submit("--arguments", str(arguments), "--arg", "seed=11", "--namespace", "feed")
    assert done.exit_code == 0, done.output
    (run,) = server.runs
    assert done.stdout.strip() == run
    told = server.sent[0]["runtime_config"]["parameters"]
    # The command line goes before the file.
    assert told == {
        "domain": "linkedin",
        "preset": "tiny",
        "seed": 11,
        "cluster": {"namespace": "feed"},
    }
    assert server.experiments[0]["namespace"] == "feed"
    again = _submit(
        "--arguments", str(arguments), "--arg", "seed=11", "--namespace", "feed", "--json"
    )
    assert json.loads(again.stdout) == {"run_id": run, "started": False}


def test_a_name_that_is_taken_is_told(server: Server) -> None:
    assert _submit("--arg", "seed=1").exit_code == 0
    other = _submit("--arg", "seed=2", "--arg", "preset=tiny")
    assert isinstance(other.exception, ConfigError)
    assert "is there already" in str(other.exception)
    assert "with another preset, seed" in str(other.exception)
    assert len(server.runs) == 1


def test_status_tells_steps_and_ends_red_for_a_run_that_failed(server: Server) -> None:
    run = _submit().stdout.strip()
    server.steps(run, {"import-data": "SUCCEEDED", "train-ranker": "FAILED"})
    going = _run("status", "first")
    assert going.exit_code == 0
    assert "SUCCEEDED  import-data" in going.stdout
    server.runs[run] |= {"state": "FAILED", "error": {"message": "train-ranker failed"}}
    failed = _run("status", run, "--follow")
    assert failed.exit_code == PipelineError.exit_code
    assert "FAILED: train-ranker failed" in failed.stdout
    assert json.loads(_run("status", run, "--json").stdout)["state"] == "FAILED"


def test_logs_and_cancel(server: Server) -> None:
    run = _submit().stdout.strip()
    server.steps(run, {"train-ranker": "RUNNING"})
    server.logs[run, "flow-train-ranker-1"] = "one\ntwo\n"
    assert _run("logs", "first", "--step", "train_ranker").stdout == "one\ntwo\n"
    assert json.loads(_run("cancel", "first", "--json").stdout) == {
        "run_id": run,
        "state": "CANCELING",
    }
    nobody = _run("logs", "second", "--step", "x")
    assert isinstance(nobody.exception, PipelineError)


def test_schedule_once(server: Server) -> None:
    words = ("schedule", "monitor", "--job-name", "m", "--arg", "domain=linkedin")
    assert (first := _run(*words).stdout) == _run(*words).stdout
    assert len(server.jobs) == 1
    assert _run("unschedule", "m").stdout == first
    assert server.jobs == []
    nothing = _run("unschedule", "m")
    assert isinstance(nothing.exception, PipelineError)
    assert "no recurring run 'm'" in str(nothing.exception)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("submit", "trian", "--run-name", "x"), "unknown pipeline 'trian'; choose one of"),
        (
            ("submit", "promote", "--run-name", "x", "--arg", "version"),
            "has no '='; write name=value",
        ),
    ],
)
def test_mistakes_are_one_message(server: Server, words: tuple[str, ...], message: str) -> None:
    done = _run(*words)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)
    assert server.sent == []


def test_arguments_that_are_no_mapping(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("- domain\n")
    done = _submit("--arguments", str(path))
    assert isinstance(done.exception, ConfigError)
    assert "holds no names with values" in str(done.exception)
