"""The JSON API: what it promises in OpenAPI, under load, and when its server dies."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.testclient import TestClient

from brewhouse.drift.policy import Severity
from tests.console.conftest import served
from tests.kfp.server import serve
from tests.release.conftest import House

HOOKS = "tests.console.api_hooks"
ROOT = Path(__file__).resolve().parents[2]


def _schemathesis(url: str, folder: Path, *, hooks: bool) -> str:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run"]
    command += [f"{url}/api/openapi.json", "--max-examples", "60", "--no-color", "--seed", "7"]
    # The policy's least reason and longest waiver are no part of a schema.
    command += ["--exclude-checks", "positive_data_acceptance"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    if hooks:
        environment["SCHEMATHESIS_HOOKS"] = HOOKS
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("hooks", [False, True], ids=["anything", "versions that exist"])
def test_schemathesis_finds_no_fault(today: House, hooks: bool) -> None:
    """No 500, and answers are those that OpenAPI promises."""
    today.register(1)
    today.register(2, passes=False)
    for signal in ("data/volume", "data/import"):
        today.drift().fault("1", signal, severity=Severity.PAGE, reason="the log is empty")
    with served(today.home) as (url, process):
        told = _schemathesis(url, today.home, hooks=hooks)
        assert "10 passed" in told
        assert process.poll() is None
    release = today.release()
    assert release.verify() == []
    decided = [e for e in release.ledger.entries() if e.role != "machine"]
    assert bool(decided) is hooks
    steps = today.drift().steps(1) + today.drift().steps(2)
    assert not hooks or any(row["actor"] != "monitor" for row in steps)


def _post(url: str, version: str, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    where = urlsplit(url)
    connection = HTTPConnection(where.hostname or "", where.port, timeout=60)
    connection.request(
        "POST",
        f"/api/v1/versions/{version}/decisions",
        json.dumps(sent),
        {"content-type": "application/json"},
    )
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


@pytest.mark.slow
def test_of_decisions_at_once_one_stands(today: House) -> None:
    today.register(1)
    answers: list[int] = []
    with served(today.home) as (url, _process):

        def decide(number: int) -> None:
            sent = {
                "act": ("approve", "reject")[number % 2],
                "reason": f"client {number} says so",
                "revision": 3,
            }
            answers.append(_post(url, "1", sent)[0])

        threads = [threading.Thread(target=decide, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(set(answers)) == [200, 409]
    assert answers.count(200) == 1
    release = today.release()
    assert len(release.version("1").entries) == 4
    assert len(release.ledger.refusals()) == 39
    assert release.verify() == []


@pytest.mark.slow
def test_a_server_killed_between_decisions_leaves_a_whole_chain(today: House) -> None:
    for seed in range(6):
        today.register(seed)
    with served(today.home) as (url, process):

        def decide(number: int) -> None:
            sent = {"act": "approve", "reason": "sent as the server dies", "revision": 3}
            try:
                _post(url, str(number + 1), sent)
            except OSError:
                return

        threads = [threading.Thread(target=decide, args=(n,)) for n in range(6)]
        for thread in threads:
            thread.start()
        # The first decision that is written is the sign that the others are under way.
        release = today.release()
        while not any(e.act == "approve" for e in release.ledger.entries()):
            pass
        process.kill()
        for thread in threads:
            thread.join()
    states = {v.version: v.state.value for v in today.release().versions()}
    assert set(states.values()) <= {"APPROVED", "PENDING_APPROVAL"}
    findings = today.release().verify()
    assert all("MLflow says" in line or "decisions.json" in line for line in findings), findings
    with served(today.home) as (url, _process):
        for number, state in states.items():
            sent = {"act": "reject", "reason": "after the server came back", "revision": 3}
            status, _ = _post(url, number, sent)
            assert status == (200 if state == "PENDING_APPROVAL" else 409)


@pytest.mark.slow
def test_a_promotion_whose_run_failed_is_told_and_started_again(
    today: House, console: Callable[..., TestClient]
) -> None:
    weights = Path(today.register(1).source) / "model" / "model.safetensors"
    client = console(actor="bob@x")
    whole = weights.read_bytes()
    for act, revision in (("approve", 3), ("order", 4)):
        # Changed after the approval: the promote run is the last to look.
        weights.write_bytes(whole if act == "approve" else whole[:-1] + b"x")
        sent = {"act": act, "reason": "to see it fail", "revision": revision}
        done = client.post("/api/v1/versions/1/decisions", json=sent)
        assert done.status_code == 200, done.text
    assert done.json()["promotion"]["state"] == "running"
    promotions = client.app.state.desk.promotions
    promotions._started["1"].process.wait(120)
    page = client.get("/versions/1").text
    assert "The promote run failed: version 1 is not promoted" in page
    assert "model.safetensors was changed" in page
    assert "Start the promote run again" in page
    weights.write_bytes(whole)
    assert client.post("/api/v1/versions/1/promotion").status_code == 200
    promotions._started["1"].process.wait(120)
    assert client.get("/api/v1/champion").json() == {"version": "1"}


def test_promotion_needs_an_order(house: House, console: Callable[..., TestClient]) -> None:
    house.register(1)
    done = console(actor="bob@x").post("/api/v1/versions/1/promotion")
    assert done.status_code == 409
    assert "nobody ordered its promotion" in done.json()["message"]


def test_kubeflow_runs_an_order_once(
    house: House, console: Callable[..., TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Kubeflow Pipelines is named, an order is submitted there, under a name of its own."""
    with serve() as (server, address):
        monkeypatch.setenv("BREWHOUSE_KFP_HOST", address)
        house.register(1)
        client = console(actor="bob@x")
        for act, revision in (("approve", 3), ("order", 4)):
            value = {"act": act, "reason": "to be run elsewhere", "revision": revision}
            done = client.post("/api/v1/versions/1/decisions", json=value)
        ((run, kept),) = server.runs.items()
        assert done.json()["promotion"] == {"state": "submitted", "detail": run}
        assert kept["display_name"] == "ranker-1-order-5"
        assert kept["runtime_config"]["parameters"] == {"version": "1"}
        assert kept["service_account"] == "brewhouse-promote"
        client.post("/api/v1/versions/1/promotion")
        assert list(server.runs) == [run]
        assert run in client.get("/versions/1").text
