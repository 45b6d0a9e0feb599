"""Twins: asked what their member is asked, they know its newest few events and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Log, Timelines, assert_no_leak, build_timelines, log_from_table
from brewhouse.data.twins import Twins, with_twins
from brewhouse.domains.loader import DomainFolder
from tests.conftest import log_table
from tests.unit.test_baselines import builder_for

DAY = 86_400_000_000


@pytest.fixture(scope="module")
def log(tiny: Snapshot) -> Log:
    return log_from_table(tiny.read("interactions"))


@pytest.fixture(scope="module")
def asked(log: Log, linkedin: DomainFolder) -> Timelines:
    """Some late rows of the log as targets."""
    late = np.flatnonzero(log.shown_at > np.quantile(log.shown_at, 0.8))
    surfaces = linkedin.domain.history_surfaces
    return build_timelines(log, history_surfaces=surfaces, targets=late[::7])


def told(twins: Twins, targets: np.ndarray, linkedin: DomainFolder) -> Timelines:
    surfaces = linkedin.domain.history_surfaces
    return build_timelines(twins.log, history_surfaces=surfaces, targets=targets)


@pytest.mark.parametrize("keep", [0, 1, 4])
def test_a_twin_knows_the_newest_of_what_its_member_knew(
    log: Log, asked: Timelines, linkedin: DomainFolder, keep: int
) -> None:
    twins = with_twins(asked, keep=keep)
    assert sorted(twins.original.tolist()) == sorted(asked.targets_Q.tolist())
    again = told(twins, twins.asked, linkedin)
    assert_no_leak(again)
    known = {int(row): asked.history(q)[::-1][:keep][::-1] for q, row in enumerate(asked.targets_Q)}
    for q, row in enumerate(twins.original.tolist()):
        history = again.history(q)
        copies = [str(i).split("~")[0] for i in twins.log.interaction_id[history]]
        assert copies == log.interaction_id[known[row]].tolist()
        twin = twins.log.member[again.targets_Q[q]]
        assert (twins.log.member[history] == twin).all()
        assert twin >= len(log.member_ids)
        assert twins.member_ids[twin] == log.member_ids[log.member[row]]
    # Questions of one request are asked of one twin, those of two of two.
    twin_of = twins.log.member[twins.asked].tolist()
    requests = list(zip(log.member[twins.original], log.session[twins.original], strict=True))
    assert len(set(twin_of)) == len(set(requests)) == len(set(zip(twin_of, requests, strict=True)))


def test_without_targets_nothing_is_added(log: Log, linkedin: DomainFolder) -> None:
    none = build_timelines(
        log, history_surfaces=linkedin.domain.history_surfaces, targets=np.zeros(0, np.int64)
    )
    twins = with_twins(none, keep=4)
    assert (len(twins.log), len(twins.asked)) == (len(log), 0)
    assert twins.member_ids.tolist() == log.member_ids.tolist()


def test_what_counts_history_sees_nothing_of_twins_but_for_themselves(
    log: Log, asked: Timelines, tiny: Snapshot, linkedin: DomainFolder
) -> None:
    """Features of real rows stay; an item's counts are the same for a twin as for its member."""
    twins = with_twins(asked, keep=2)
    rows = np.concatenate([asked.targets_Q, twins.asked])
    alone = builder_for(log, tiny, linkedin, asked.targets_Q).shared()
    both = builder_for(twins.log, tiny, linkedin, rows, own_rows=len(log)).shared()
    count = len(asked.targets_Q)
    same = [not name.startswith("svd") for name in alone.names]
    assert np.array_equal(both.values_QF[:count][:, same], alone.values_QF[:, same])
    place = {name: i for i, name in enumerate(both.names)}
    of = {int(row): q for q, row in enumerate(asked.targets_Q)}
    mine = [of[int(row)] for row in twins.original]
    for name in ("item_shown", "item_any_rate", "area_any", "item_age_days"):
        twin, own = both.values_QF[count:, place[name]], both.values_QF[mine, place[name]]
        assert np.array_equal(twin, own), name
    known = np.expm1(both.values_QF[count:, place["member_shown"]])
    assert known.max() == pytest.approx(2)
    assert np.expm1(both.values_QF[:count, place["member_shown"]]).max() > 10


def test_a_question_is_no_evidence() -> None:
    """Asked at two moments, the second twin does not know the answer to the first."""
    rows = [
        {"id": "old", "shown": 0, "session": "a", "item": "i1"},
        {"id": "first", "shown": 2, "session": "b", "item": "i2"},
        {"id": "second", "shown": 4, "session": "c", "item": "i3"},
    ]
    log = log_from_table(log_table(rows))
    one = build_timelines(log, history_surfaces=["jobs"], targets=np.array([1, 2]))
    twins = with_twins(one, keep=1)
    again = build_timelines(twins.log, history_surfaces=["jobs"], targets=twins.asked)
    assert [[str(i) for i in twins.log.interaction_id[again.history(q)]] for q in range(2)] == [
        ["old~1"],
        ["first~2"],
    ]
    assert not twins.log.logged[twins.asked].any()


def test_members_who_share_a_session_name_have_a_twin_each() -> None:
    rows = [
        {"id": f"{who}{n}", "member": who, "shown": 2, "session": "s", "item": f"i{n}"}
        for n in range(2)
        for who in ("a", "b")
    ]
    log = log_from_table(log_table(rows))
    asked = build_timelines(log, history_surfaces=["jobs"], targets=np.arange(4))
    twins = with_twins(asked, keep=4)
    assert sorted(twins.member_ids.tolist()) == ["a", "a", "b", "b"]
    for row, original in zip(twins.asked, twins.original, strict=True):
        twin = twins.log.member[row]
        assert twins.member_ids[twin] == log.member_ids[log.member[original]]
