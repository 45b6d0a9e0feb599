"""Point-in-time correctness: each rule of the design fails when it is broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brewhouse.data.timelines import assert_no_leak, build_timelines, log_from_table
from brewhouse.errors import LeakError
from tests.conftest import log_table

TARGET = {"id": "target", "shown": 10.0, "event": 10.1, "session": "now"}
CASES = {
    "earlier event": ({"id": "e", "shown": 9.0}, True),
    "future event": ({"id": "e", "shown": 11.0}, False),
    "equal timestamp": ({"id": "e", "shown": 10.0}, False),
    "late created_at": ({"id": "e", "shown": 9.0, "logged": 10.5}, False),
    "arrived at the very moment": ({"id": "e", "shown": 9.0, "logged": 10.0}, True),
    "shown before, acted after": ({"id": "e", "shown": 9.0, "event": 10.05}, False),
    "sampled negative": ({"id": "e", "shown": 9.0, "origin": "sampled"}, False),
    "other member": ({"id": "e", "shown": 9.0, "member": "m2"}, False),
    "other surface kept out": ({"id": "e", "shown": 9.0, "surface": "learning"}, False),
}


@pytest.mark.parametrize(("event", "known"), CASES.values(), ids=CASES)
def test_what_a_target_may_know(event: dict[str, object], known: bool) -> None:
    log = log_from_table(log_table([event, TARGET]))
    timelines = build_timelines(log, history_surfaces=["jobs"], targets=np.array([1]))
    assert log.interaction_id[timelines.history(0)].tolist() == (["e"] if known else [])
    assert_no_leak(timelines)


def test_session_mates_are_no_evidence() -> None:
    rows = [
        {"id": "first", "shown": 10.0, "event": 10.001, "session": "now"},
        {"id": "second", "shown": 10.01, "event": 10.02, "session": "now"},
    ]
    log = log_from_table(log_table(rows))
    timelines = build_timelines(log, history_surfaces=["jobs"])
    assert timelines.branch_Q.tolist() == [0, 0]


def test_lag_keeps_series_mates_out() -> None:
    log = log_from_table(log_table([{"id": "mate", "shown": 9.5}, TARGET]))
    day = 86_400_000_000
    strict = build_timelines(log, history_surfaces=["jobs"], targets=np.array([1]), lag_micros=day)
    assert strict.branch_Q.tolist() == [0]


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        ({"id": "e", "shown": 11.0}, "happened at or after"),
        ({"id": "e", "shown": 10.0}, "happened at or after"),
        ({"id": "e", "shown": 9.0, "logged": 10.5}, "was logged after"),
        ({"id": "e", "shown": 9.0, "session": "now"}, "own session"),
    ],
)
def test_the_guard_sees_a_broken_timeline(event: dict[str, object], complaint: str) -> None:
    """Tampering with the branch point or the moment must be noticed, rule by rule."""
    log = log_from_table(log_table([event, TARGET]))
    timelines = build_timelines(log, history_surfaces=["jobs"], targets=np.array([1]))
    moment = timelines.moment_Q
    if complaint == "own session":
        moment = np.array([log.shown_at[1]])
    mine = timelines.events_E[timelines.events_E != 1]
    broken = replace(
        timelines,
        events_E=mine,
        offsets=np.array([0, len(mine)]),
        branch_Q=np.array([1]),
        moment_Q=moment,
    )
    with pytest.raises(LeakError, match=complaint):
        assert_no_leak(broken)


_rows = st.lists(
    st.fixed_dictionaries(
        {
            "shown": st.integers(0, 12),
            "stay": st.integers(0, 3),
            "late": st.integers(0, 4),
            "member": st.sampled_from(["a", "b"]),
            "session": st.integers(0, 5),
        }
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(_rows)
def test_histories_equal_the_definition(rows: list[dict[str, object]]) -> None:
    """The sort-merge against the rule read aloud, on logs full of ties."""
    table = log_table(
        [
            {
                "shown": r["shown"],
                "event": r["shown"] + r["stay"],
                "logged": r["shown"] + r["stay"] + r["late"],
                "member": r["member"],
                "session": f"{r['member']}{r['session']}",
            }
            for r in rows
        ]
    )
    log = log_from_table(table)
    timelines = build_timelines(log, history_surfaces=["jobs"])
    for q in range(len(log)):
        moment = timelines.moment_Q[q]
        expected = {
            row
            for row in range(len(log))
            if log.member[row] == log.member[q]
            and log.event_at[row] < moment
            and log.created_at[row] <= moment
        }
        assert set(timelines.history(q).tolist()) == expected
        same = (log.session == log.session[q]) & (log.member == log.member[q])
        assert moment == log.shown_at[same].min()
    assert_no_leak(timelines)
