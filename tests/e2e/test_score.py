"""Batch scoring gives what evaluation gives."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from brewhouse.data.rules import excluded_members
from brewhouse.data.schema import conform, interactions_schema
from brewhouse.data.snapshot import Snapshot, write_snapshot
from brewhouse.domains.loader import DomainFolder
from brewhouse.model.shipped import locate
from brewhouse.stages import features as feature_step
from brewhouse.stages import verbalizing
from brewhouse.stages.scoring import ScoringPlan, score_folder
from brewhouse.stages.variant import Variant

MODEL = Path(locate("linkedin-tiny"))
MEMBERS, CANDIDATES = 1000, 50


@pytest.fixture(scope="module")
def asked(thousand: Snapshot, linkedin: DomainFolder) -> pa.Table:
    """A thousand members, fifty jobs each, two days after the log ends."""
    regions = linkedin.domain.regions
    profiles = thousand.read("members")
    out = excluded_members(profiles, regions.column, regions.allowed)
    members = [m for m in pc.unique(profiles.column("member_id")).to_pylist() if m not in out]
    items = thousand.read("items")
    jobs = pc.unique(items.filter(pc.equal(items.column("kind"), "job")).column("item_id"))
    rng = np.random.default_rng(3)
    at = thousand.end() + timedelta(days=2)
    rows = [
        {"request_id": f"r{m}", "member_id": m, "item_id": i, "surface": "jobs", "at": at}
        for m in members[:MEMBERS]
        for i in rng.choice(jobs.to_pylist(), CANDIDATES, replace=False)
    ]
    assert len(rows) == MEMBERS * CANDIDATES
    return pa.Table.from_pylist(rows)


def _score(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("brewhouse"), "score", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_scores_equal_those_of_evaluation(
    thousand: Snapshot, asked: pa.Table, tmp_path: Path
) -> None:
    """The same requests as impressions of a log that is evaluated, and as requests."""
    pq.write_table(asked, tmp_path / "requests.parquet")
    found = _score(
        *("--domain", "linkedin", "--snapshot", thousand.path, "--model", "linkedin-tiny"),
        *("--requests", tmp_path / "requests.parquet", "--out", tmp_path / "scores.parquet"),
        "--json",
    )
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["candidates"] == MEMBERS * CANDIDATES
    assert told["tokens"] == told["needed"]
    scores = pq.read_table(tmp_path / "scores.parquet").to_pandas()

    leaves, book = _evaluated(thousand, asked, tmp_path)
    tasks = sorted(scores["task"].unique())
    assert len(tasks) > 1
    for task in tasks:
        own = leaves.question_N == book.readings[task].question
        odds = dict(
            zip(
                leaves.rows_N[own],
                book.log_odds(task, leaves.logits_NA[own]),
                strict=True,
            )
        )
        mine = scores[scores["task"] == task]
        ids = mine["request_id"] + "/" + mine["item_id"]
        np.testing.assert_array_equal(
            mine["log_odds"].to_numpy(), np.array([odds[i] for i in ids], np.float32)
        )
        best = mine.groupby("request_id")["log_odds"].max()
        first = mine[mine["rank"] == 1].set_index("request_id")["log_odds"]
        assert len(first) == MEMBERS
        assert (first == best[first.index]).all()
        ranks = mine.sort_values("rank").groupby("request_id")["rank"].apply(list)
        assert ranks.map(lambda r: r == list(range(1, CANDIDATES + 1))).all()


def _evaluated(cut: Snapshot, asked: pa.Table, folder: Path) -> tuple[Any, Any]:
    """Scores of the requests as test rows of a log that holds them."""
    rows = asked.rename_columns(["session_id", "member_id", "item_id", "surface", "shown_at"])
    ids = pc.binary_join_element_wise(rows.column("session_id"), rows.column("item_id"), "/")
    for name, column in {
        "interaction_id": ids,
        "action": pa.array(["none"] * len(rows)),
        "event_at": rows.column("shown_at"),
        "created_at": rows.column("shown_at"),
        "origin": pa.array(["logged"] * len(rows)),
        "weight": pa.array(np.ones(len(rows), np.float32)),
    }.items():
        rows = rows.append_column(name, column)
    rows = conform(rows, interactions_schema(), name="rows")
    tables = {name: cut.read(name) for name in ("members", "items")}
    log = pa.concat_tables([cut.read("interactions"), rows])
    tables["interactions"] = log
    grown = write_snapshot(folder / "grown", tables, domain="linkedin", provenance={})
    feature_step.run(domain="linkedin", snapshot=grown.path, features_out=folder / "features")
    manifest = verbalizing.run(
        domain="linkedin",
        snapshot=grown.path,
        features=folder / "features",
        train_end=f"{cut.end():%Y-%m-%d}",
        shards_out=folder / "shards",
        model="linkedin-tiny",
        max_test_sessions=10 * MEMBERS,
        variant=Variant(training=False, probes=False, horizons_weeks=[0]),
    )
    scored = score_folder(folder / "shards", "test", MODEL, ScoringPlan())
    assert set(scored.leaves.rows_N) == set(ids.to_pylist())
    return scored.leaves, manifest.book


@pytest.fixture(scope="module")
def few(tiny: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Lists of two members and three jobs, as files."""
    folder = tmp_path_factory.mktemp("few")
    members = tiny.read("members")
    ids = members.filter(pc.equal(members.column("country"), "US"))
    items = tiny.read("items")
    jobs = items.filter(pc.equal(items.column("kind"), "job"))
    files = {"members": ids.select(["member_id"])[:2], "items": jobs.select(["item_id"])[:3]}
    for name, table in files.items():
        pa.csv.write_csv(table, folder / f"{name}.csv")
    return {name: folder / f"{name}.csv" for name in files} | {"snapshot": tiny.path}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--surface": ""}, "members x items need --surface"),
        ({"--surface": "jbos"}, "6 of 6 candidates, such as surface 'jbos': no task asks about it"),
        ({"--model": "champion"}, "ranker has no champion; promote a version, or name"),
        ({"--model": "7"}, "has no version 7 of ranker"),
        ({"--model": "nowhere"}, "no model 'nowhere'; give champion, a version's number, or"),
        ({"--at": "tomorrow"}, "--at 'tomorrow' is no moment; give YYYY-MM-DD"),
        ({"--domain": "code_review"}, "is a model of domain linkedin, not code_review"),
        ({"--tasks": "jobs_aply"}, "unknown task 'jobs_aply' in domain linkedin"),
        ({"--items": "gone.csv"}, "gone.csv cannot be read as .csv"),
    ],
)
def test_what_cannot_be_scored_is_named(
    few: dict[str, Path], tmp_path: Path, change: dict[str, str], told: str
) -> None:
    given = {
        "--domain": "linkedin",
        "--snapshot": few["snapshot"],
        "--members": few["members"],
        "--items": few["items"],
        "--surface": "jobs",
        "--model": "linkedin-tiny",
        "--home": tmp_path / "home",
        "--out": tmp_path / "out.parquet",
    } | change
    found = _score(*(part for pair in given.items() for part in pair))
    assert found.returncode in (2, 3, 7, 10), found.stderr
    assert told in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "out.parquet").exists()


def test_every_member_is_asked_about_every_item(few: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    found = _score(
        *("--domain", "linkedin", "--snapshot", few["snapshot"], "--model", "linkedin-tiny"),
        *("--members", few["members"], "--items", few["items"], "--surface", "jobs"),
        *("--at", "2024-06-01", "--tasks", "jobs_apply", "--out", out),
    )
    assert found.returncode == 0, found.stderr
    assert "scored    6 candidates of 2 requests" in found.stdout
    table = pq.read_table(out)
    assert table.column("rank").to_pylist() == [r for m in range(2) for r in _ranks(table, m)]
    about = json.loads(table.schema.metadata[b"brewhouse"])
    assert about["tasks"] == ["jobs_apply@1"]
    assert about["model"].startswith("linkedin-tiny sha256:")


def _ranks(table: pa.Table, request: int) -> list[int]:
    part = table.slice(3 * request, 3).column("log_odds").to_numpy()
    return (np.argsort(np.argsort(-part)) + 1).tolist()
