"""What must not get through, and the record that it tried."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from brewhouse.console.config import ConsoleConfig, check_config, load_config
from brewhouse.errors import ConfigError
from brewhouse.registry.approvals import ApprovalPolicy
from tests.release.conftest import House

Make = Callable[..., TestClient]
REASON = "figures hold on every slice"
OIDC = {"kind": "oidc", "issuer": "https://id.test", "audience": "brewhouse"}


def _form(client: TestClient, number: str = "1") -> dict[str, str]:
    """Hidden fields of the page's first form."""
    page = client.get(f"/versions/{number}")
    assert page.status_code == 200, page.text
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', page.text))
    return {k: fields[k] for k in ("token", "revision")}


def _send(client: TestClient, form: dict[str, str], **headers: str) -> Any:
    data = {"act": "approve", "reason": REASON} | form
    return client.post("/versions/1/decisions", data=data, headers=headers)


def _last(house: House) -> dict[str, Any]:
    return dict(house.release().ledger.refusals()[-1])


def test_a_form_of_ours_is_taken(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    done = _send(client, _form(client), origin="https://console.test")
    assert (done.status_code, done.headers["location"]) == (303, "/versions/1")
    entry = house.release().version("1").entries[-1]
    assert (entry.act, entry.actor, entry.reason) == ("approve", "bob@x", REASON)
    assert house.release().ledger.refusals() == []


@pytest.mark.parametrize(
    ("change", "headers", "told"),
    [
        ({"token": ""}, {}, "the form has no token"),
        ({"token": "x.y.z"}, {}, "a token that is old or not ours"),
        ({}, {"origin": "https://evil.test"}, "comes from a page of https://evil.test"),
        ({}, {"origin": "null"}, "comes from a page of null"),
        ({}, {"sec-fetch-site": "cross-site"}, "another site's page sent this"),
        ({}, {"sec-fetch-site": "same-site"}, "another site's page sent this"),
    ],
)
def test_forms_of_others_are_refused(
    house: House, console: Make, change: dict[str, str], headers: dict[str, str], told: str
) -> None:
    house.register(1)
    client = console(actor="bob@x")
    done = _send(client, _form(client) | change, **headers)
    assert done.status_code == 403
    assert told in done.text.replace("&#39;", "'")
    assert house.release().version("1").state == "PENDING_APPROVAL"
    row = _last(house)
    assert told in row["reason"]
    assert (row["actor"], row["act"], row["version"]) == ("bob@x", "approve", "1")
    assert (row["address"], row["via"]) == ("10.1.2.3", "proxy")


def test_a_token_is_one_actors_in_one_browser(house: House, console: Make) -> None:
    house.register(1)
    bob = console(actor="bob@x")
    form = _form(bob)
    eve = TestClient(bob.app, base_url="https://console.test", client=("10.1.2.3", 1))
    cases = {
        "another actor, her own browser": ({"kubeflow-userid": "eve@x"}, {}),
        "bob, another browser": ({"kubeflow-userid": "bob@x"}, {}),
        "another actor, bob's browser": ({"kubeflow-userid": "eve@x"}, dict(bob.cookies)),
    }
    for case, (headers, cookies) in cases.items():
        eve.cookies.clear()
        eve.cookies.update(cookies)
        done = _send(eve, form, **headers)
        assert done.status_code == 403, case
        assert "made for somebody else" in _last(house)["reason"], case
    assert house.release().version("1").state == "PENDING_APPROVAL"


def test_a_token_ends(house: House, console: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    house.register(1)
    client = console(actor="bob@x")
    form = _form(client)
    later = time.time() + 13 * 3600
    monkeypatch.setattr("itsdangerous.timed.time.time", lambda: later)
    assert _send(client, form).status_code == 403
    assert "old" in _last(house)["reason"]


def test_a_form_sent_again_is_refused(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    form = _form(client)
    assert _send(client, form).status_code == 303
    for act in ("approve", "reject"):
        done = _send(client, form | {"act": act})
        assert done.status_code == 409
        assert REASON in done.text
        assert _last(house)["act"] == act
    assert house.release().version("1").state == "APPROVED"


@pytest.mark.parametrize("path", ["/", "/versions/1", "/api/v1/versions", "/ledger"])
def test_a_forged_header_is_refused(house: House, console: Make, path: str) -> None:
    house.register(1)
    outside = console(actor="admin@x", address="192.168.0.9")
    headers = {"x-forwarded-for": "10.1.2.3", "forwarded": "for=10.1.2.3"}
    assert outside.get(path, headers=headers).status_code == 401
    row = _last(house)
    assert (row["actor"], row["act"], row["address"]) == ("admin@x", "sign-in", "192.168.0.9")
    assert "believed from the proxy alone" in row["reason"]


def test_a_forged_header_decides_nothing(house: House, console: Make) -> None:
    house.register(1)
    inside = console(actor="bob@x")
    form = _form(inside)
    outside = TestClient(inside.app, base_url="https://console.test", client=("10.2.0.1", 1))
    outside.cookies.update(dict(inside.cookies))
    assert _send(outside, form, **{"kubeflow-userid": "bob@x"}).status_code == 401
    sent = {"act": "approve", "reason": REASON, "revision": 3}
    done = outside.post(
        "/api/v1/versions/1/decisions", json=sent, headers={"kubeflow-userid": "bob@x"}
    )
    assert done.status_code == 401
    assert done.json()["kind"] == "UnknownActorError"
    assert [r["act"] for r in house.release().ledger.refusals()] == ["approve", "approve"]
    assert house.release().version("1").state == "PENDING_APPROVAL"


def test_nobody_and_two_users_are_refused(house: House, console: Make) -> None:
    assert console().get("/").status_code == 401
    client = console()
    two = [("kubeflow-userid", "bob@x"), ("kubeflow-userid", "eve@x")]
    assert client.get("/", headers=two).status_code == 401
    assert client.get("/", headers={"kubeflow-userid": " "}).status_code == 401


def test_roles_are_told_and_kept(
    house: House, console: Make, make_policy: Callable[..., ApprovalPolicy]
) -> None:
    house.register(1, author="ann")
    policy = make_policy()
    ann, wim = console(policy=policy, actor="ann"), console(policy=policy, actor="wim")
    assert "may not approve it: policy team@3 asks for four eyes" in ann.get("/versions/1").text
    assert "wim lacks the role approver" in wim.get("/versions/1").text
    for client, told in ((ann, "asks for four eyes"), (wim, "lacks the role approver")):
        sent = {"act": "approve", "reason": REASON, "revision": 3}
        done = client.post("/api/v1/versions/1/decisions", json=sent)
        assert done.status_code == 403
        assert told in done.json()["message"]
        assert told in _last(house)["reason"]
        assert _last(house)["address"] == "10.1.2.3"


def test_readers_need_a_role_too(
    house: House, console: Make, make_policy: Callable[..., ApprovalPolicy]
) -> None:
    policy = make_policy(roles={"viewer": ["ann"]})
    assert console(policy=policy, actor="ann").get("/").status_code == 200
    assert console(policy=policy, actor="eve").get("/").status_code == 403
    assert (_last(house)["actor"], _last(house)["act"]) == ("eve", "view")


def test_an_expired_approval_is_not_promoted(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    assert _send(client, _form(client)).status_code == 303
    house.clock.pass_days(15)
    sent = {"act": "order", "reason": REASON, "revision": 4}
    done = client.post("/api/v1/versions/1/decisions", json=sent)
    assert done.status_code == 409
    assert "the approval is 15.0 days old" in _last(house)["reason"]
    assert house.release().version("1").state == "EXPIRED"


def test_changed_evidence_is_shown_and_not_approved(house: House, console: Make) -> None:
    version = house.register(1)
    client = console(actor="bob@x")
    form = _form(client)
    path = Path(version.source) / "dossier" / "verdict.json"
    path.write_text(path.read_text().replace("PASS", "FAIL"))
    assert "The evidence was changed" in client.get("/versions/1").text
    assert _send(client, form).status_code == 503
    assert "verdict.json is not what version 1 was judged by" in _last(house)["reason"]


def test_read_only_takes_no_decision(house: House, console: Make) -> None:
    house.register(1)
    config = {
        "identity": {"kind": "proxy", "trusted": ["10.1.0.0/16"]},
        "hosts": ["console.test"],
        "read_only": True,
    }
    client = console(config, actor="bob@x")
    page = client.get("/versions/1")
    assert "<form" not in page.text
    sent = {"act": "approve", "reason": REASON, "revision": 3}
    assert client.post("/api/v1/versions/1/decisions", json=sent).status_code == 403
    assert "read-only" in _last(house)["reason"]


def test_the_api_takes_json_alone(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    sent = json.dumps({"act": "approve", "reason": REASON, "revision": 3})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        done = client.post(
            "/api/v1/versions/1/decisions", content=sent, headers={"content-type": kind}
        )
        assert done.status_code == 415, kind
    assert house.release().version("1").state == "PENDING_APPROVAL"


def test_long_bodies_and_other_hosts_are_not_read(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    long = {"reason": "x" * 70_000}
    assert client.post("/versions/1/decisions", data=long).status_code == 413
    assert client.post("/api/v1/versions/1/decisions", json=long).status_code == 413
    assert client.get("/", headers={"host": "evil.test"}).status_code == 400


def test_probes_call_by_address(house: House, console: Make) -> None:
    client = console(actor="bob@x", address="10.42.0.7")
    for path, code in {"/healthz": 200, "/readyz": 200, "/metrics": 200, "/healthz/": 400}.items():
        assert client.get(path, headers={"host": "10.42.3.9:8600"}).status_code == code, path


def test_refusals_of_one_address_do_not_fill_the_database(house: House, console: Make) -> None:
    client = console(actor="eve@x", address="192.168.0.9")
    for _ in range(50):
        assert client.get("/").status_code == 401
    assert len(house.release().ledger.refusals()) == 30


def test_headers_of_every_answer(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    for path in ("/", "/versions/1", "/versions/9", "/static/console.css", "/api/v1/versions"):
        found = client.get(path).headers
        policy = found["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert found["x-content-type-options"] == "nosniff"
        assert found["x-frame-options"] == "DENY"
        assert "strict-transport-security" in found
    report = client.get("/versions/1/dossier/report.html").headers["content-security-policy"]
    assert report.startswith("sandbox; default-src 'none'")
    cookie = client.get("/", headers={"cookie": ""}).headers.get("set-cookie", "")
    fresh = console(actor="bob@x").get("/").headers["set-cookie"]
    assert cookie == "" or "HttpOnly" in cookie
    for word in ("HttpOnly", "Secure", "SameSite=strict"):
        assert word in fresh


@pytest.mark.parametrize("name", ["../model/config.json", "..%2fmanifest.json", "decisions", "x"])
def test_only_parts_of_the_dossier_are_served(house: House, console: Make, name: str) -> None:
    house.register(1)
    assert console(actor="bob@x").get(f"/versions/1/dossier/{name}").status_code == 404


def test_text_of_others_is_shown_as_text(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    typed = "<script>alert(1)</script> or so"
    assert _send(client, _form(client) | {"reason": typed}).status_code == 303
    for path in ("/versions/1", "/ledger"):
        page = client.get(path).text
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    "reason", ["a reason\x00 with a hole", "a reason \ud800 that is no text", "x" * 4001]
)
def test_reasons_are_text(house: House, console: Make, reason: str) -> None:
    house.register(1)
    client = console(actor="bob@x")
    sent = json.dumps({"act": "approve", "reason": reason, "revision": 3})
    done = client.post(
        "/api/v1/versions/1/decisions", content=sent, headers={"content-type": "application/json"}
    )
    assert done.status_code == 422
    if len(reason) > 4000:
        assert _send(client, _form(client) | {"reason": reason}).status_code == 422
    assert house.release().version("1").state == "PENDING_APPROVAL"


def test_versions_that_cannot_be_are_not_found(house: House, console: Make) -> None:
    client = console(actor="bob@x")
    for number in ("%00", "%F0%9F%92%A9", "%ED%A0%80", "x" * 40):
        assert client.get(f"/api/v1/versions/{number}").status_code == 404
        assert client.get(f"/versions/{number}").status_code == 404
        sent = {"act": "approve", "reason": REASON, "revision": 3}
        assert client.post(f"/api/v1/versions/{number}/decisions", json=sent).status_code == 404
    outside = console(actor="eve@x", address="192.168.0.9")
    assert outside.post("/api/v1/versions/%00/decisions", json=sent).status_code == 401
    assert _last(house)["version"] == "?"


def test_an_end_belongs_to_a_waiver_alone(house: House, console: Make) -> None:
    house.register(1)
    client = console(actor="bob@x")
    assert _send(client, _form(client) | {"until": "x" * 999}).status_code == 303
    assert house.release().version("1").entries[-1].until == ""


def test_a_database_that_is_gone_is_told(
    house: House, console: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    house.register(1)
    client = console(actor="bob@x")

    def gone(*_: object) -> None:
        raise OperationalError(str(_), {}, Exception("host db.secret refused user brew"))

    monkeypatch.setattr(type(client.app.state.desk.release.ledger), "entries", gone)
    for path in ("/", "/api/v1/versions", "/readyz"):
        found = client.get(path)
        assert found.status_code == 503
        assert "OperationalError" in found.text
        assert "secret" not in found.text


# Tokens of an identity provider


@pytest.fixture
def provider(tmp_path: Path) -> Callable[..., str]:
    """Signs tokens, and has its keys in `jwks.json`."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
    from jwt.algorithms import RSAAlgorithm

    key = generate_private_key(65537, 2048)
    told = json.loads(RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "k1"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [told]}))

    def sign(
        *, kid: str = "k1", algorithm: str = "RS256", secret: Any = None, **claims: Any
    ) -> str:
        now = int(time.time())
        value = {"iss": OIDC["issuer"], "aud": OIDC["audience"], "iat": now, "exp": now + 60}
        value |= {"email": "bob@x"} | claims
        value = {k: v for k, v in value.items() if v is not None}
        return jwt.encode(value, secret or key, algorithm=algorithm, headers={"kid": kid})

    return sign


@pytest.mark.parametrize(
    ("claims", "told"),
    [
        ({}, ""),
        ({"exp": 1}, "ExpiredSignatureError"),
        ({"exp": None}, "MissingRequiredClaimError"),
        ({"aud": "other"}, "InvalidAudienceError"),
        ({"iss": "https://other.test"}, "InvalidIssuerError"),
        ({"email": None}, "MissingRequiredClaimError"),
        ({"email_verified": False}, "has not verified the address bob@x"),
        ({"kid": "k2"}, "InvalidKeyError"),
        ({"algorithm": "HS256", "secret": "s" * 64}, "InvalidAlgorithmError"),
    ],
)
def test_tokens(
    house: House,
    console: Make,
    provider: Callable[..., str],
    tmp_path: Path,
    claims: dict[str, Any],
    told: str,
) -> None:
    house.register(1)
    identity = OIDC | {"jwks": str(tmp_path / "jwks.json")}
    client = console({"identity": identity, "hosts": ["console.test"]})
    token = provider(**claims)
    headers = {"authorization": f"Bearer {token}"}
    sent = {"act": "approve", "reason": REASON, "revision": 3}
    done = client.post("/api/v1/versions/1/decisions", json=sent, headers=headers)
    if told:
        assert done.status_code == 401
        assert done.headers["www-authenticate"] == "Bearer"
        assert told in _last(house)["reason"]
        assert token not in json.dumps(house.release().ledger.refusals())
    else:
        assert done.status_code == 200, done.text
        assert house.release().version("1").entries[-1].actor == "bob@x"
    assert client.get("/").status_code == 401


# Configurations


def test_the_machines_user_is_not_served_to_a_network() -> None:
    check_config(ConsoleConfig(host="::1"))
    for host in ("0.0.0.0", "10.0.0.1", "::"):
        with pytest.raises(ConfigError, match="identity local on .* listen on 127"):
            check_config(ConsoleConfig(host=host))


def test_the_machines_user_is_not_told_to_others(house: House, console: Make) -> None:
    client = console({"hosts": ["console.test"]}, address="10.0.0.1")
    assert client.get("/").status_code == 401


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("identity: {kind: proxy}", r"console\.yaml:1.*trusted"),
        ("identity: {kind: proxy, trusted: [all]}", "trusted"),
        ("identity: {kind: basic}", "'local', 'proxy', 'oidc'"),
        ("prot: 80", "prot"),
        ("secret_file: 3", "secret_file"),
        ("root_path: brew house", "root_path"),
    ],
)
def test_mistakes_in_a_configuration_are_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "console.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(path)


def test_replicas_share_a_secret(house: House, console: Make, tmp_path: Path) -> None:
    house.register(1)
    (tmp_path / "secret").write_text("s" * 40)
    config = {
        "identity": {"kind": "proxy", "trusted": ["10.1.0.0/16"]},
        "hosts": ["console.test"],
        "secret_file": str(tmp_path / "secret"),
    }
    one, two = console(config, actor="bob@x"), console(config, actor="bob@x")
    form = _form(one)
    two.cookies.update(dict(one.cookies))
    assert _send(two, form).status_code == 303
    (tmp_path / "secret").write_text("short")
    with pytest.raises(ConfigError, match="holds 5 bytes; a secret needs 32"):
        console(config)


def test_a_path_under_a_proxy(house: House, console: Make) -> None:
    house.register(1)
    config = {
        "identity": {"kind": "proxy", "trusted": ["10.1.0.0/16"]},
        "hosts": ["console.test"],
        "root_path": "/brewhouse",
        "frame_ancestors": ["'self'"],
    }
    client = console(config, actor="bob@x")
    page = client.get("/brewhouse/versions/1")
    links = re.findall(r'(?:href|action|src)="(/[^"]*)"', page.text)
    assert links
    assert all(link.startswith("/brewhouse/") for link in links)
    assert client.get("/brewhouse/static/console.css").status_code == 200
    assert "frame-ancestors 'self'" in page.headers["content-security-policy"]
    done = client.post("/brewhouse/api/v1/versions/1/decisions", content="x")
    assert done.status_code == 415
