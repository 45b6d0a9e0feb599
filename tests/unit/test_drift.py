"""Drift: the sequential test keeps its promise, and windows lead to what the policy says."""

from __future__ import annotations

import math
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from brewhouse.drift.decision import Context, Evaluation, Finding, Outcome, decide
from brewhouse.drift.policy import DriftPolicy, load_drift_policy
from brewhouse.drift.sequential import BETS, Detector, between_windows, surprise
from brewhouse.drift.signals import Kind, Signal, Window
from brewhouse.errors import ConfigError
from tests.conftest import ROOT

POLICIES = ROOT / "monitoring" / "policies"
START = date(2026, 1, 5)


def _first_alarm(rng: np.random.Generator, *, mean: float, between: float, most: int) -> int:
    detector = Detector()
    for window in range(1, most + 1):
        detector = detector.update(float(rng.normal(mean)))
        if detector.alarms(between):
            return window
    return most


def test_false_alarms_are_as_rare_as_declared() -> None:
    """The mean distance over 200 streams; those cut off at 2,000 windows make it smaller only."""
    rng = np.random.default_rng(1)
    for between in (20.0, 104.0):
        runs = [_first_alarm(rng, mean=0.0, between=between, most=2000) for _ in range(200)]
        assert np.mean(runs) >= between


def test_a_fall_is_met_at_once_where_windows_are_precise() -> None:
    rng = np.random.default_rng(2)
    found = [_first_alarm(rng, mean=4.0, between=104.0, most=50) for _ in range(200)]
    assert np.mean(np.array(found) <= 2) >= 0.95


def test_each_factor_is_fair_under_the_null() -> None:
    """E exp(bet z - bet^2/2) is 1 for a standard normal z: what the guarantee rests on."""
    z = np.random.default_rng(3).normal(size=2_000_000)
    for bet in BETS[:3]:
        assert np.exp(bet * z - bet * bet / 2).mean() == pytest.approx(1.0, abs=0.05)


@given(st.lists(st.floats(-50, 50), max_size=60))
def test_evidence_is_a_number_whatever_comes(distances: list[float]) -> None:
    detector, plain, bets = Detector(), np.full(len(BETS), -np.inf), np.array(BETS)
    for distance in distances:
        detector = detector.update(distance)
        plain = np.logaddexp(0, plain) + bets * distance - bets * bets / 2
        np.testing.assert_allclose(detector.log_sums, plain, atol=1e-9)
        assert math.isfinite(detector.evidence)
    assert detector.windows == len(distances)


def test_spread_between_windows() -> None:
    rng = np.random.default_rng(4)
    values = 0.7 + rng.normal(0, 0.02, 4000) + rng.normal(0, 0.01, 4000)
    found = between_windows(values.tolist(), [0.01] * 4000, floor=0.003)
    assert found == pytest.approx(0.02, rel=0.05)
    assert between_windows([0.7, 0.7], [0.01, 0.01], floor=0.003) == 0.003
    assert between_windows([0.7], [0.01], floor=0.004) == 0.004
    assert surprise(0.67, 0.03, reference=0.72, tolerated=0.0, between=0.04) == pytest.approx(1.0)


# Decisions


def _policy(**changes: Any) -> DriftPolicy:
    return load_drift_policy("default", POLICIES).model_copy(update=changes)


def _signal(key: str, **values: Any) -> Signal:
    kind, name, *surface = key.split("/")
    given_ = {"n": 1000} | values
    return Signal(name=name, kind=Kind(kind), surface="/".join(surface), **given_)


def _windows(
    policy: DriftPolicy, signals: list[list[Signal]], context: Context | None = None
) -> list[Evaluation]:
    state: Any = {}
    out = []
    for number, given_ in enumerate(signals):
        start = START + timedelta(weeks=number)
        window = Window(
            version="1",
            start=start,
            end=start + timedelta(weeks=1),
            matured_until=start,
            signals=given_,
        )
        evaluation, state = decide(policy, window, state, context or Context())
        out.append(evaluation)
    return out


def _effects(key: str, *effects: float | None) -> list[list[Signal]]:
    return [[_signal(key, effect=effect)] for effect in effects]


@pytest.mark.parametrize(
    ("effects", "findings"),
    [
        ([0.3, 0.05], ["over", "calm"]),
        ([0.3, 0.3], ["over", "open"]),
        ([0.3, 0.15, 0.3, 0.3], ["over", "calm", "over", "open"]),
        # Between clear and above an incident neither closes nor is it calm.
        ([0.3, 0.3, 0.15, 0.15, 0.05, 0.05], ["over", "open", "open", "open", "open", "calm"]),
        ([0.3, 0.3, 0.05, 0.3, 0.05, 0.05], ["over", "open", "open", "open", "open", "calm"]),
        ([None, 0.3], ["few rows", "over"]),
        ([math.nan, 0.3], ["few rows", "over"]),
    ],
)
def test_an_effect_opens_and_closes_with_hysteresis(
    effects: list[float | None], findings: list[str]
) -> None:
    found = _windows(_policy(), _effects("input/item_age/feed", *effects))
    assert [e.told[0].finding.value for e in found] == findings
    for evaluation in found:
        is_open = evaluation.told[0].finding is Finding.OPEN
        assert evaluation.outcome is (Outcome.INCIDENT if is_open else Outcome.NOTHING)


def test_what_no_rule_is_about_and_few_rows() -> None:
    policy = _policy(rules=[r for r in _policy().rules if r.signal.startswith("input")])
    signals = [_signal("score/mean", effect=9.0), _signal("input/x", effect=9.0, n=10)]
    (found,) = _windows(policy, [signals])
    assert [t.finding.value for t in found.told] == ["recorded", "few rows"]
    assert "10 rows, 200 are needed" in found.told[1].reason


def _auc(*values: float, error: float = 0.005) -> list[list[Signal]]:
    return [
        [_signal("performance/auc", value=v, error=error, reference=0.70, reference_error=0.001)]
        for v in values
    ]


def test_a_fall_triggers_once_warmed_up() -> None:
    found = _windows(_policy(), _auc(0.70, 0.69, 0.71, 0.70, 0.70, 0.66, 0.66))
    assert [e.told[0].finding.value for e in found] == [*["warming up"] * 4, "calm", "open", "open"]
    assert found[5].outcome is Outcome.TRIGGER
    assert "performance/auc 0.660 against 0.700 at registration" in found[5].trigger


@pytest.mark.parametrize(
    ("context", "held"),
    [
        (Context(candidate="7"), "version 7 waits for a person already"),
        (Context(retrains=(date(2026, 2, 2),)), "cooldown until 2026-03-02"),
        (
            Context(retrains=(date(2025, 12, 20), date(2026, 1, 1))),
            "2 retrainings in 91 days; the budget is 2",
        ),
    ],
)
def test_a_retraining_is_held(context: Context, held: str) -> None:
    found = _windows(_policy(), _auc(0.70, 0.69, 0.71, 0.70, 0.70, 0.66), context)[-1]
    assert found.outcome is Outcome.INCIDENT
    assert found.trigger == ""
    assert held in "; ".join(found.held)


def test_broken_data_inhibit_and_leave_no_trace() -> None:
    """Windows of broken data neither alarm nor count: afterwards all is as if they had not been."""
    broken = [_signal("data/volume", effect=2.0)]
    whole = [_signal("data/volume", effect=0.0)]
    calm = [[*whole, *s] for s in _auc(0.70, 0.69, 0.71, 0.70, 0.70)]
    bad = [[*broken, *s] for s in _auc(0.50, 0.50)]
    after = [[*whole, *s] for s in _auc(0.70, 0.70)]
    found = _windows(_policy(), [*calm, *bad, *after])
    for evaluation in found[5:7]:
        assert [t.finding for t in evaluation.told] == [Finding.OPEN, Finding.INHIBITED]
        assert evaluation.outcome is Outcome.INCIDENT
        assert "not judged while data/volume stands" in evaluation.told[1].reason
    straight = _windows(_policy(), [*calm, *after])
    assert [e.told[1].reason for e in found[7:]] == [e.told[1].reason for e in straight[5:]]


def test_what_a_person_called_noise_inhibits_nothing_until_it_was_calm() -> None:
    """A surface was closed on purpose: performance is judged; the next break inhibits again."""
    policy, volume = _policy(), _signal("data/volume", effect=2.0)
    windows = [[_signal("data/volume", effect=0.0), *s] for s in _auc(0.70, 0.69, 0.71, 0.70, 0.70)]
    windows += [[volume, *s] for s in _auc(0.70, 0.70)]
    opened = START + timedelta(weeks=6)
    noise = Context(noise=frozenset({("data/volume", opened)}))
    findings = [e.told[1].finding for e in _windows(policy, windows, noise)[5:]]
    assert findings == [Finding.CALM, Finding.CALM]
    windows += [[_signal("data/volume", effect=0.0), *_auc(0.70)[0]], [volume, *_auc(0.70)[0]]]
    findings = [e.told[1].finding for e in _windows(policy, windows, noise)[5:]]
    assert findings == [Finding.CALM, Finding.CALM, Finding.CALM, Finding.INHIBITED]


def test_the_spread_between_windows_is_of_falls_not_of_what_was_measured() -> None:
    """Weeks of easy and of hard tasks: the mean swings, and so does what it is held against."""
    swing = [0.80, 0.60, 0.80, 0.60, 0.80, 0.60, 0.60]
    signals = [
        [_signal("performance/auc", value=v - fall, error=0.005, reference=v)]
        for v, fall in zip(swing, [0, 0.01, -0.01, 0, 0, 0.05, 0.05], strict=True)
    ]
    assert [e.outcome for e in _windows(_policy(), signals)][-1] is Outcome.TRIGGER


def test_same_windows_same_decision() -> None:
    signals = _auc(0.70, 0.69, 0.71, 0.70, 0.68, 0.67)
    assert _windows(_policy(), signals) == _windows(_policy(), signals)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("rules: []", "name"),
        ("{name: p, version: 1, rules: [{kind: ks, signal: x}]}", "'effect', 'fall'"),
        (
            "{name: p, version: 1, rules: [{kind: effect, signal: x, above: 0.1, clear: 0.2}]}",
            "clear 0.2 is above 0.1",
        ),
        ("{name: p, version: 1, warm_up_windows: 1, rules: []}", "warm_up_windows"),
        (
            "{name: p, version: 1, rules: [{kind: fall, signal: score/psi/*}]}",
            "kind fall is never judged; make it effect",
        ),
        (
            "{name: p, version: 1, rules: [{kind: effect, signal: performance/auc, above: 1, "
            "clear: 1}]}",
            "kind effect is never judged; make it fall",
        ),
    ],
)
def test_mistakes_in_a_policy_are_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_drift_policy("p", tmp_path)
    with pytest.raises(ConfigError, match="no drift policy 'q'; give one of p"):
        load_drift_policy("q", tmp_path)
