"""Signals of scored rows against worlds whose truth is known."""

from __future__ import annotations

import itertools
import math
from datetime import date, timedelta

import numpy as np
import pytest

from brewhouse.drift.decision import Context, decide
from brewhouse.drift.estimate import Calibration, estimate_reference, estimates, promised_auc
from brewhouse.drift.measure import (
    Performance,
    ScoredTask,
    calibration,
    icl_gain,
    mean_auc,
    performance,
    performance_of,
    psi,
    score_drift,
)
from brewhouse.drift.policy import load_drift_policy
from brewhouse.drift.signals import Window
from brewhouse.evaluation.metrics import auc
from brewhouse.evaluation.uncertainty import delong_clustered
from brewhouse.stages.scored_rows import unlabelled


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
    reference = performance_of(_tasks(1, members=2000))
    overall, feed, jobs, *_ = performance(_tasks(2, skill=0.6, members=2000), reference)
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


def _easy_and_hard(seed: int, *, easy_yes: bool = True, rows: int = 600) -> list[ScoredTask]:
    """An easy task and a hard one; in some weeks nobody says yes to the easy one."""
    rng, out = np.random.default_rng(seed), []
    for name, skill in (("easy", 3.0), ("hard", 0.4)):
        member = np.arange(rows)
        s = rng.normal(size=rows)
        y = (rng.random(rows) < 1 / (1 + np.exp(-skill * s))).astype(float)
        if name == "easy" and not easy_yes:
            y[:] = 0
        out.append(ScoredTask(name=name, surface="feed", s=s, member=member, y=y))
    return out


def test_a_week_without_a_task_is_held_against_the_other_tasks_alone() -> None:
    reference = performance_of(_easy_and_hard(1, rows=5000))
    both = performance(_easy_and_hard(2), reference)[0]
    hard = performance(_easy_and_hard(3, easy_yes=False), reference)[0]
    assert both.reference == pytest.approx(np.mean(list(reference.auc.values.values())))
    assert hard.reference == pytest.approx(reference.auc.values["hard"])
    assert abs(hard.value - hard.reference) < 3 * hard.error
    assert hard.detail == {"left out": "easy (fewer than 20 of a label)"}
    assert hard.reference_error == pytest.approx(reference.auc.covariance[1][1] ** 0.5)
    nothing = performance(_easy_and_hard(3, easy_yes=False)[:1], reference)[0]
    assert (nothing.value, nothing.reference, nothing.n) == (None, None, 0)


def test_a_mean_s_error_follows_from_the_covariance() -> None:
    tasks = _tasks(5, members=500)
    reference = performance_of(tasks)
    for names in (["a"], ["a", "c"], ["a", "b", "c"]):
        wanted = mean_auc([task for task in tasks if task.name in names])
        assert reference.auc.over(names) == pytest.approx(wanted)
    assert reference.auc.over([]) is None
    assert reference.auc.over(["a", "x"]) is None


def test_rare_labels_do_not_cry_wolf() -> None:
    """A year of weeks in which one task has about three positives: nothing has fallen."""
    policy = load_drift_policy("default")

    def week(rng: np.random.Generator, rows: int) -> list[ScoredTask]:
        out = []
        for name, rate in (("a", 0.5), ("b", 0.3), ("rare", 3 / 400)):
            s = rng.normal(size=rows)
            y = (rng.random(rows) < rate * 2 / (1 + np.exp(-s))).astype(float)
            out.append(ScoredTask(name=name, surface="feed", s=s, member=np.arange(rows), y=y))
        return out

    fired = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        reference, state = performance_of(week(rng, 8000)), {}
        for number in range(52):
            start = date(2026, 1, 5) + timedelta(weeks=number)
            window = Window(
                version="1",
                start=start,
                end=start + timedelta(weeks=1),
                matured_until=start,
                signals=performance(week(rng, 400), reference),
            )
            evaluation, state = decide(policy, window, state, Context())
            if evaluation.trigger:
                fired += 1
                break
    assert fired <= 2


def test_scores_that_moved_and_calibration_that_rose() -> None:
    reference = performance_of(_tasks(1, members=2000))
    same, moved = _tasks(3, members=2000), _tasks(3, members=2000, shift=0.7)
    for tasks, least, most in ((same, 0.0, 0.02), (moved, 0.3, 2.0)):
        for signal in score_drift(tasks, reference):
            assert least <= signal.effect <= most
    assert max(s.effect for s in calibration(same, reference)) < 0.02
    assert min(s.effect for s in calibration(moved, reference)) > 0.05
    assert {s.key for s in score_drift(same, reference)} == {"score/psi/feed", "score/psi/jobs"}


def test_labels_that_are_not_there_yet() -> None:
    reference = performance_of(_tasks(1))
    tasks = [ScoredTask(name=t.name, surface=t.surface, s=t.s, member=t.member) for t in _tasks(2)]
    for signal in performance(tasks, reference):
        assert (signal.value, signal.error, signal.n) == (None, None, 0)
    assert all(s.effect is None for s in calibration(tasks, reference))
    assert all(s.effect is not None for s in score_drift(tasks, reference))


def test_psi_by_hand() -> None:
    many = (10**9, 10**9)
    assert psi(np.array([0.5, 0.5]), np.array([0.5, 0.5]), rows=many) == 0
    wanted = 0.3 * math.log(0.8 / 0.5) - 0.3 * math.log(0.2 / 0.5)
    found = psi(np.array([0.5, 0.5]), np.array([0.8, 0.2]), rows=many)
    assert found == pytest.approx(wanted)
    assert math.isfinite(psi(np.array([1.0, 0.0]), np.array([0.0, 1.0]), rows=many))


def test_psi_of_samples_without_drift_is_small_however_few() -> None:
    rng = np.random.default_rng(0)
    shares = np.full(10, 0.1)
    found = []
    for _ in range(500):
        ours, theirs = (rng.multinomial(200, shares) / 200 for _ in range(2))
        found.append(psi(ours, theirs, rows=(200, 200)))
    # By chance alone it would be .09 on average.
    assert np.mean(found) < 0.03


def test_a_reference_survives_its_file() -> None:
    reference = performance_of(_tasks(1))
    assert Performance.model_validate_json(reference.model_dump_json()) == reference


def _probed(seed: int, *, read: float) -> list[ScoredTask]:
    """Half of the rows are asked again without the part of the score that histories give."""
    rng, out = np.random.default_rng(seed), []
    for name in ("a", "b"):
        member = np.repeat(np.arange(400), 6)
        known, hidden = rng.normal(size=(2, len(member)))
        y = (rng.random(len(member)) < 1 / (1 + np.exp(-known - hidden))).astype(float)
        shuffled = np.where(member % 2, known + read * rng.permutation(hidden), np.nan)
        s = known + read * hidden
        out.append(
            ScoredTask(name=name, surface="feed", s=s, member=member, y=y, shuffled=shuffled)
        )
    return out


def test_what_histories_give_is_told_with_its_error() -> None:
    gains = np.array([icl_gain(_probed(seed, read=1.0)) for seed in range(200)])
    assert gains[:, 0].mean() > 0.08
    assert gains[:, 1].mean() == pytest.approx(gains[:, 0].std(ddof=1), rel=0.2)
    assert abs(icl_gain(_probed(0, read=0.0))[0]) < 1e-9
    signal = performance(_probed(1, read=0.2), performance_of(_probed(2, read=1.0)))[-1]
    assert signal.key == "performance/icl"
    assert signal.n == 2 * 1200
    assert signal.reference - signal.value > 0.05


def test_promised_auc_is_the_one_that_comes_true() -> None:
    """By hand on few rows, and against labels drawn from the scores."""
    flat = Calibration(slope=1.0, intercept=0.0)
    s = np.array([-1.0, 0.3, 0.3, 2.0])
    p = 1 / (1 + np.exp(-s))
    wins = pairs = 0.0
    for i, j in itertools.permutations(range(4), 2):
        weight = p[i] * (1 - p[j])
        pairs += weight
        wins += weight * ((s[i] > s[j]) + (s[i] == s[j]) / 2)
    assert promised_auc(s, flat) == pytest.approx(wins / pairs)
    rng = np.random.default_rng(0)
    s = rng.normal(size=200_000)
    y = (rng.random(len(s)) < 1 / (1 + np.exp(-s))).astype(float)
    assert promised_auc(s, flat) == pytest.approx(auc(y, s), abs=0.003)


def test_estimates_see_harder_requests_and_know_when_they_are_wrong() -> None:
    """Log-odds are the truth at first; then members change what they like."""

    def rows(seed: int, *, spread: float = 1.0, taste: float = 1.0) -> list[ScoredTask]:
        rng = np.random.default_rng(seed)
        member = np.repeat(np.arange(3000), 6)
        s = rng.normal(0, spread, len(member))
        y = (rng.random(len(member)) < 1 / (1 + np.exp(-taste * s))).astype(float)
        return [ScoredTask(name="a", surface="feed", s=s, member=member, y=y)]

    bound, known = performance_of(rows(0)), estimate_reference(rows(0))
    assert known.calibration["a"].slope == pytest.approx(1.0, abs=0.05)
    harder = estimates(unlabelled(rows(1, spread=0.5)), rows(2), known, bound.auc)
    truth = mean_auc(rows(1, spread=0.5))[0]
    assert harder[0].value == pytest.approx(truth, abs=0.01)
    assert harder[0].effect == pytest.approx(bound.auc.values["a"] - truth, abs=0.01)
    # A change of taste is not to be seen in scores; the matured cohort tells.
    blind = estimates(unlabelled(rows(3, taste=0.3)), rows(4, taste=0.3), known, bound.auc)
    assert blind[0].value == pytest.approx(bound.auc.values["a"], abs=0.01)
    assert blind[0].effect is None
    assert "not believed: the last estimate was +0.1" in blind[0].detail["why"]
    early = estimates(unlabelled(rows(5)), [], known, bound.auc)
    assert early[0].effect is None
    assert "no cohort has matured" in early[0].detail["why"]
