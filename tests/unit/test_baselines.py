"""Baselines know no more than the ranker: counts against the definition, and a planted future."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from brewhouse.baselines.features import FeatureBuilder
from brewhouse.baselines.models import TaskData, lightgbm, popularity
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Log, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.prompts.canary import plant
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages.baselines import _first_versions
from tests.conftest import log_table


def builder_for(
    log: Log, tiny: Snapshot, linkedin: DomainFolder, rows: np.ndarray
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
        spec, timelines, items, texts, ["a"] * len(rows), train_end=int(log.shown_at.max()), seed=0
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


@settings(max_examples=100, deadline=None)
@given(rows_strategy)
def test_counts_equal_the_definition(rows: list[dict[str, object]]) -> None:
    log = log_from_table(
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
    timelines = build_timelines(log, history_surfaces=["jobs"])
    builder = FeatureBuilder.__new__(FeatureBuilder)
    builder.__dict__.update(_counters={}, limit_Q=2 * timelines.moment_Q)
    ranks = 2 * log.known_at + (log.event_at >= log.created_at)
    logged = np.flatnonzero(log.logged)
    builder.rows_E = logged[np.argsort(ranks[logged], kind="stable")]
    builder.rank_E = ranks[builder.rows_E]
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
