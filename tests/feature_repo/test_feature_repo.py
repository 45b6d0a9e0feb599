"""Feast: strict joins, and prompts that are the same bytes offline and online."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import yaml

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import to_micros
from brewhouse.data.timelines import build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.platform.feast_environment import feature_repo
from brewhouse.platform.feast_rows import history_rows, item_facts
from brewhouse.platform.feast_store import FeastStore
from brewhouse.prompts.builder import TreeBuilder, voices
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.stream import Candidate
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.tasks.suite import load_suite

NOW = datetime(2024, 2, 5, 9, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def store(thousand: Snapshot, linkedin: DomainFolder, tmp_path_factory) -> FeastStore:
    filled = FeastStore(
        tmp_path_factory.mktemp("feast"), domain=linkedin.domain, domain_path="linkedin"
    )
    filled.prepare(thousand, now=NOW)
    filled.apply()
    filled.materialize(until=NOW)
    return filled


def test_feast_queries_draw_no_bar(store: FeastStore) -> None:
    """Where Python runs without a script, as DuckDB would have it."""
    code = (
        "import ibis; from brewhouse.platform.feast_environment import FeastEnvironment;"
        "FeastEnvironment('local', domain='linkedin').open();"
        """print(*ibis.get_backend().con.execute("SELECT current_setting('enable_progress_bar')")"""
        ".fetchone())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.strip() == "False", told.stderr


def test_prompts_are_the_same_bytes_for_a_thousand_members(
    store: FeastStore, thousand: Snapshot, linkedin: DomainFolder, tokenizer: PromptTokenizer
) -> None:
    """In a style that tells titles, so that a second version of an item shows in histories."""
    spec, style = linkedin.domain, "detailed"
    numbers = NumberWords.fit(
        spec,
        members=thousand.read("members"),
        items=thousand.read("items"),
        train_end=pa.scalar(NOW, pa.timestamp("us", tz="UTC")),
    )
    voice = voices(
        spec,
        load_suite(linkedin),
        tokenizer,
        items=thousand.read("items"),
        members=thousand.read("members"),
        numbers=numbers,
        styles=[style],
    )[style]
    layout, items = voice.layout, voice.items
    log = log_from_table(
        store.interactions(datetime(2023, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    )
    builder = TreeBuilder(domain=spec, voices={style: voice})
    timelines = build_timelines(
        log, history_surfaces=spec.history_surfaces, targets=np.zeros(0, np.int64)
    )
    moment = to_micros(NOW)
    candidates = [
        Candidate(
            row=i,
            question=layout.book.on("jobs")[0],
            label=-1,
            weight=1.0,
            item=items.at(i, moment),
        )
        for i in thousand.read("items").column("item_id").to_pylist()[500:503]
    ]
    members = [str(m) for m in log.member_ids[:1000]]
    online = store.online_members(members, layout.verbalizer)
    told = 0
    for code, member in enumerate(members):
        offline_tree = layout.request(
            member,
            builder._evidence(voice, timelines, code),
            candidates,
            request_at=moment,
            moment=moment,
        )
        online_tree = layout.request(
            member, online[member], candidates, request_at=moment, moment=moment
        )
        for leaf in range(len(candidates)):
            assert offline_tree.prompt(leaf).encode() == online_tree.prompt(leaf).encode()
        told += len(offline_tree.steps)
    assert len(members) == 1000
    assert told > 5000


def test_the_log_through_feast_is_the_snapshot(store: FeastStore, thousand: Snapshot) -> None:
    month = thousand.months()[0]
    start = datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
    through = store.interactions(start, (start + timedelta(days=32)).replace(day=1))
    straight = thousand.read("interactions", months=[month])
    key = [("interaction_id", "ascending")]
    assert through.sort_by(key).equals(straight.sort_by(key))


def test_the_join_is_strictly_before(store: FeastStore, thousand: Snapshot) -> None:
    """Feast alone takes a version with the very timestamp asked for; ours does not."""
    frame = thousand.read("members").to_pandas().sort_values(["member_id", "valid_from"])
    changed = frame[frame.duplicated("member_id")].drop_duplicates("member_id").head(50)
    before = frame.groupby("member_id").shift(1).loc[changed.index]
    moments = (changed.valid_from.astype("int64") // 1).to_numpy()
    if str(changed.valid_from.dtype) == "datetime64[ns, UTC]":
        moments = moments // 1000
    at = store.profiles_at(changed.member_id.tolist(), moments)
    after = store.profiles_at(changed.member_id.tolist(), moments + 1)
    assert at.role.tolist() == before.role.tolist()
    assert after.role.tolist() == changed.role.tolist()
    naive = (
        store.store.get_historical_features(
            entity_df=pd.DataFrame(
                {
                    "member_id": changed.member_id.tolist(),
                    "event_timestamp": changed.valid_from.tolist(),
                }
            ),
            features=["member_profile:role"],
        )
        .to_df()
        .set_index("member_id")
    )
    assert naive.loc[changed.member_id.tolist()].role.tolist() == changed.role.tolist()


def test_the_log_keeps_when_a_row_was_learned(store: FeastStore) -> None:
    """Feast's join ignores created timestamps; the log carries them, so timelines can obey them."""
    table = store.interactions(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    late = (
        table.column("created_at").cast(pa.int64()).to_numpy()
        - table.column("event_at").cast(pa.int64()).to_numpy()
    ) > 3_600_000_000
    assert late.mean() > 0.1
    log = log_from_table(table)
    rows = np.flatnonzero(late)[:200]
    timelines = build_timelines(log, history_surfaces=log.surfaces)
    moments = timelines.moment_Q
    for row in rows:
        same = log.member[timelines.targets_Q] == log.member[row]
        between = same & (moments > log.event_at[row]) & (moments < log.created_at[row])
        for q in np.flatnonzero(between):
            assert row not in timelines.history(int(q))


def test_a_pushed_history_is_read_at_once(
    store: FeastStore, thousand: Snapshot, linkedin: DomainFolder
) -> None:
    later = NOW + timedelta(days=3)
    member = thousand.read("members").column("member_id").to_pylist()[0]
    log = thousand.read("interactions").filter(
        pa.compute.equal(thousand.read("interactions").column("member_id"), member)
    )
    known = log.filter(
        pa.compute.less(log.column("created_at"), pa.scalar(later, pa.timestamp("us", tz="UTC")))
    )
    versions = [r for r in thousand.read("members").to_pylist() if r["member_id"] == member]
    items = item_facts(thousand.read("items"), linkedin.domain)
    rows = history_rows(known, versions, items, linkedin.domain, now=later, lag=timedelta(0))
    store.push_history(pd.DataFrame(rows))
    newest = [
        e
        for e in store.online_members([member], Verbalizer(linkedin.domain))[member]
        if hasattr(e, "surface")
    ][-1]
    assert newest.at == rows[0]["shown_at"][-1]


@pytest.mark.parametrize("env", ["local", "staging", "prod"])
def test_every_environment_names_its_stores(env: str) -> None:
    value = yaml.safe_load(
        (feature_repo() / "environments" / env / "feature_store.yaml").read_text()
    )
    assert {"project", "provider", "registry", "offline_store", "online_store"} <= set(value)
    assert "password" not in str(value).lower()


def test_definitions_are_one_versioned_service(store: FeastStore) -> None:
    service = store.store.get_feature_service("ranker_v1")
    assert [p.name for p in service.feature_view_projections] == [
        "member_profile",
        "recent_history",
    ]
    assert {e.name for e in store.store.list_entities()} >= {"member", "item"}


def test_missing_repo_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from brewhouse.errors import ConfigError

    monkeypatch.setenv("BREWHOUSE_FEATURE_REPO", str(tmp_path))
    with pytest.raises(ConfigError, match="no feature repo at .* set BREWHOUSE_FEATURE_REPO"):
        feature_repo()


def test_feast_is_imported_without_typeguard(tmp_path: Path) -> None:
    """In a process of its own, where nothing has imported it yet."""
    code = """
import typeguard

def never(*_, **__):
    raise AssertionError("checked")

typeguard.typechecked = never
from brewhouse.platform.feast_environment import FeastEnvironment
assert FeastEnvironment(domain="linkedin").definitions()
assert typeguard.typechecked is never
"""
    named = {"DOMAIN": "linkedin", "FEAST_DATA": str(tmp_path), "FEAST_ENGINE": "file"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {f"BREWHOUSE_{name}": value for name, value in named.items()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
