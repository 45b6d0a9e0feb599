"""The monitor from the command line: one incident, one retraining, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from brewhouse.files import read_json
from brewhouse.stages import features
from tests.e2e.test_run import brewhouse

pytestmark = pytest.mark.slow
RELEASED, AS_OF = "2024-03-04", "2024-03-12"
POLICY = """
name: eager
version: 1
warm_up_windows: 2
least_rows: 50
sessions_per_day: 40
inputs: {sample: 1000}
rules:
  - {kind: effect, signal: "input/*", above: 0.0001, clear: 0.0001, windows: 1, retrain: true}
  - {kind: effect, signal: "data/*", above: 6.0, clear: 6.0, windows: 1, severity: page}
"""
STEPS = (
    "observing",
    "scored",
    "snapshot sha256",
    "training until",
    "baseline lightgbm",
    "train finetune",
    "judged",
    "registered",
)
"""What a run says when it is at a step; it is killed there."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny world with a version in use that has seen its first ten weeks."""
    out = tmp_path_factory.mktemp("drift")
    options = ("--preset", "tiny", "--seed", "5", "--until", RELEASED, "--train-tokens", "20000")
    made = brewhouse("run", "--domain", "linkedin", "--out", str(out), *options)
    assert made.returncode == 0, made.stderr
    why = ("--reason", "to be watched", "--home", str(out))
    for act in ("approve", "promote"):
        assert brewhouse(act, "1", *why).returncode == 0
    world = ("--domain", "linkedin", "--preset", "tiny", "--seed", "5")
    assert brewhouse("data", "import", *world, "--out", str(out / "world")).returncode == 0
    features.run(domain="linkedin", snapshot=out / "world", features_out=out / "features")
    (out / "eager.yaml").write_text(POLICY)
    return out


def _command(home: Path, *more: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("brewhouse")),
        *("drift", "run", "--domain", "linkedin", "--snapshot", str(home / "world")),
        *("--features", str(home / "features")),
        *("--policy", str(home / "eager.yaml"), "--as-of", AS_OF, "--home", str(home)),
        *("--json", *more),
    ]


def _watch(home: Path, *more: str) -> dict[str, Any]:
    run = subprocess.run(_command(home, *more), capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def _killed_at(home: Path, steps: set[str]) -> str:
    """Run until a line names one of the steps, then kill everything; empty if it ended before."""
    with subprocess.Popen(
        _command(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if reached := [step for step in steps if step in line]:
                os.killpg(process.pid, signal.SIGKILL)
                return reached[0]
    return ""


def _state(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        brewhouse("drift", "status", "--all", "--home", str(home), "--json").stdout
    )
    return found


def test_killed_at_each_step_there_is_one_run(home: Path) -> None:
    # A step that was finished is not repeated, so that a run gets past each of them; in which order
    # steps that do not need one another come, kfp.local says.
    left = set(STEPS)
    while step := _killed_at(home, left):
        left.remove(step)
    assert left == set()
    state = _state(home)
    (trigger,) = state["triggers"]
    assert trigger["run"] == f"local:{home / 'retrains' / trigger['trigger']}"
    assert trigger["ended"] == "SUCCEEDED"
    keys = [incident["key"] for incident in state["incidents"]]
    assert len(keys) == len(set(keys))
    assert any(key.startswith("input/") for key in keys)
    versions = json.loads(brewhouse("candidates", "--home", str(home), "--json").stdout)
    assert [(v["version"], v["state"]) for v in versions] == [
        ("2", "PENDING_APPROVAL"),
        ("1", "CHAMPION"),
    ]
    tags = versions[0]["tags"]
    assert tags["brewhouse.trigger.id"] == trigger["trigger"]
    assert "input/" in tags["brewhouse.trigger.reason"]
    assert versions[0]["author"] == "monitor"


def test_run_again_nothing_is_new(home: Path) -> None:
    before = _state(home)
    for _ in range(2):
        found = _watch(home)
        assert (found["evaluations"], found["started"]) == ([], [])
    assert _state(home) == before
    versions = json.loads(brewhouse("candidates", "--home", str(home), "--json").stdout)
    assert len(versions) == 2


def test_pages_and_metrics_of_the_run(home: Path) -> None:
    page = (home / "drift" / "drift.html").read_text()
    assert "input/tokens" in page
    assert 'src="http' not in page
    (inputs,) = (home / "drift").glob("inputs-*.html")
    assert "item_age_days" in inputs.read_text()
    assert (
        "brewhouse_drift_window_end_timestamp_seconds"
        in (home / "drift" / "drift.prom").read_text()
    )
    reference = read_json(next(home.glob("models/ranker/*/dossier/reference/reference.json")))
    assert reference["schema_version"] == 2
    assert reference["performance"]["auc"]["values"]
    assert reference["router"]


def test_labels_that_have_not_matured_are_told(home: Path) -> None:
    last = _state(home)["last"]
    auc = next(told for told in last["told"] if told["key"] == "performance/auc")
    # Four days of the window are mature, too few rows for a policy that asks for more.
    assert auc["finding"] in ("recorded", "few rows", "warming up")


def test_an_incident_is_answered_from_the_command_line(home: Path) -> None:
    number = str(_state(home)["incidents"][0]["number"])
    why = ("--reason", "looking at the prompts", "--home", str(home))
    assert "acknowledged" in brewhouse("drift", "ack", number, *why).stdout
    late = brewhouse("drift", "snooze", number, "--until", "2020-01-01", *why)
    assert (late.returncode, late.stdout) == (2, "")
    assert "a snooze may end from" in late.stderr
    assert "dismissed" in brewhouse("drift", "dismiss", number, *why).stdout
    assert "resolved" in brewhouse("drift", "resolve", number, *why).stdout
    gone = brewhouse("drift", "ack", number, *why)
    assert gone.returncode == 10
    assert "is resolved; acknowledge is only for" in gone.stderr
    assert "there is no incident 999" in brewhouse("drift", "ack", "999", *why).stderr


def test_policies_are_tried_on_past_windows(home: Path) -> None:
    tried = brewhouse(
        "drift",
        "replay",
        "--policy",
        str(home / "eager.yaml"),
        "--against",
        "default",
        "--home",
        str(home),
        "--json",
    )
    assert tried.returncode == 0, tried.stderr
    found = json.loads(tried.stdout)
    assert len(found[str(home / "eager.yaml")]["fired"]) == 1
    assert found["default"]["fired"] == []


def test_a_log_that_cannot_be_read_is_an_incident(home: Path, tmp_path: Path) -> None:
    (tmp_path / "interactions").mkdir(parents=True)
    (tmp_path / "members").mkdir()
    for name in ("items.parquet", "members/a.parquet", "interactions/a.parquet"):
        (tmp_path / name).write_bytes(b"not parquet")
    again = ("drift", "run", "--domain", "linkedin", "--home", str(home))
    broken = brewhouse(*again, "--source", str(tmp_path))
    assert broken.returncode == 3, broken.stderr
    keys = {i["key"]: i["severity"] for i in _state(home)["incidents"] if i["status"] == "open"}
    assert keys["data/import"] == "page"
    assert len(_state(home)["triggers"]) == 1
    _watch(home)
    assert all(
        i["status"] == "resolved" for i in _state(home)["incidents"] if i["key"] == "data/import"
    )


def test_without_a_champion_there_is_one_message(tmp_path: Path, home: Path) -> None:
    run = brewhouse(
        "drift",
        "run",
        "--domain",
        "linkedin",
        "--snapshot",
        str(home / "world"),
        "--home",
        str(tmp_path),
    )
    assert run.returncode == 10
    assert "has no champion to watch" in run.stderr
    assert run.stderr.count("error: ") == 1
