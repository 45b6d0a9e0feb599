"""A person releases a candidate in a real browser, and every page can be used by everyone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from brewhouse.drift.policy import Severity, load_drift_policy
from brewhouse.drift.quality import reference_signal
from brewhouse.drift.signals import Window
from tests.console.conftest import served
from tests.release.conftest import House

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        found = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


def _open(browser: Any, *, scripts: bool = True) -> tuple[Any, list[str]]:
    """A page of a fresh browser; what it complains of is gathered."""
    page = browser.new_context(java_script_enabled=scripts).new_page()
    said: list[str] = []
    page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(str(e)))
    return page, said


def _decide(page: Any, act: str, reason: str) -> None:
    form = page.get_by_role("form", name=act, exact=True)
    form.get_by_label("Reason").fill(reason)
    form.get_by_role("button", name=act, exact=True).click()


def _promote(page: Any, url: str, version: str, act: str = "Promote") -> None:
    _decide(page, act, f"version {version} is wanted in production")
    page.get_by_role("heading", name="CHAMPION").wait_for(timeout=120_000)
    page.get_by_role("link", name="Champion").click()
    page.get_by_text(f"ranker version {version}").wait_for()
    assert "is in use" in page.locator("main").inner_text()


def test_a_person_releases_and_rolls_back(browser: Any, today: House) -> None:
    release = today.release()
    today.register(1)
    today.register(2)
    with served(today.home) as (url, _process):
        page, said = _open(browser)
        page.goto(url)
        page.get_by_role("link", name="ranker 1").first.click()
        assert "PENDING APPROVAL" in page.get_by_role("heading", level=1).inner_text()
        for heading in ("Verdict", "Figures", "Dossier", "Decide", "History"):
            assert page.get_by_role("heading", name=heading).count()
        assert page.get_by_role("table", name="AUC by task").get_by_role("row").count() > 1
        page.get_by_role("link", name="Model card").click()
        assert "Intended use" in page.content()
        page.go_back()
        _decide(page, "Approve", "figures hold on every slice")
        assert "APPROVED" in page.get_by_role("heading", level=1).inner_text()
        _promote(page, url, "1")
        assert release.registry.alias("ranker", "champion") == "1"
        page.goto(f"{url}/versions/2")
        _decide(page, "Approve", "better than version 1")
        _promote(page, url, "2")
        assert release.registry.alias("ranker", "champion") == "2"
        page.get_by_role("link", name="Roll back to 1").click()
        _promote(page, url, "1", act="Roll back to this version")
        assert release.registry.alias("ranker", "champion") == "1"
        page.goto(f"{url}/ledger?verify=true")
        assert "all whole" in page.get_by_role("status").inner_text()
        assert said == []
    assert release.verify() == []
    acts = [(e.act, e.actor) for e in release.ledger.entries() if e.role != "machine"]
    assert acts == [(act, "olga") for act in ("approve", "order", "approve", "order", "order")]


def test_a_decision_needs_no_script_and_loses_nothing(browser: Any, today: House) -> None:
    release = today.release()
    today.register(1)
    with served(today.home) as (url, _process):
        page, _ = _open(browser, scripts=False)
        other, _ = _open(browser, scripts=False)
        for one in (page, other):
            one.goto(f"{url}/versions/1")
        _decide(other, "Approve", "I was a moment earlier")
        _decide(page, "Reject", "typed at length, not to be lost")
        assert "changed since it was looked at" in page.get_by_role("alert").inner_text()
        form = page.get_by_role("form", name="Reject", exact=True)
        assert form.get_by_label("Reason").input_value() == "typed at length, not to be lost"
    assert release.version("1").state == "APPROVED"


def _window() -> Window:
    return Window(
        version="1",
        start=date(2026, 5, 1),
        end=date(2026, 5, 8),
        matured_until=date(2026, 5, 5),
        signals=[reference_signal("its dossier holds none")],
    )


def test_on_call_answers_an_incident(browser: Any, today: House) -> None:
    """From the list to the incident, a snooze with its day, and the history of it."""
    today.register(1)
    today.drift().take(_window(), load_drift_policy("default"))
    with served(today.home) as (url, _process):
        page, errors = _open(browser)
        page.goto(f"{url}/drift")
        page.get_by_role("link", name="Incident 1").click()
        assert "its dossier holds none" in page.inner_text("main")
        form = page.get_by_role("form", name="Snooze")
        form.get_by_label("Reason").fill("the dossier is being mended")
        day = (datetime.now(UTC) + timedelta(days=3)).date()
        form.get_by_label("Last quiet day").fill(day.isoformat())
        form.get_by_role("button", name="Snooze").click()
        page.wait_for_load_state()
        assert f"snoozed until {day}" in page.inner_text("main")
        assert errors == []
    kept = today.drift().incident(1).incident
    assert (kept.status, kept.until) == ("snoozed", day)
    assert today.drift().steps(1)[-1]["actor"] == "olga"


def test_pages_pass_axe(browser: Any, today: House) -> None:
    """No finding that is serious or critical, light and dark, on every page and state."""
    from axe_core_python.sync_playwright import Axe

    release = today.release()
    today.register(1)
    today.register(2, passes=False)
    release.ledger.refuse(_actor(), "approve", model="ranker", version="1", reason="no role")
    drift = today.drift()
    drift.fault("1", "data/volume", severity=Severity.PAGE, reason="the log is empty")
    drift.take(_window(), load_drift_policy("default"))
    drift.order("1", date(2026, 5, 8), actor="olga", reason="to see it on the page")
    with served(today.home) as (url, _process):
        paths = [
            "/",
            "/drift",
            "/drift/incidents/1",
            "/versions/1",
            "/versions/2",
            "/champion",
            "/ledger",
            "/runs",
        ]
        paths += ["/ledger?verify=true", "/versions/99"]
        for scheme in ("light", "dark"):
            # Axe is injected, which our policy forbids to everyone else.
            context = browser.new_context(color_scheme=scheme, bypass_csp=True)
            page = context.new_page()
            for path in paths:
                page.goto(url + path)
                found = Axe().run(page)["violations"]
                serious = [
                    (v["id"], [n["html"] for n in v["nodes"]][:3])
                    for v in found
                    if v["impact"] in ("serious", "critical")
                ]
                assert serious == [], (scheme, path)


def test_the_keyboard_reaches_everything(browser: Any, today: House) -> None:
    today.register(1)
    with served(today.home) as (url, _process):
        page, _ = _open(browser)
        page.goto(f"{url}/versions/1")
        seen = []
        for _ in range(60):
            page.keyboard.press("Tab")
            told = "e => (e.labels?.[0] ?? e).textContent.trim() || e.name"
            seen.append(page.evaluate(f"({told})(document.activeElement)"))
        assert seen[0] == "Skip to content"
        order = [
            seen.index(name)
            for name in (
                "Candidates",
                "Model card: owner, use, limits, figures",
                "Reason",
                "Approve",
            )
        ]
        assert order == sorted(order)


def _actor() -> Any:
    from brewhouse.registry.approvals import Actor

    return Actor(name="mallory", via="proxy")
