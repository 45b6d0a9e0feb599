"""Baselines know no more than the ranker: counts against the definition, and a planted future."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from brewhouse.baselines.affinity import Known, Words, word_affinity
from brewhouse.baselines.features import FeatureBuilder
from brewhouse.baselines.models import TaskData, lightgbm, mean_of, popularity
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Log, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import ConfigError
from brewhouse.prompts.canary import plant
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages.baseline_rows import Rows, _first_versions
from brewhouse.stages.baselines import ALL, choose, score, work_of
from brewhouse.stages.baselines import run as run_baselines
from brewhouse.tasks.suite import load_suite
from tests.conftest import log_table


def builder_for(
    log: Log,
    tiny: Snapshot,
    linkedin: DomainFolder,
    rows: np.ndarray,
    *,
    own_rows: int | None = None,
) -> FeatureBuilder:
    spec = linkedin.domain
    timelines = build_timelines(log, history_surfaces=list(spec.surfaces), targets=rows)
    known = tiny.read("items")
    at = pa.compute.index_in(
        pa.array([i.removeprefix("canarybird-") for i in log.item_ids]),
        value_set=known.column("item_id").combine_chunks(),
    )
    items = known.take(pa.compute.fill_null(at, 0))
    texts = [Verbalizer(spec).question(row) for row in items.to_pylist()]
    return FeatureBuilder(
        spec,
        timelines,
        items,
        texts,
        ["a"] * len(rows),
        train_end=int(log.shown_at.max()),
        seed=0,
        own_rows=own_rows,
    )


rows_strategy = st.lists(
    st.fixed_dictionaries(
        {
            "shown": st.integers(0, 10),
            "stay": st.integers(0, 3),
            "late": st.integers(0, 3),
            "member": st.sampled_from(["a", "b"]),
            "item": st.sampled_from(["i1", "i2", "i3"]),
            "action": st.sampled_from(["none", "viewed"]),
            "origin": st.sampled_from(["logged", "logged", "sampled"]),
        }
    ),
    min_size=2,
    max_size=20,
)


def _log(rows: list[dict[str, object]]) -> Log:
    return log_from_table(
        log_table(
            [
                {
                    **row,
                    "event": row["shown"] + row["stay"],
                    "logged": row["shown"] + row["stay"] + row["late"],
                }
                for row in rows
            ]
        )
    )


def _counting(log: Log) -> FeatureBuilder:
    """A builder that can count and no more."""
    timelines = build_timelines(log, history_surfaces=["jobs"])
    builder = FeatureBuilder.__new__(FeatureBuilder)
    ranks = 2 * log.known_at + (log.event_at >= log.created_at)
    logged = np.flatnonzero(log.logged)
    rows = logged[np.argsort(ranks[logged], kind="stable")]
    builder.__dict__.update(
        log=log,
        timelines=timelines,
        limit_Q=2 * timelines.moment_Q,
        rows_E=rows,
        own=np.ones(len(log), bool),
        rank_E=ranks[rows],
        _counters={},
    )
    return builder


@settings(max_examples=100, deadline=None)
@given(rows_strategy)
def test_counts_equal_the_definition(rows: list[dict[str, object]]) -> None:
    log = _log(rows)
    builder = _counting(log)
    timelines = builder.timelines
    acted = log.action != log.actions.index("none") if "none" in log.actions else log.action >= 0
    counter = builder.counter("item", log.item, log.item)
    for q in range(len(log)):
        moment = timelines.moment_Q[q]
        known = (
            log.logged
            & (log.item == log.item[q])
            & (log.event_at < moment)
            & (log.created_at <= moment)
        )
        assert counter.all()[q] == known.sum()
        assert counter.where(acted)[q] == (known & acted).sum()


def test_a_planted_future_changes_no_feature(tiny: Snapshot, linkedin: DomainFolder) -> None:
    log = log_from_table(tiny.read("interactions", shards=[2]))
    # Every row is betrayed at its moment, in its session, or by an event logged too late; only the
    # first asked session of each member is compared, for later ones may know earlier betrayals.
    first = np.array([np.flatnonzero(log.member == m)[0] for m in range(len(log.member_ids))])
    positive = np.zeros(len(log), bool)
    positive[first] = True
    planted = plant(log, positive=positive, action=0)
    before = builder_for(log, tiny, linkedin, first).shared()
    after = builder_for(planted, tiny, linkedin, first).shared()
    names = [
        i
        for i, n in enumerate(before.names)
        if n.startswith(
            (
                "item_shown",
                "item_any",
                "member",
                "match",
                "days",
                "text_eng",
                "text_pas",
                "text_near",
                "words",
            )
        )
    ]
    assert len(names) > 10
    assert np.array_equal(before.values_QF[:, names], after.values_QF[:, names])


def test_lightgbm_finds_what_popularity_cannot(tiny: Snapshot, linkedin: DomainFolder) -> None:
    log = log_from_table(tiny.read("interactions"))
    builder = builder_for(log, tiny, linkedin, np.arange(len(log)))
    own = builder.for_task(["viewed"])
    labels = builder.shared().values_QF[:, 0] > np.median(builder.shared().values_QF[:, 0])
    train, test = np.arange(0, len(log), 2), np.arange(1, len(log), 2)
    data = TaskData(
        labels_Q=labels.astype(float),
        when_Q=builder.timelines.request_at_Q,
        train=train,
        test=test,
    )
    fitted = lightgbm(builder.shared(), own, data, seed=0)
    assert fitted is not None
    assert ((fitted.log_odds > 0) == labels[test]).mean() > 0.95
    one_class = replace(data, labels_Q=np.zeros(len(log)))
    assert lightgbm(builder.shared(), own, one_class, seed=0) is None
    flat = popularity(builder, data)
    assert flat.log_odds.dtype == np.float32
    assert np.isfinite(flat.log_odds).all()


def test_first_versions_follow_the_codes_of_the_log(tiny: Snapshot) -> None:
    log = log_from_table(tiny.read("interactions", shards=[0]))
    items = _first_versions(tiny.read("items"), log)
    assert items.column("item_id").to_pylist() == log.item_ids.tolist()


@settings(max_examples=60, deadline=None)
@given(rows_strategy, st.sampled_from(["item", "member"]))
def test_means_equal_the_definition(rows: list[dict[str, object]], what: str) -> None:
    log = _log(rows)
    builder = _counting(log)
    positive = (
        log.action == log.actions.index("viewed") if "viewed" in log.actions else log.item < 0
    )
    train, test = np.arange(0, len(log), 2), np.arange(1, len(log), 2)
    data = TaskData(labels_Q=positive.astype(float), when_Q=log.shown_at, train=train, test=test)
    found = mean_of(builder, what, positive, data).log_odds
    code, moment = getattr(log, what), builder.timelines.moment_Q
    for q, got in zip(test, found, strict=True):
        known = (
            log.logged
            & (code == code[q])
            & (log.event_at < moment[q])
            & (log.created_at <= moment[q])
        )
        base = positive[train].mean()
        p = ((known & positive).sum() + 20 * base) / (known.sum() + 20)
        p = min(max(p, 1e-6), 1 - 1e-6)
        assert got == pytest.approx(np.log(p / (1 - p)), abs=1e-4)


@settings(max_examples=60, deadline=None)
@given(rows_strategy)
def test_the_newest_known_row_equals_the_definition(rows: list[dict[str, object]]) -> None:
    log = _log(rows)
    builder = _counting(log)
    moment, mask = builder.timelines.moment_Q, log.action == 0
    newest = builder.logged_counts("member").newest(mask)
    for q in range(len(log)):
        known = np.flatnonzero(
            log.logged
            & mask
            & (log.member == log.member[q])
            & (log.event_at < moment[q])
            & (log.created_at <= moment[q])
        )
        assert (newest[q] >= 0) == (len(known) > 0)
        if len(known):
            assert log.known_at[newest[q]] == log.known_at[known].max()


@pytest.mark.parametrize("window", [None, 30])
def test_word_affinity_equals_the_definition(window: int | None) -> None:
    rng = np.random.default_rng(0)
    held = rng.random((12, 6)) < 0.4
    words = Words(items=csr_matrix(held.astype(float)), idf_V=1 + rng.random(6))
    known = Known(
        member_E=rng.integers(0, 3, 80),
        item_E=rng.integers(0, 12, 80),
        rank_E=np.sort(rng.integers(0, 200, 80)),
    )
    member, item, limit = (rng.integers(0, n, 50) for n in (3, 12, 200))
    found = word_affinity(words, known, member, item, limit, window=window)
    for q in range(50):
        mine = (known.member_E == member[q]) & (known.rank_E <= limit[q])
        if window is not None:
            mine &= known.rank_E > limit[q] - 2 * window
        of = np.flatnonzero(held[item[q]])
        met = held[known.item_E[mine]][:, of].sum(0)
        lift = np.log((met + 0.5) / (mine.sum() * np.exp(1 - words.idf_V[of]) + 0.5))
        assert found["lift"][q] == pytest.approx(lift.mean() if len(of) else 0)
        assert found["best"][q] == pytest.approx(lift.max(initial=-9))
        assert found["events"][q] == pytest.approx(np.log1p(mine.sum()))
        if len(of):
            idf = words.idf_V[of]
            assert found["seen"][q] == pytest.approx((idf * (met > 0)).sum() / idf.sum())


def test_the_rows_choose_which_baselines_are_trained(linkedin: DomainFolder) -> None:
    spec = linkedin.domain
    assert choose(spec, 100_000) == ALL
    assert choose(spec, 100) == ("popularity", "member_mean", "item_mean", "lightgbm")
    assert choose(spec.model_copy(update={"production": "din"}), 100)[-1] == "din"
    assert choose(spec, 100, ["sequence", "popularity"]) == ("popularity", "sequence")
    with pytest.raises(ConfigError, match="unknown baseline 'xgboost'; known are popularity, "):
        run_baselines(
            domain="linkedin",
            snapshot=Path("no"),
            features=Path("no"),
            shards=Path("no"),
            baselines_out=Path("no"),
            scorers=["xgboost"],
        )


def test_scores_of_all_kinds_come_in_one_table(tiny: Snapshot, linkedin: DomainFolder) -> None:
    log = log_from_table(tiny.read("interactions"))
    everything = np.arange(len(log))
    builder = builder_for(log, tiny, linkedin, everything)
    order = np.argsort(builder.timelines.request_at_Q, kind="stable")
    rows = Rows(
        timelines=builder.timelines,
        train=order[:-1500],
        test=order[-1500:-100],
        cold=order[-100:],
        row_Q=log.interaction_id,
        member_ids=log.member_ids,
        own_rows=len(log),
    )
    tasks = [t for t in load_suite(linkedin).tasks if t.name in ("feed_click", "jobs_view")]
    names = ("popularity", "member_mean", "item_mean", "lightgbm", "dcn_v2_text")
    table, record = score(work_of(builder, tasks, rows, 0), names)
    assert table.column_names == ["task", "scorer", "row", "log_odds", "cold"]
    again = set(log.interaction_id[rows.cold].tolist())
    told = zip(table["row"].to_pylist(), table["cold"].to_pylist(), strict=True)
    assert all(cold == (row in again) for row, cold in told)
    for task in tasks:
        asked = {
            log.interaction_id[q]
            for q in rows.asked
            if log.surfaces[log.surface[q]] == task.surface
        }
        for name in names:
            part = table.filter(
                pc.and_(pc.equal(table["task"], task.name), pc.equal(table["scorer"], name))
            )
            assert set(part["row"].to_pylist()) <= asked
            assert part.num_rows == len(set(part["row"].to_pylist())) > 100
            assert 0.3 < record["tasks"][task.name][name]["test_auc"] < 1
    assert len(record["models"]["lightgbm"]["search"]) == 3
    assert record["models"]["dcn_v2_text"]["setting"] in [
        trial["setting"] for trial in record["models"]["dcn_v2_text"]["search"]
    ]
