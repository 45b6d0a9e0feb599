"""Neural baselines find what only they can find, see no future, and end the same way twice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from brewhouse.baselines.inputs import Inputs, build_inputs
from brewhouse.baselines.layers import Shape, newest, together, windows
from brewhouse.baselines.networks import NETWORKS
from brewhouse.baselines.neural import Budget, mean_auc, neural, predict, sample
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Log, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.tasks.suite import load_suite
from tests.unit.test_baselines import builder_for

TOPICS, EVENTS, LIKED = 8, 20, 1
QUICK = Budget(rows=4000, passes=6, search_rows=600, check_rows=1000, batch=128, patience=6)


def world(signal: str, *, members: int = 200, asked: int = 20, seed: int = 0) -> Inputs:
    """Targets whose label depends on one thing alone.

    `history`: whether the member liked items of the target's topic before. `cross`: whether two
    dense features have the same sign. `text`: whether the text points to the side of the profile.
    """
    rng = np.random.default_rng(seed)
    items, count = 400, members * asked
    topic_I = rng.integers(0, TOPICS, items)
    likes_MT = rng.random((members, TOPICS)) < 0.5
    event_item_E = rng.integers(0, items, members * EVENTS)
    owner_E = np.repeat(np.arange(members), EVENTS)
    member_Q, item_Q = np.repeat(np.arange(members), asked), rng.integers(0, items, count)
    start_Q = member_Q * EVENTS
    end_Q = start_Q + rng.integers(EVENTS // 2, EVENTS + 1, count)
    text_ID = rng.choice([-1.0, 1.0], (items, 4)).astype(np.float32) / 2
    profile_PD = rng.choice([-1.0, 1.0], (members, 4)).astype(np.float32) / 2
    dense_QF = rng.normal(size=(count, 4)).astype(np.float32)
    label_Q = {
        "history": likes_MT[member_Q, topic_I[item_Q]],
        "cross": dense_QF[:, 0] * dense_QF[:, 1] > 0,
        "text": text_ID[item_Q, 0] * profile_PD[member_Q, 0] > 0,
    }[signal]
    return Inputs(
        dense_QF=dense_QF,
        member_Q=np.zeros(count, np.int64),
        item_Q=item_Q,
        surface_Q=np.zeros(count, np.int64),
        profile_Q=member_Q,
        labels_QK=np.stack([label_Q, ~label_Q], axis=1).astype(np.float32),
        valid_QK=np.ones((count, 2), bool),
        fields_IS=np.stack([np.zeros(items, np.int64), topic_I + 1], axis=1),
        slots=((0,), (1,)),
        text_ID=text_ID,
        profile_PD=profile_PD,
        words_PW=np.zeros((members, 2), np.int64),
        event_item_E=event_item_E,
        event_action_E=likes_MT[owner_E, topic_I[event_item_E]].astype(np.int64) * LIKED,
        event_surface_E=np.zeros(len(owner_E), np.int64),
        event_hour_E=np.tile(np.arange(EVENTS, dtype=np.float32), members),
        start_Q=start_Q,
        end_Q=end_Q,
        hour_Q=(end_Q - start_Q + rng.random(count)).astype(np.float32),
        sizes={"fields": TOPICS + 1, "members": 1, "words": 1, "actions": 2, "surfaces": 1},
    )


def score(name: str, inputs: Inputs) -> float:
    test = np.arange(0, len(inputs.item_Q), 4)
    train = np.setdiff1d(np.arange(len(inputs.item_Q)), test)
    scores = neural(name, inputs, train, test, seed=0, budget=QUICK)
    assert scores.log_odds_QK.shape == (len(test), 2)
    assert len(scores.record["search"]) >= 2
    return mean_auc(inputs, test, scores.log_odds_QK)


@pytest.mark.parametrize(
    ("signal", "finds", "at_least", "cannot"),
    [
        ("history", "din", 0.68, "dcn_v2"),
        ("history", "sequence", 0.8, "dcn_v2_text"),
        ("cross", "dcn_v2", 0.9, None),
        ("text", "dcn_v2_text", 0.9, "dcn_v2"),
    ],
)
def test_each_finds_the_signal_that_it_is_made_for(
    signal: str, finds: str, at_least: float, cannot: str | None
) -> None:
    inputs = world(signal)
    assert score(finds, inputs) > at_least
    if cannot:
        assert score(cannot, inputs) < 0.58


@pytest.mark.parametrize("name", NETWORKS)
def test_what_happens_later_changes_no_score(name: str) -> None:
    """Neither later events of the member, nor the other targets of the batch."""
    inputs = world("history", members=30)
    torch.manual_seed(0)
    network = NETWORKS[name](inputs, Shape())
    rows = np.flatnonzero(inputs.end_Q - inputs.start_Q == EVENTS // 2)
    later = np.arange(len(inputs.event_item_E)) % EVENTS >= EVENTS // 2
    rng = np.random.default_rng(1)
    changed = replace(
        inputs,
        event_action_E=np.where(later, 1 - inputs.event_action_E, inputs.event_action_E),
        event_item_E=np.where(later, rng.permutation(inputs.event_item_E), inputs.event_item_E),
        event_hour_E=np.where(later, 99, inputs.event_hour_E).astype(np.float32),
    )
    torch.manual_seed(0)
    other = NETWORKS[name](changed, Shape())
    before, after = predict(network, inputs, rows), predict(other, changed, rows)
    np.testing.assert_allclose(before, after, atol=1e-6)
    alone = np.concatenate([predict(network, inputs, rows[i : i + 1]) for i in range(len(rows))])
    np.testing.assert_allclose(before, alone, atol=1e-5)
    earlier = replace(inputs, event_action_E=1 - inputs.event_action_E)
    torch.manual_seed(0)
    moved = predict(NETWORKS[name](earlier, Shape()), earlier, rows)
    assert (np.abs(moved - before).max() > 1e-4) == (name in ("din", "sequence"))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_seed_ends_in_the_same_scores(name: str) -> None:
    inputs = world("history", members=20)
    rows = np.arange(len(inputs.item_Q))
    budget = replace(QUICK, passes=1, search_rows=100)
    scores = [neural(name, inputs, rows, rows, seed=s, budget=budget) for s in (3, 3, 4)]
    assert np.array_equal(scores[0].log_odds_QK, scores[1].log_odds_QK)
    assert not np.array_equal(scores[0].log_odds_QK, scores[2].log_odds_QK)
    plain = [{k: v for k, v in s.record.items() if k != "seconds"} for s in scores]
    assert plain[0] == plain[1]


def test_windows_hold_the_newest_events() -> None:
    rng = np.random.default_rng(0)
    start = rng.integers(0, 50, 500)
    end = start + rng.integers(0, 400, 500)
    begin = windows(start, end, 64)
    assert (begin >= start).all()
    assert (end - begin <= 64).all()
    assert (end - begin >= np.minimum(end - start, 32)).all()
    at, known = newest(torch.tensor([3, 3]), torch.tensor([5, 3]), 4)
    assert at[0, :2].tolist() == [4, 3]
    assert known.tolist() == [[True, True, False, False], [False] * 4]


def test_together_deals_targets_of_a_window_into_small_groups() -> None:
    window = torch.tensor([1, 0, 1, 1, 2, 1])
    group, place, of = together(window, 2)
    assert torch.equal(of[group], window)
    assert int(place.max()) < 2
    assert len({(int(g), int(p)) for g, p in zip(group, place, strict=True)}) == len(window)


def test_a_sample_takes_whole_groups() -> None:
    groups = np.repeat(np.arange(10), 5)
    rows = sample(np.arange(50), groups, 20, seed=0)
    assert sorted(np.bincount(groups[rows])) == [0] * 6 + [5] * 4


def _with_later_shuffled(log: Log, cut: int) -> Log:
    later = log.shown_at >= cut
    rng = np.random.default_rng(0)
    action, item = log.action.copy(), log.item.copy()
    action[later] = rng.permutation(action[later])
    item[later] = rng.permutation(item[later])
    return replace(log, action=action, item=item)


def test_inputs_know_nothing_later_than_their_moment(
    tiny: Snapshot, linkedin: DomainFolder
) -> None:
    log = log_from_table(tiny.read("interactions", shards=[1]))
    cut = int(np.median(log.shown_at))
    rows = np.flatnonzero(log.shown_at < cut)
    tasks = load_suite(linkedin).tasks
    keep = np.arange(len(rows))[::3]
    made = [
        build_inputs(builder_for(one, tiny, linkedin, rows), tasks, np.arange(len(keep)), keep)
        for one in (log, _with_later_shuffled(log, cut))
    ]
    for name in ("dense_QF", "member_Q", "end_Q", "start_Q", "hour_Q", "labels_QK", "valid_QK"):
        assert np.array_equal(getattr(made[0], name), getattr(made[1], name)), name
    known = [
        np.concatenate([np.arange(s, e) for s, e in zip(m.start_Q, m.end_Q, strict=True)])
        for m in made
    ]
    assert len(known[0]) > 1000
    for name in ("event_item_E", "event_action_E", "event_hour_E"):
        assert np.array_equal(getattr(made[0], name)[known[0]], getattr(made[1], name)[known[1]])
    timelines = build_timelines(log, history_surfaces=list(log.surfaces), targets=rows)
    assert np.array_equal(made[0].end_Q - made[0].start_Q, timelines.branch_Q[keep])
