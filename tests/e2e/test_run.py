"""The main job on a tiny world: killed, resumed, judged, registered; and bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from brewhouse.domains.loader import domain_path
from brewhouse.files import read_json
from tests.conftest import ROOT, SHARED

BREWHOUSE = [sys.executable, "-c", "from brewhouse.cli.main import main; main()"]


def brewhouse(*arguments: str, timeout: int = 600) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BREWHOUSE, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, str, subprocess.CompletedProcess[str]]:
    """A run killed in the middle of training and started again."""
    out = tmp_path_factory.mktemp("e2e") / "run"
    arguments = [
        "run",
        "--domain",
        "linkedin",
        "--preset",
        "tiny",
        "--seed",
        "5",
        "--out",
        str(out),
        "--json",
    ]
    first = subprocess.Popen(
        [*BREWHOUSE, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    said = []
    for line in first.stderr:
        said.append(line)
        if "finetune" in line or time.monotonic() < 0:
            break
    os.killpg(first.pid, signal.SIGKILL)
    said.append(first.communicate()[1] or "")
    time.sleep(2)
    return out, "".join(said), brewhouse(*arguments)


@pytest.mark.slow
def test_a_killed_run_goes_on_from_the_last_finished_step(finished) -> None:
    out, before, run = finished
    assert run.returncode == 0, run.stderr[-3000:]
    assert "simulating preset tiny" in before
    assert "finetune" in before
    assert "simulating preset" not in run.stderr
    assert "expectations met" not in run.stderr
    assert "through Feast" not in run.stderr
    assert "resumed from step-" in run.stderr
    assert "registered ranker version 1" in run.stderr
    assert read_json(out / "evidence" / "status.json")["state"] == "SUCCEEDED"


@pytest.mark.slow
def test_the_evidence_of_a_run(finished) -> None:
    out, _, run = finished
    value = json.loads(run.stdout)
    assert value["verdict"] == "PASS"
    assert value["registered"]["state"] == "PENDING_APPROVAL"
    results = read_json(out / "evidence" / "results.json")
    assert len(results["tasks"]) == 35
    assert {c["name"]: c["passed"] for c in results["checks"]} == {
        "leaf_parity": True,
        "cost": True,
        "canary": True,
        "point_in_time": True,
    }
    probes = {(p["kind"], p["name"]) for p in results["probes"]}
    assert {
        ("history", "newest_0"),
        ("history", "shuffled_labels"),
        ("style", "held_out"),
    } <= probes
    report = (out / "evidence" / "report.html").read_text()
    assert "Does it read its history?" in report
    cold = next(p for p in results["probes"] if p["name"] == "newcomer")
    assert {"popularity", "member_mean", "lightgbm"} <= set(cold["peers"])
    assert "When no more than 4 interactions of a member are known" in report
    assert "regret</th>" in report
    scorers = results["tasks"][0]["scorers"]
    assert {"ranker", "popularity", "lightgbm", "oracle", "oracle_without_history"} <= set(scorers)
    assert {"member_mean", "item_mean"} <= set(scorers)
    assert results["production"] == "lightgbm"
    lineage = read_json(out / "evidence" / "lineage.json")["steps"]
    assert sorted(lineage) == sorted(
        [
            "import_data",
            "validate_data",
            "build_features",
            "publish_features",
            "verbalize",
            "train_ranker",
            "train_baselines",
            "evaluate",
            "gate",
            "register",
        ]
    )
    assert lineage["verbalize"]["snapshot"] == lineage["import_data"]["snapshot"]
    report = (out / "evidence" / "report.html").read_text()
    assert "oracle without history" in report
    assert "10-99" in report
    assert 'src="http' not in report
    assert "m000" not in report


@pytest.mark.slow
def test_a_person_releases_the_candidate(finished) -> None:
    """Approve, promote, load through MLflow alone, verify: the commands of the README."""
    out, _, _ = finished
    why = ("--reason", "seen to be better than chance", "--home", str(out))
    listed = json.loads(brewhouse("candidates", "--home", str(out), "--json").stdout)
    assert [(v["version"], v["state"]) for v in listed] == [("1", "PENDING_APPROVAL")]
    early = brewhouse("promote", "1", *why)
    assert (early.returncode, early.stdout) == (10, "")
    assert "version 1 is PENDING_APPROVAL, not APPROVED" in early.stderr
    assert brewhouse("approve", "1", *why).returncode == 0
    promoted = brewhouse("promote", "1", *why)
    assert promoted.returncode == 0, promoted.stderr
    assert "ranker version 1  CHAMPION" in promoted.stdout
    code = (
        "import mlflow, pandas, sys; mlflow.set_tracking_uri(sys.argv[1]); "
        "model = mlflow.pyfunc.load_model('models:/ranker@champion'); "
        "print(model.predict(pandas.DataFrame({'prompt': ['a'], 'task': ['jobs_apply']})).shape)"
    )
    uri = f"sqlite:///{out / 'mlflow.db'}"
    loaded = subprocess.run(
        [sys.executable, "-c", code, uri], capture_output=True, text=True, check=False
    )
    assert loaded.stdout.strip() == "(1,)", loaded.stderr[-2000:]
    dossier = Path(listed[0]["source"]) / "dossier"
    page = (dossier / "index.html").read_text()
    for name in re.findall(r'href="([^"]+)"', page):
        assert (dossier / name).is_file(), name
    assert "http" not in page
    assert [e["act"] for e in read_json(dossier / "decisions.json")][-1] == "promote"
    assert brewhouse("ledger", "verify", "--home", str(out)).returncode == 0
    verdict = dossier / "verdict.json"
    verdict.write_text(verdict.read_text().replace('"outcome": "PASS"', '"outcome":  "PASS"'))
    found = brewhouse("ledger", "verify", "--home", str(out))
    assert found.returncode == 13
    assert "verdict.json was changed" in found.stdout


@pytest.mark.slow
def test_a_new_task_is_yaml_alone(finished, tmp_path: Path) -> None:
    """The very file and command that CONTRIBUTING.md tells."""
    told = (ROOT / "CONTRIBUTING.md").read_text()
    block = re.search(r"cat > my_task.yaml <<'YAML'\n(.*?)\nYAML\n(brewhouse [^\n]*)", told, re.S)
    assert block
    (tmp_path / "my_task.yaml").write_text(block.group(1) + "\n")
    words = block.group(2).split()[1:]
    places = {
        "my_task.yaml": str(tmp_path / "my_task.yaml"),
        "runs/demo": str(finished[0]),
        "runs/my_task": str(tmp_path / "asked"),
    }
    run = brewhouse(*(places.get(word, word) for word in words), "--json")
    assert run.returncode == 0, run.stderr
    assert "leaked" not in run.stderr
    (task,) = json.loads(run.stdout)["tasks"]
    assert (task["name"], task["tier"]) == ("learning_engage", "T2")
    auc = task["scorers"]["ranker"]["auc"]
    assert auc["low"] < auc["value"] < auc["high"]


@pytest.mark.slow
def test_the_gate_from_the_command_line(finished, tmp_path: Path) -> None:
    results = str(finished[0] / "evidence" / "results.json")
    same = ("gate", "check", results, "--champion", results)
    policy = tmp_path / "same.yaml"
    policy.write_text(
        "name: same\nversion: 1\nchampion: required\n"
        "rules:\n  - {kind: non_inferior, to: champion}\n"
        "  - {kind: no_deterioration, to: champion}\n"
    )
    run = brewhouse(*same, "--policy", str(policy), "--out", str(tmp_path / "out"))
    # A model is never worse than itself: every resample is paired.
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.startswith("PASS by same@1")
    told = brewhouse("gate", "explain", str(tmp_path / "out" / "verdict.json"))
    assert told.stdout.count("jobs_apply auc +0.0000 [+0.0000, +0.0000], margin 0.01") == 1
    assert "All rules hold" in (tmp_path / "out" / "report.html").read_text()
    alone = brewhouse("gate", "check", results, "--policy", str(policy))
    assert alone.returncode == 9
    assert "requires a champion and none was given" in alone.stderr


@pytest.mark.slow
def test_members_outside_the_regions_never_reach_the_shards(finished) -> None:
    out, _, _ = finished
    manifest = read_json(out / "evidence" / "prompts.json")
    removed = manifest["counts"]["removed"]
    assert removed["members_outside_regions"] > 0
    assert removed["rows_outside_regions"] > 0
    from brewhouse.prompts.shards import read_trees

    shards = next((out / "artifacts").rglob("train/shard-*.parquet")).parents[1]
    members = {t.member for f in (shards / "train").glob("*") for t in read_trees(f)}
    snapshot = next((out / "artifacts").rglob("snapshot/members"))
    frame = pd.concat([pd.read_parquet(p) for p in snapshot.rglob("*.parquet")])
    outside = set(frame[frame.country.isin(["DE", "FR", "NL"])].member_id)
    assert outside
    assert members
    assert not members & outside
    assert removed["members_outside_regions"] == len(outside)
    # Nor the baselines: they learn from the rows of the same members.
    paths = snapshot.parent.joinpath("interactions").rglob("*.parquet")
    log = pd.concat([pd.read_parquet(p) for p in paths])
    end = pd.Timestamp(manifest["split"]["train_end"])
    known = log[["event_at", "created_at"]].max(axis=1) < end
    feed = log[known & (log.surface == "feed") & ~log.member_id.isin(outside)]
    record = read_json(out / "evidence" / "baselines.json")["tasks"]["feed_click"]
    assert record["popularity"]["train_rows"] == len(feed)


@pytest.mark.slow
def test_a_blocked_run_trains_nothing(tiny_raw: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(tiny_raw, raw)
    path = next((raw / "interactions").glob("*"))
    frame = pd.read_parquet(path)
    frame.loc[3, "action"] = "poked"
    frame.to_parquet(path, coerce_timestamps="us", allow_truncated_timestamps=True)
    run = brewhouse(
        "run", "--domain", "linkedin", "--source", str(raw), "--out", str(tmp_path / "out")
    )
    assert run.returncode == 4, run.stderr
    assert run.stderr.count("error: ") == 1
    assert "unknown action" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "out" / "training").exists()
    assert read_json(tmp_path / "out" / "evidence" / "status.json")["state"] == "FAILED"
    assert read_json(tmp_path / "out" / "evidence" / "validation.json")["blocked"]


def _broken_yaml(tmp_path: Path) -> list[str]:
    folder = tmp_path / "mine"
    shutil.copytree(domain_path("linkedin"), folder, ignore=shutil.ignore_patterns("*.py*"))
    (folder / "domain.yaml").write_text("name: [x\nversion: 1\n")
    return ["run", "--domain", str(folder), "--preset", "tiny", "--out", str(tmp_path / "o")]


def _same_answers(tmp_path: Path) -> list[str]:
    folder = tmp_path / "mine"
    shutil.copytree(domain_path("linkedin"), folder, ignore=shutil.ignore_patterns("*.py*"))
    task = folder / "tasks" / "jobs.yaml"
    task.write_text(
        task.read_text().replace(
            "    positive: [viewed]\n", "    positive: [viewed]\n    answers: [will do, will not]\n"
        )
    )
    return ["domain", "validate", str(folder)]


def _foreign(tmp_path: Path) -> list[str]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    return [
        "data",
        "import",
        "--domain",
        "linkedin",
        "--preset",
        "tiny",
        "--out",
        str(tmp_path / "data"),
    ]


MISTAKES = {
    "someone else's folder": (_foreign, 2, "holds files that are not ours"),
    "no champion": (
        lambda p: [
            "run",
            "--domain",
            "linkedin",
            "--preset",
            "tiny",
            "--out",
            str(p / "o"),
            "--champion",
            str(p / "none.json"),
        ],
        2,
        "no results can be read",
    ),
    "no policy": (
        lambda p: [
            "run",
            "--domain",
            "linkedin",
            "--preset",
            "tiny",
            "--out",
            str(p / "o"),
            "--policy",
            "lax",
        ],
        2,
        "lax.yaml: cannot be read",
    ),
    "unknown domain": (lambda _: ["run", "--domain", "x", "--out", "o"], 2, "neither built in"),
    "broken yaml": (_broken_yaml, 2, "no valid YAML"),
    "answers alike": (_same_answers, 6, "share their first token"),
    "no date": (
        lambda p: [
            "run",
            "--domain",
            "linkedin",
            "--preset",
            "tiny",
            "--train-end",
            "soon",
            "--out",
            str(p / "o"),
        ],
        2,
        "'soon' is no date",
    ),
    "no snapshot": (
        lambda p: ["data", "validate", "--domain", "linkedin", "--snapshot", str(p)],
        3,
        "import again",
    ),
    "no source": (
        lambda p: [
            "data",
            "import",
            "--domain",
            "linkedin",
            "--out",
            str(p / "s"),
            "--source",
            str(p / "none"),
        ],
        2,
        "does not exist",
    ),
    "unknown preset": (
        lambda p: [
            "data",
            "import",
            "--domain",
            "linkedin",
            "--out",
            str(p / "s"),
            "--preset",
            "huge",
        ],
        2,
        "unknown preset",
    ),
}


@pytest.mark.parametrize(("arguments", "code", "message"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_message_and_an_exit_code(
    tmp_path: Path, arguments, code: int, message: str
) -> None:
    run = brewhouse(*arguments(tmp_path))
    assert run.returncode == code, run.stderr
    assert message in run.stderr
    assert run.stderr.count("error: ") == 1
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "s").exists()


def test_evidence_of_another_run_is_never_shown(tmp_path: Path) -> None:
    """Back to earlier arguments, whose steps are all cached, means back to their evidence."""
    from brewhouse.cli.runs import _evidence_folder
    from brewhouse.stages.common import run_key

    source = tmp_path / "rows.csv"
    source.write_text("a")
    keys = [run_key({"policy": name}, [source]) for name in ("strict", "lax", "strict")]
    assert keys[0] == keys[2] != keys[1]
    for key, verdict in zip(keys[:2], ("FAIL", "PASS"), strict=True):
        (_evidence_folder(tmp_path, key) / "verdict.json").write_text(verdict)
    _evidence_folder(tmp_path, keys[2])
    assert (tmp_path / "evidence" / "verdict.json").read_text() == "FAIL"
    source.write_text("mended")
    assert run_key({"policy": "strict"}, [source]) != keys[0]


def test_help_and_import_are_fast() -> None:
    for code in ("import brewhouse", "from brewhouse.cli.main import app"):
        best = min(_seconds(code) for _ in range(3))
        assert best < 0.5, code
    heavy = {"torch", "pandas", "pyarrow", "kfp", "feast", "mlflow", "duckdb"}
    assert not heavy & _loaded("brewhouse.cli.main")
    # What runs a step loads no grammar that takes longer than all the rest.
    assert not {"torch", "pandas", "rfc3987_syntax"} & _loaded("kfp.dsl.executor_main")


def _loaded(module: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(told.stdout.split())


def _seconds(code: str) -> float:
    empty = time.monotonic()
    subprocess.run([sys.executable, "-c", "pass"], check=True)
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.monotonic() - start) - (start - empty)


def test_doctor_finds_this_environment_whole() -> None:
    run = brewhouse("doctor", "--json")
    found = {i["name"]: i["state"] for i in json.loads(run.stdout)}
    # How full the machine's disk is, is no fault of the environment.
    assert run.returncode == (found.pop("disk") == "missing")
    assert set(found.values()) == {"ok"}, run.stdout


def test_tasks_and_domains_for_machines() -> None:
    tasks = json.loads(brewhouse("tasks", "ls", "--domain", "linkedin", "--json").stdout)
    assert len(tasks) == 35
    assert tasks[0]["version"] == 1
    assert "code_review" in brewhouse("domain", "ls").stdout


@pytest.mark.shared_data
def test_code_review_imports_with_its_traps_handled(tmp_path: Path) -> None:
    run = brewhouse(
        "data",
        "import",
        "--domain",
        "code_review",
        "--source",
        str(SHARED / "data" / "code_review"),
        "--out",
        str(tmp_path / "s"),
        "--json",
    )
    assert run.returncode == 0, run.stderr
    manifest = json.loads(run.stdout)
    policies = {p["surface"]: p for p in manifest["provenance"]["negatives"]}
    assert set(policies) == {"reviewed", "acked", "tested"}
    assert policies["reviewed"]["drawn"] > 3.9 * policies["reviewed"]["positives"]
    from brewhouse.data.snapshot import Snapshot

    log = Snapshot.open(tmp_path / "s").read("interactions").to_pandas()
    drawn = log[log.origin == "sampled"]
    touched = set(
        zip(log[log.origin == "logged"].member_id, log[log.origin == "logged"].item_id, strict=True)
    )
    assert not touched & set(zip(drawn.member_id, drawn.item_id, strict=True))
    assert (log.event_at > log.shown_at).all()
    per = drawn.groupby("surface").size() / log[log.origin == "logged"].groupby("surface").size()
    assert per["reviewed"] == pytest.approx(4, abs=0.01)
