"""Runs in Kubeflow Pipelines: what is sent, and that nothing is ever started twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from brewhouse.errors import ConfigError, PipelineError
from brewhouse.platform.kubeflow import ACCOUNTS, Kubeflow, Place
from brewhouse.platform.kubeflow_orders import Order
from tests.conftest import ROOT
from tests.kfp.server import Open, Server, serve

ARGUMENTS = {"domain": "linkedin", "trigger": "drift-0123456789ab", "processes": 1}
PACKAGE = ROOT / "pipelines" / "train_and_evaluate" / "train_and_evaluate.yaml"
ORDER = Order(
    pipeline="train_and_evaluate",
    arguments=ARGUMENTS,
    run_name="drift-0123456789ab",
    package=PACKAGE,
)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve("brewhouse-operator") as (held, _):
        yield held


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def client(server: Server, said: list[str]) -> Kubeflow:
    return _client(server, said)


def _client(server: Server, said: list[str], **place: str) -> Kubeflow:
    return Kubeflow(Place(host=server.address, **place), tell=said.append, pause=lambda _: None)


def test_what_an_order_sends(server: Server, said: list[str]) -> None:
    client = _client(server, said, pipeline_root="s3://runs/ranker")
    run = client.submit(Order(**ORDER.__dict__ | {"fresh": True, "experiment": "retrain"}))
    (sent,) = server.sent
    assert sent["display_name"] == "drift-0123456789ab"
    assert sent["service_account"] == "brewhouse-train"
    told = sent["runtime_config"]
    assert told["pipeline_root"] == "s3://runs/ranker"
    assert told["parameters"] == ARGUMENTS
    spec = sent["pipeline_spec"].get("pipeline_spec", sent["pipeline_spec"])
    assert spec["pipelineInfo"]["name"] == "train-and-evaluate"
    cached = [
        task.get("cachingOptions", {}).get("enableCache", False)
        for part in spec["components"].values()
        for task in part.get("dag", {}).get("tasks", {}).values()
    ]
    assert cached
    assert not any(cached)
    assert server.experiments[0]["display_name"] == "retrain"
    assert sent["experiment_id"] == server.experiments[0]["experiment_id"]
    assert (run.fresh, run.name, run.arguments) == (True, "drift-0123456789ab", ARGUMENTS)


def test_every_pipeline_has_an_account_in_the_manifests() -> None:
    named = {
        value["metadata"]["name"]
        for value in yaml.safe_load_all((ROOT / "manifests/base/accounts.yaml").read_text())
    }
    assert set(ACCOUNTS.values()) == named


def test_the_same_name_is_the_same_run(server: Server, client: Kubeflow) -> None:
    first = client.submit(ORDER)
    again = client.submit(ORDER)
    assert (first.id, first.fresh, again.fresh) == (again.id, True, False)
    assert len(server.sent) == 1


@pytest.mark.parametrize("lose", [["before"], ["after"], ["after", "after"], ["before", "after"]])
def test_a_lost_connection_never_makes_two(
    server: Server, client: Kubeflow, said: list[str], lose: list[str]
) -> None:
    """Lost before the server took the order it is sent again; lost after it, found by its name."""
    server.lose = lose
    run = client.submit(ORDER)
    assert list(server.runs) == [run.id]
    assert "submit drift-0123456789ab" in said[0]
    assert "trying again" in said[0]


def test_a_process_that_dies_in_between_finds_its_run(server: Server, said: list[str]) -> None:
    class DeadError(Exception):
        pass

    def die(_: float) -> None:
        raise DeadError

    server.lose = ["after"]
    client = _client(server, said)
    client.pause = die
    with pytest.raises(DeadError):
        client.submit(ORDER)
    assert _client(server, said).submit(ORDER).id == next(iter(server.runs))
    assert len(server.runs) == 1


def test_of_two_at_the_same_moment_the_younger_is_stopped(
    server: Server, client: Kubeflow, said: list[str]
) -> None:
    """Both looked before either had started."""
    other = _client(server, [])
    theirs: list[Any] = []
    server.meanwhile = lambda: theirs.append(other.submit(ORDER))
    # Answers are given one at a time: let the other in while this one waits for its list.
    server.lock = Open()  # type: ignore[assignment]
    ours = client.submit(ORDER)
    assert len(server.runs) == 2
    assert ours.id == theirs[0].id
    states = [run["state"] for run in server.runs.values()]
    assert states == ["PENDING", "CANCELING"]
    assert "was started beside it: stopped" in said[-1]


def test_a_server_that_is_away_is_waited_for_and_not_for_ever(
    server: Server, client: Kubeflow, said: list[str]
) -> None:
    server.down = 3
    assert client.submit(ORDER).fresh
    assert len([line for line in said if "503" in line]) == 3
    server.down = 10**6
    with pytest.raises(
        PipelineError, match=r"cannot .* 503 .*; check the address .*120 s"
    ) as found:
        client.submit(ORDER)
    assert found.value.exit_code == 11


def test_a_refusal_is_told_at_once(server: Server, client: Kubeflow, said: list[str]) -> None:
    server.allowed = {("experiments", "list"), ("experiments", "create"), ("runs", "list")}
    with pytest.raises(
        PipelineError, match=r"403 .*not allowed to create runs.*brewhouse-run-starter"
    ):
        client.submit(ORDER)
    assert said == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"domain": "x", "epochs": 3}, "no parameter 'epochs'; it has "),
        ({}, "needs `domain`; give it as --arg domain=VALUE"),
    ],
)
def test_arguments_are_checked_before_anything_is_sent(
    server: Server, client: Kubeflow, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        client.submit(Order(**ORDER.__dict__ | {"arguments": arguments}))
    assert server.sent == []
    assert server.experiments == []


def test_a_file_that_is_no_pipeline(client: Kubeflow, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("a: 1\n")
    with pytest.raises(ConfigError, match="is no compiled pipeline: KeyError"):
        client.submit(Order(**ORDER.__dict__ | {"package": path}))
    with pytest.raises(ConfigError, match="no address of an API server; write https"):
        Kubeflow(Place(host="ml-pipeline")).find("x")


def test_how_a_run_stands_and_what_its_steps_wrote(server: Server, client: Kubeflow) -> None:
    run = client.submit(ORDER)
    server.steps(
        run.id, {"import-data": "SUCCEEDED", "train-ranker": "FAILED", "evaluate": "PENDING"}
    )
    server.runs[run.id] |= {"state": "FAILED", "error": {"message": "train-ranker failed"}}
    server.logs[run.id, "flow-train-ranker-1"] = "step 1\nloss diverged\n"
    for name in (run.id, run.name):
        found = client.find(name)
        assert [(t.name, t.state) for t in found.tasks] == [
            ("import-data", "SUCCEEDED"),
            ("train-ranker", "FAILED"),
            ("evaluate", "PENDING"),
        ]
        assert (found.finished, found.error) == (True, "train-ranker failed")
        assert found.tasks[1].error == "exit code 7"
    assert list(client.logs(found, "train_ranker")) == ["step 1", "loss diverged"]
    with pytest.raises(PipelineError, match="evaluate of run .* is PENDING and left no log"):
        list(client.logs(found, "evaluate"))
    with pytest.raises(
        PipelineError, match="no step 'traim'; it has evaluate, import-data, train-r"
    ):
        list(client.logs(found, "traim"))
    with pytest.raises(PipelineError, match="no run named 'other'"):
        client.find("other")


def test_following_tells_changes_until_the_end(server: Server, client: Kubeflow) -> None:
    run = client.submit(ORDER)
    story = iter(
        [
            ("RUNNING", {"import-data": "RUNNING"}),
            ("RUNNING", {"import-data": "SUCCEEDED"}),
            ("SUCCEEDED", {}),
        ]
    )

    def later(_: float) -> None:
        state, steps = next(story)
        server.steps(run.id, steps or {"import-data": "SUCCEEDED"})
        server.runs[run.id]["state"] = state

    client.pause = later
    seen = [(r.state, [t.state for t in r.tasks]) for r in client.follow(run.id, every_s=5)]
    assert seen == [
        ("PENDING", []),
        ("RUNNING", ["RUNNING"]),
        ("RUNNING", ["SUCCEEDED"]),
        ("SUCCEEDED", ["SUCCEEDED"]),
    ]


def test_cancel_stops_what_goes_on_and_leaves_what_has_ended(
    server: Server, client: Kubeflow
) -> None:
    run = client.submit(ORDER)
    assert client.cancel(run).state == "CANCELING"
    server.runs[run.id]["state"] = "SUCCEEDED"
    assert client.cancel(client.find(run.id)).state == "SUCCEEDED"


def test_the_monitor_is_scheduled_once(server: Server, client: Kubeflow) -> None:
    order = Order(pipeline="monitor", arguments={"domain": "linkedin"}, run_name="monitor-linkedin")
    first = client.schedule(order, "0 0 6 * * *")
    assert client.schedule(order, "0 0 6 * * *") == first
    (job,) = server.jobs
    assert (int(job["max_concurrency"]), job["no_catchup"]) == (1, True)
    assert job["service_account"] == "brewhouse-monitor"
    assert job["trigger"]["cron_schedule"]["cron"] == "0 0 6 * * *"
    with pytest.raises(ConfigError, match="5 fields; write six"):
        client.schedule(order, "0 6 * * *")


@pytest.mark.parametrize("lose", [[], ["before"], ["after"], ["before", "after"]])
def test_a_schedule_is_ended_whatever_connection_is_lost(
    server: Server, client: Kubeflow, lose: list[str]
) -> None:
    orders = [Order(pipeline="monitor", arguments={"domain": "linkedin"}, run_name=n) for n in "ab"]
    first, second = (client.schedule(order, "0 0 6 * * *") for order in orders)
    server.lose = lose
    assert client.unschedule("a", "brewhouse") == first
    assert [job["recurring_run_id"] for job in server.jobs] == [second]
    assert client.unschedule("a", "brewhouse") == ""
    assert client.unschedule("b", "elsewhere") == ""
    assert [e["display_name"] for e in server.experiments] == ["brewhouse"]
    assert client.schedule(orders[0], "0 0 7 * * *") != first


def test_all_of_a_name_are_ended(server: Server, client: Kubeflow) -> None:
    """Two who scheduled at once left two."""
    order = Order(pipeline="monitor", arguments={"domain": "linkedin"}, run_name="m")
    first = client.schedule(order, "0 0 6 * * *")
    server.jobs.append(server.jobs[0] | {"recurring_run_id": "another"})
    assert client.unschedule("m", "brewhouse") == first
    assert server.jobs == []


def test_a_pod_shows_its_token_and_a_person_theirs(
    server: Server, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _client(server, said).submit(ORDER).fresh
    assert server.tokens == {""}
    (tmp_path / "token").write_text("of-the-pod")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    server.tokens.clear()
    client = _client(server, said)
    client.find(ORDER.run_name)
    assert server.tokens == {"Bearer of-the-pod"}
    # The kubelet renews it while a client lives.
    (tmp_path / "token").write_text("renewed")
    server.tokens.clear()
    client.find(ORDER.run_name)
    assert server.tokens == {"Bearer renewed"}
    monkeypatch.setenv("BREWHOUSE_KFP_TOKEN", "of-a-person")
    server.tokens.clear()
    _client(server, said).find(ORDER.run_name)
    assert server.tokens == {"Bearer of-a-person"}
