"""Incidents in the console: who may answer them, what is recorded, what Prometheus reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

import pytest
from starlette.testclient import TestClient

from brewhouse.drift.policy import Severity
from brewhouse.registry.approvals import ApprovalPolicy
from tests.release.conftest import House

Make = Callable[..., TestClient]
WHY = "the export is being mended"


@pytest.fixture
def incident(house: House) -> House:
    house.register(1)
    house.drift().fault(
        "1", "data/volume", severity=Severity.PAGE, reason="the log <b>is</b> empty"
    )
    return house


def _token(client: TestClient) -> str:
    page = client.get("/drift/incidents/1")
    assert page.status_code == 200, page.text
    found = re.search(r'name="token" value="([^"]*)"', page.text)
    assert found
    return found.group(1)


def _step(client: TestClient, act: str, **fields: str):
    data = {"act": act, "reason": WHY, "token": _token(client)} | fields
    return client.post("/drift/incidents/1/steps", data=data)


def test_steps_by_form_and_their_history(incident: House, console: Make) -> None:
    client = console(actor="olga@x")
    day = (incident.clock.now + timedelta(days=5)).date().isoformat()
    for act, fields, status in (
        ("acknowledge", {}, "acknowledged"),
        ("snooze", {"until": day}, "snoozed"),
        ("dismiss", {}, "dismissed"),
        ("resolve", {}, "resolved"),
    ):
        done = _step(client, act, **fields)
        assert (done.status_code, done.headers["location"]) == (303, "/drift/incidents/1")
        assert incident.drift().incident(1).incident.status == status
    page = client.get("/drift/incidents/1").text
    assert page.count("olga@x") >= 4
    assert "the log &lt;b&gt;is&lt;/b&gt; empty" in page
    assert "Nothing is left to do" in page
    assert "Incidents that are resolved" in client.get("/drift").text


@pytest.mark.parametrize(
    ("act", "fields", "code", "told"),
    [
        ("snooze", {"until": ""}, 422, "a snooze may end from"),
        ("snooze", {"until": "2031-01-01"}, 422, "a snooze may end from"),
        ("snooze", {"until": "soon"}, 422, "YYYY-MM-DD"),
        ("acknowledge", {"reason": "ok"}, 422, "at least 10 characters"),
        ("renew", {}, 422, "open the page again"),
        ("acknowledge", {"token": "x.y.z"}, 403, "a token that is old or not ours"),
    ],
)
def test_steps_that_will_not_do(
    incident: House, console: Make, act: str, fields: dict[str, str], code: int, told: str
) -> None:
    done = _step(console(actor="olga@x"), act, **fields)
    assert done.status_code == code
    assert told in done.text
    assert incident.drift().incident(1).incident.status == "open"
    if code == 422 and act != "renew":
        assert fields.get("reason", WHY) in done.text


def test_a_step_out_of_turn_is_refused_and_recorded(incident: House, console: Make) -> None:
    client = console(actor="olga@x")
    token = _token(client)
    assert _step(client, "resolve").status_code == 303
    data = {"act": "acknowledge", "reason": WHY, "token": token}
    late = client.post("/drift/incidents/1/steps", data=data)
    assert late.status_code == 409
    refused = incident.release().ledger.refusals()[-1]
    assert (refused["actor"], refused["act"], refused["version"]) == (
        "olga@x",
        "acknowledge",
        "incident 1",
    )


def test_only_those_on_call_answer(
    incident: House, console: Make, make_policy: Callable[..., ApprovalPolicy]
) -> None:
    policy = make_policy(roles={"oncall": ["olga@x"]})
    stranger = console(actor="sam@x", policy=policy)
    assert "sam@x lacks the role oncall" in stranger.get("/drift/incidents/1").text
    body = {"step": "acknowledge", "reason": WHY}
    done = stranger.post("/api/v1/incidents/1/steps", json=body)
    assert done.status_code == 403
    assert "lacks the role oncall" in incident.release().ledger.refusals()[-1]["reason"]
    allowed = console(actor="olga@x", policy=policy)
    assert allowed.post("/api/v1/incidents/1/steps", json=body).json()["status"] == "acknowledged"


def test_the_api_tells_incidents_and_triggers(incident: House, console: Make) -> None:
    from datetime import date

    incident.drift().order("1", date(2026, 3, 2), actor="olga@x", reason="the feed changed")
    client = console(actor="olga@x")
    (one,) = client.get("/api/v1/incidents").json()
    assert (one["number"], one["signal"], one["severity"]) == (1, "data/volume", "page")
    assert [s["step"] for s in one["steps"]] == ["open"]
    (trigger,) = client.get("/api/v1/triggers").json()
    assert (trigger["reason"], trigger["run"]) == ("the feed changed", "")
    assert client.get("/api/v1/incidents/2").status_code == 404
    assert client.get("/drift/incidents/2").status_code == 404
    assert client.get("/drift/incidents/x").status_code == 404
    client.post("/api/v1/incidents/1/steps", json={"step": "resolve", "reason": WHY})
    assert client.get("/api/v1/incidents").json() == []
    assert len(client.get("/api/v1/incidents?all=true").json()) == 1


def test_prometheus_reads_without_signing_in(incident: House, console: Make) -> None:
    client = console(address="10.9.9.9")
    told = client.get("/metrics")
    assert told.status_code == 200
    assert told.headers["content-type"].startswith("text/plain; version=0.0.4")
    series = 'brewhouse_drift_incident{kind="data",model="ranker",number="1",severity="page",'
    series += 'signal="volume",surface="",version="1"}'
    assert f"{series} 1.0" in told.text
    console(actor="olga@x").post(
        "/api/v1/incidents/1/steps", json={"step": "acknowledge", "reason": WHY}
    )
    assert f"{series} 0.0" in client.get("/metrics").text
    off = {"identity": {"kind": "proxy", "trusted": ["10.1.0.0/16"]}, "hosts": ["console.test"]}
    assert console(off | {"metrics": False}).get("/metrics").status_code == 404
