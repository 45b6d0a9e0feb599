"""Alerts: rules that Prometheus takes and that do what they say, each with its runbook."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from brewhouse.drift.policy import load_drift_policy
from brewhouse.drift.signals import Kind, Signal

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "rules.yaml"
ROUTES = MONITORING / "alertmanager" / "alertmanager.yaml"
RUNBOOKS = sorted((MONITORING / "runbooks").glob("*.md"))
needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="no promtool here")
needs_amtool = pytest.mark.skipif(not shutil.which("amtool"), reason="no amtool here")


def _rules() -> dict[str, dict]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def _run(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


@needs_promtool
def test_prometheus_takes_the_rules_and_they_do_what_they_say() -> None:
    assert f"{len(_rules())} rules found" in _run("promtool", "check", "rules", str(RULES))
    out = _run("promtool", "test", "rules", str(RULES.parent / "rules_test.yaml"))
    assert "SUCCESS" in out


def test_every_alert_is_tested_to_fire() -> None:
    tests = yaml.safe_load((RULES.parent / "rules_test.yaml").read_text())["tests"]
    fired = {
        one["alertname"]
        for test in tests
        for one in test["alert_rule_test"]
        if one.get("exp_alerts")
    }
    assert fired == set(_rules())


def test_every_alert_has_its_runbook_and_every_runbook_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS} == set(_rules())
    for name, rule in _rules().items():
        assert rule["annotations"]["runbook_url"].endswith(f"/{name}.md")
        assert "/d/brewhouse-drift" in rule["annotations"]["dashboard_url"]
        assert rule["labels"]["severity"] in ("page", "warning", "ticket", "none")


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda p: p.stem)
def test_a_runbook_has_its_parts_in_order(path: Path) -> None:
    heads = re.findall(r"^## (.*)$", path.read_text(), re.M)
    assert heads == ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def _commands() -> list[str]:
    found = []
    for path in RUNBOOKS:
        for block in re.findall(r"```bash\n(.*?)```", path.read_text(), re.S):
            found += [line for line in block.splitlines() if line.strip()]
    return sorted(set(found))


@pytest.mark.parametrize("command", _commands())
def test_commands_of_runbooks_exist(command: str) -> None:
    """Ours are asked for help, and every option they are given is one of theirs."""
    words = shlex.split(command)
    if words[0] in ("promtool", "amtool"):
        if shutil.which(words[0]):
            subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
        return
    assert words[0] == "brewhouse"
    names = []
    for word in words[1:]:
        if not re.fullmatch(r"[a-z][a-z-]*", word):
            break
        names.append(word)
    told = _run(
        sys.executable, "-c", "from brewhouse.cli.main import main; main()", *names, "--help"
    )
    for option in (word for word in words if word.startswith("--")):
        assert option in told, f"{command}: no {option}"


def test_severities_are_those_of_the_default_policy() -> None:
    policy, rules = load_drift_policy("default"), _rules()
    for alert, signal in {
        "BrewhouseDataBroken": ("volume", Kind.DATA, ""),
        "BrewhousePerformanceFell": ("auc", Kind.PERFORMANCE, ""),
        "BrewhouseSurfacePerformanceFell": ("auc", Kind.PERFORMANCE, "feed"),
        "BrewhouseEstimatedPerformanceFell": ("auc", Kind.ESTIMATE, ""),
        "BrewhouseCalibrationDrift": ("ece", Kind.SCORE, "feed"),
        "BrewhouseScoreDrift": ("psi", Kind.SCORE, "feed"),
        "BrewhouseInputDrift": ("tokens", Kind.INPUT, ""),
    }.items():
        name, kind, surface = signal
        rule = policy.rule(Signal(name=name, kind=kind, surface=surface, n=1))
        assert rule is not None
        assert rule.severity.value == rules[alert]["labels"]["severity"], alert
    orders = [r.signal for r in policy.rules if r.retrain]
    assert orders == ["performance/auc"]


@needs_amtool
@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=BrewhousePerformanceFell severity=page", "brewhouse-on-call"),
        ("alertname=BrewhouseScoreDrift severity=warning", "brewhouse-channel"),
        ("alertname=BrewhouseInputDrift severity=ticket", "brewhouse-tickets"),
        ("alertname=BrewhouseWatchdog severity=none", "brewhouse-dead-mans-switch"),
    ],
)
def test_alerts_reach_whom_they_are_for(labels: str, receiver: str) -> None:
    _run("amtool", "check-config", str(ROUTES))
    out = _run("amtool", "config", "routes", "test", f"--config.file={ROUTES}", *labels.split())
    assert out.strip() == receiver


def test_rules_and_dashboard_read_metrics_that_exist(tmp_path: Path) -> None:
    from brewhouse.platform.database import Database
    from brewhouse.platform.drift_log import DriftLog
    from brewhouse.platform.prometheus import exposition

    told = exposition(DriftLog(Database(f"sqlite:///{tmp_path / 'b.db'}"), "ranker"))
    known = set(re.findall(r"^# TYPE (\S+) gauge$", told, re.M))
    dashboard = (MONITORING / "grafana" / "brewhouse-drift.json").read_text()
    read = set(re.findall(r"brewhouse_drift_\w+", dashboard + RULES.read_text()))
    assert read == known
    value = json.loads(dashboard)
    assert value["uid"] == "brewhouse-drift"
    assert len({panel["id"] for panel in value["panels"]}) == len(value["panels"])
    assert "__inputs" not in value
