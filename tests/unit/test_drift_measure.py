"""Signals of scored rows against worlds whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from brewhouse.drift.measure import (
    Reference,
    ScoredTask,
    calibration,
    mean_auc,
    performance,
    psi,
    reference_of,
    score_drift,
)
from brewhouse.evaluation.uncertainty import delong_clustered


def _tasks(
    seed: int, *, skill: float = 1.0, members: int = 300, shift: float = 0.0
) -> list[ScoredTask]:
    """Three tasks of two surfaces; a member's mood moves the labels of all their rows."""
    rng = np.random.default_rng(seed)
    mood = rng.normal(0, 0.7, members)
    out = []
    for name, surface in (("a", "feed"), ("b", "feed"), ("c", "jobs")):
        member = np.repeat(np.arange(members), 6)
        signal = rng.normal(size=len(member))
        odds = skill * signal + mood[member]
        y = (rng.random(len(member)) < 1 / (1 + np.exp(-odds))).astype(float)
        out.append(ScoredTask(name=name, surface=surface, s=signal + shift, member=member, y=y))
    return out


def test_one_task_is_the_clustered_delong() -> None:
    task = _tasks(0)[0]
    value, error = mean_auc([task])
    wanted = delong_clustered(task.y, task.s, task.member)
    assert value == pytest.approx(wanted[0])
    assert error == pytest.approx(wanted[1], rel=0.01)


def test_the_error_is_that_of_repeated_worlds() -> None:
    found = np.array([mean_auc(_tasks(seed)) for seed in range(300)])
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(ddof=1), rel=0.15)


def test_a_fall_is_told_beside_the_reference() -> None:
    reference = reference_of(_tasks(1, members=2000))
    overall, feed, jobs = performance(_tasks(2, skill=0.6, members=2000), reference)
    assert [s.key for s in (overall, feed, jobs)] == [
        "performance/auc",
        "performance/auc/feed",
        "performance/auc/jobs",
    ]
    for signal in (overall, feed, jobs):
        assert signal.value is not None
        assert signal.reference is not None
        assert signal.value < signal.reference - 0.03
    assert (overall.n, feed.n, jobs.n) == (36_000, 24_000, 12_000)
    assert overall.error is not None
    assert overall.error < feed.error < jobs.error


def test_scores_that_moved_and_calibration_that_rose() -> None:
    reference = reference_of(_tasks(1, members=2000))
    same, moved = _tasks(3, members=2000), _tasks(3, members=2000, shift=0.7)
    for tasks, least, most in ((same, 0.0, 0.02), (moved, 0.3, 2.0)):
        for signal in score_drift(tasks, reference):
            assert least <= signal.effect <= most
    assert max(s.effect for s in calibration(same, reference)) < 0.02
    assert min(s.effect for s in calibration(moved, reference)) > 0.05
    assert {s.key for s in score_drift(same, reference)} == {"score/psi/feed", "score/psi/jobs"}


def test_labels_that_are_not_there_yet() -> None:
    reference = reference_of(_tasks(1))
    tasks = [ScoredTask(name=t.name, surface=t.surface, s=t.s, member=t.member) for t in _tasks(2)]
    for signal in performance(tasks, reference):
        assert (signal.value, signal.error, signal.n) == (None, None, 0)
    assert all(s.effect is None for s in calibration(tasks, reference))
    assert all(s.effect is not None for s in score_drift(tasks, reference))


def test_psi_by_hand() -> None:
    assert psi(np.array([0.5, 0.5]), np.array([0.5, 0.5])) == 0
    wanted = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    assert psi(np.array([0.5, 0.5]), np.array([0.8, 0.2])) == pytest.approx(wanted)
    assert math.isfinite(psi(np.array([1.0, 0.0]), np.array([0.0, 1.0])))


def test_a_reference_survives_its_file() -> None:
    reference = reference_of(_tasks(1))
    assert Reference.model_validate_json(reference.model_dump_json()) == reference
