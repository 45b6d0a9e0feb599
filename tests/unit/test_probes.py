"""Probes change what they say and nothing else; their judgement matches a plain computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from brewhouse.domains.loader import DomainFolder
from brewhouse.evaluation.metrics import auc
from brewhouse.evaluation.probes import ProbeRows, judge_probes, share_rising
from brewhouse.prompts.evidence import Past, Version
from brewhouse.prompts.probes import COLD, GROWING, distortions

EVIDENCE = [
    Version(2, 1, "junior rust", "now junior rust"),
    *(
        Past(10 * i, 5 * i, "feed" if i % 2 else "jobs", action, f"item {i}", i)
        for i, action in enumerate(["none", "liked", "applied", "none", "viewed", "liked"], 1)
    ),
]
CUT = f"newest_{COLD}"


def events(evidence: list) -> list[Past]:
    return [e for e in evidence if isinstance(e, Past)]


def test_cuts_keep_profiles_and_the_newest(linkedin: DomainFolder) -> None:
    probes = distortions(linkedin.domain)
    assert probes["newest_0"](EVIDENCE) == EVIDENCE[:1]
    assert probes["newest_4"](EVIDENCE) == [EVIDENCE[0], *EVIDENCE[-4:]]
    assert probes["newcomer"](EVIDENCE) == probes["newest_4"](EVIDENCE)
    assert probes["newest_20"](EVIDENCE) == EVIDENCE


def test_shuffled_labels_stay_on_their_surface(linkedin: DomainFolder) -> None:
    changed = events(distortions(linkedin.domain)["shuffled_labels"](EVIDENCE))
    for surface in ("feed", "jobs"):
        before = [e.action for e in events(EVIDENCE) if e.surface == surface]
        assert sorted(before) == sorted(e.action for e in changed if e.surface == surface)
    assert [e._replace(action="") for e in changed] == [
        e._replace(action="") for e in events(EVIDENCE)
    ]


def test_flipped_labels_turn_every_one(linkedin: DomainFolder) -> None:
    changed = events(distortions(linkedin.domain)["flipped_labels"](EVIDENCE))
    for one, other in zip(events(EVIDENCE), changed, strict=True):
        assert (one.action == "none") != (other.action == "none")


def test_shuffled_order_keeps_times_and_ages(linkedin: DomainFolder) -> None:
    changed = distortions(linkedin.domain)["shuffled_order"](EVIDENCE)
    assert [e.rank for e in changed] == [e.rank for e in EVIDENCE]
    assert [e.at for e in changed] == [e.at for e in EVIDENCE]
    ages = {e.text: e.at - e.created for e in events(EVIDENCE)}
    assert {e.text: e.at - e.created for e in events(changed)} == ages


def rows(task: str, seed: int, *, worth: float) -> ProbeRows:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 300)
    return ProbeRows(
        task=task,
        y=y,
        member=rng.integers(0, 40, 300),
        ordinary=y * 2 + rng.normal(size=300),
        changed={name: y * worth * i + rng.normal(size=300) for i, name in enumerate(GROWING)},
    )


def test_costs_are_differences_of_mean_auc() -> None:
    tasks = [rows("a", 1, worth=0.5), rows("b", 2, worth=0.5)]
    found = judge_probes(tasks, kind="history", resamples=50, seed=0)
    assert [p.name for p in found] == list(GROWING)
    first = found[0]
    plain = np.mean([auc(t.y, t.ordinary) for t in tasks])
    changed = np.mean([auc(t.y, t.changed["newest_0"]) for t in tasks])
    assert first.cost.value == pytest.approx(plain - changed)
    assert first.cost.low < first.cost.value < first.cost.high
    assert share_rising(found, GROWING) == (1.0, 2)
    assert share_rising(found[:1], GROWING) is None


def test_baselines_asked_with_as_little_are_compared() -> None:
    tasks = [rows("a", 1, worth=1.5), rows("b", 2, worth=1.5)]
    weak = {t.task: t.y * 0.2 + np.random.default_rng(3).normal(size=300) for t in tasks}
    asked = [
        replace(t, peers={CUT: {"lightgbm": weak[t.task], "same": t.changed[CUT]}}) for t in tasks
    ]
    found = {p.name: p for p in judge_probes(asked, kind="history", resamples=50, seed=0)}
    assert {name for name, p in found.items() if p.peers} == {CUT}
    peers = found[CUT].peers
    theirs = np.mean([auc(t.y, weak[t.task]) for t in tasks])
    assert peers["lightgbm"].auc == pytest.approx(theirs)
    lead = peers["lightgbm"].lead
    assert lead.value == pytest.approx(found[CUT].auc - theirs)
    assert 0 < lead.low < lead.value < lead.high
    # Paired: the same scores differ by nothing in any resample.
    assert (peers["same"].lead.low, peers["same"].lead.high) == (0, 0)
    # One that was not asked every task would be compared on others.
    asked[1] = replace(asked[1], peers={CUT: {"same": weak["b"]}})
    found = judge_probes(asked, kind="history", resamples=50, seed=0)
    assert [sorted(p.peers) for p in found] == [[], ["same"], []]


def test_tasks_of_one_class_are_left_out() -> None:
    one = rows("a", 1, worth=1)
    flat = ProbeRows(**{**vars(one), "task": "flat", "y": np.zeros(300, np.int64)})
    assert judge_probes([one, flat], kind="style", resamples=10, seed=0)[0].tasks == 1
    assert judge_probes([flat], kind="style", resamples=10, seed=0) == []
