"""Replay: policies over past windows, and what dismissals do to thresholds."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

from brewhouse.drift.decision import Context, Finding, decide
from brewhouse.drift.policy import EffectRule, FallRule, load_drift_policy
from brewhouse.drift.replay import decay_of, dismissed_before, replay, state_after
from brewhouse.drift.signals import Kind, Signal, Window
from brewhouse.errors import ConfigError
from brewhouse.stages.replaying import dump, past

TRAINED = date(2024, 1, 1)


def _windows(slope: float, *, weeks: int = 40, noise: float = 0.004, seed: int = 0) -> list[Window]:
    """Weekly windows of a model that loses `slope` a week."""
    rng = np.random.default_rng(seed)
    out = []
    for week in range(weeks):
        start = TRAINED + timedelta(weeks=week + 2)
        age = week + 2 + 4 / 7
        auc = Signal(
            name="auc",
            kind=Kind.PERFORMANCE,
            value=0.8 - slope * age + rng.normal(0, noise),
            error=noise,
            reference=0.8,
            reference_error=0.003,
            n=4000,
        )
        out.append(
            Window(
                version="1",
                start=start,
                end=start + timedelta(days=7),
                matured_until=start + timedelta(days=4),
                signals=[auc],
            )
        )
    return out


def test_a_decaying_model_fires_and_retraining_pays() -> None:
    policy = load_drift_policy("default")
    found = replay(policy, _windows(0.002), trained=TRAINED)
    assert found.fired
    assert found.decay is not None
    assert found.decay.slope == pytest.approx(-0.002, abs=0.0004)
    assert found.cost == len(found.fired)
    assert found.saved is not None
    assert found.saved > 0
    assert found.incidents["performance/auc"] == [found.fired[0].day]
    days = [one.day for one in found.fired]
    assert all((b - a).days >= policy.cooldown_days for a, b in zip(days, days[1:], strict=False))


def test_a_steady_model_costs_nothing() -> None:
    found = replay(load_drift_policy("default"), _windows(0.0), trained=TRAINED)
    assert (found.fired, found.cost, found.saved) == ([], 0.0, 0.0)
    assert found.net == 0.0


def test_too_few_windows_have_no_curve() -> None:
    assert decay_of(_windows(0.002, weeks=2), trained=TRAINED) is None
    assert replay(load_drift_policy("default"), _windows(0.0, weeks=2), trained=TRAINED).net is None


def test_windows_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "windows.json"
    path.write_text(json.dumps(dump(_windows(0.002), TRAINED)))
    found = past(None, None, "champion", path)  # type: ignore[arg-type]
    assert found.windows == _windows(0.002)
    assert found.trained == TRAINED
    path.write_text("{}")
    with pytest.raises(ConfigError, match="holds no windows.*give"):
        past(None, None, "champion", path)  # type: ignore[arg-type]


def test_dismissals_raise_the_threshold_and_say_so() -> None:
    policy = load_drift_policy("default")
    signal = Signal(name="tokens", kind=Kind.INPUT, effect=0.3, n=5000)
    window = _windows(0.0, weeks=1)[0].model_copy(update={"signals": [signal]})
    state: dict = {}
    for times, wanted in ((0, Finding.OVER), (1, Finding.CALM)):
        context = Context(dismissed={"input/tokens": times} if times else {})
        told = decide(policy, window, state, context)[0].told[0]
        assert told.finding is wanted
    assert "0.3125 for 2 windows" in told.reason
    assert told.reason.endswith("raised after 1 dismissed as noise")


def test_a_dismissal_changes_no_window_of_before() -> None:
    """What had opened stays open until it is calm, by the threshold that held when it opened."""
    policy = load_drift_policy("default")
    signal = Signal(name="tokens", kind=Kind.INPUT, effect=0.3, n=5000)
    windows = [w.model_copy(update={"signals": [signal]}) for w in _windows(0.0, weeks=3)]
    dismissed = [("input/tokens", windows[1].end)]
    state = state_after(policy, windows[:2], dismissed)
    assert state["input/tokens"].open
    assert dismissed_before(dismissed, windows[2]) == {"input/tokens": 1}
    assert dismissed_before(dismissed, windows[1]) == {}


def test_no_number_of_dismissals_silences_a_signal() -> None:
    effect = EffectRule(kind="effect", signal="input/*", above=0.2, clear=0.1)
    assert effect.raised(50).above == pytest.approx(0.4)
    fall = FallRule(kind="fall", signal="performance/auc", tolerated=0.005)
    assert fall.raised(50).tolerated == pytest.approx(0.01)
    assert fall.raised(0) == fall
