"""The console over Postgres, which takes less than SQLite does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.testclient import TestClient

from tests.release.conftest import House


def test_decisions_and_refusals(
    house: House,
    console: Callable[..., TestClient],
    postgres: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BREWHOUSE_DATABASE_URI", postgres)
    house.release()
    house.register(1)
    client = console(actor="bob@x")
    assert client.get("/readyz").status_code == 200
    for number in ("%00", "%ED%A0%80"):
        assert client.get(f"/versions/{number}").status_code == 404
    outside = console(actor="eve@x", address="192.168.0.9")
    sent = {"act": "approve", "reason": "figures hold on every slice", "revision": 3}
    assert outside.post("/api/v1/versions/%00/decisions", json=sent).status_code == 401
    answers = [client.post("/api/v1/versions/1/decisions", json=sent) for _ in range(2)]
    assert [a.status_code for a in answers] == [200, 409]
    page = client.get("/ledger?verify=true").text
    assert "4 entries, all whole" in page
    refused = [(r["actor"], r["version"]) for r in house.release().ledger.refusals()]
    assert refused == [("eve@x", "?"), ("bob@x", "1")]
