"""How shards of a study differ, and what results are told apart by, against slow readings."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import TemporalSplit
from brewhouse.data.timelines import build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.stages.facets import add_facets
from brewhouse.stages.variant import Variant
from tests.conftest import log_table


def test_frozen_histories_end_with_training() -> None:
    rows = [
        {"id": "old", "shown": 8.0},
        {"id": "late", "shown": 9.0, "logged": 13.0},
        {"id": "new", "shown": 14.0},
        {"id": "target", "shown": 20.0, "session": "now"},
    ]
    log = log_from_table(log_table(rows))
    # log_table counts days from its first.
    origin = datetime.fromtimestamp(log.shown_at[0] / 1e6, UTC) - pd.Timedelta(days=8)
    split = TemporalSplit(
        train_start=origin,
        train_end=origin + pd.Timedelta(days=12),
        gap_days=1,
        test_days=20,
    )

    def told(variant: Variant) -> list[str]:
        timelines = build_timelines(
            variant.evidence(log, split), history_surfaces=["jobs"], targets=np.array([3])
        )
        return sorted(log.interaction_id[timelines.history(0)].tolist())

    assert told(Variant()) == ["late", "new", "old"]
    assert told(Variant(frozen=True)) == ["old"]


def test_histories_may_be_cut(linkedin: DomainFolder) -> None:
    spec = Variant(max_events=0, max_tokens=64, horizons_weeks=[0, 4]).domain(linkedin.domain)
    assert (spec.history.max_events, spec.history.max_tokens) == (0, 64)
    assert spec.defaults.horizons_weeks == [0, 4]
    assert Variant().domain(linkedin.domain) == linkedin.domain


def test_facets_are_those_of_the_moment(tiny: Snapshot, linkedin: DomainFolder) -> None:
    log = tiny.read("interactions").to_pandas()
    items, members = tiny.read("items").to_pandas(), tiny.read("members").to_pandas()
    start = log.shown_at.quantile(0.8).to_pydatetime()
    some = log[log.shown_at >= start].sample(60, random_state=1)
    rows = pa.table(
        {
            "row": some.interaction_id.tolist(),
            "member": some.member_id.tolist(),
            "item": some.item_id.tolist(),
            "shown_at": pa.array(some.shown_at, pa.timestamp("us", tz="UTC")),
        }
    )
    found = add_facets(rows, tiny, linkedin.domain, tests_start=start).to_pandas()
    assert found.row.tolist() == some.interaction_id.tolist()
    for row in found.itertuples():
        own = members[members.member_id == row.member].sort_values("valid_from")
        tenure = (row.shown_at - own.valid_from.iloc[0]).total_seconds() / 86400
        assert abs(row.tenure_days - max(0, tenure)) < 1e-6
        now = own[own.valid_from <= row.shown_at].iloc[-1]
        assert (row.slice_seniority, row.slice_region) == (now.seniority, now.country)
        born = items[items.item_id == row.item].created_at.min()
        age = (row.shown_at - born).total_seconds() / 86400
        assert abs(row.item_age_days - max(0, age)) < 1e-6
        past = log[(log.item_id == row.item) & (log.event_at < start) & (log.origin == "logged")]
        assert row.popularity == len(past)
    assert found.slice_seniority.nunique() > 1
    assert found.popularity.max() > 0
