"""From a window's signals to nothing, an incident or a retraining: pure, and every step told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import StrEnum

from brewhouse.drift.policy import DriftPolicy, EffectRule, FallRule, Severity
from brewhouse.drift.sequential import Detector, between_windows, surprise
from brewhouse.drift.signals import Kind, Signal, Window

QUARTER = timedelta(days=91)
ONE_SIDED_95 = 1.645


class Finding(StrEnum):
    """How one signal came out."""

    RECORDED = "recorded"
    """No rule is about it."""
    FEW_ROWS = "few rows"
    WARMING_UP = "warming up"
    CALM = "calm"
    OVER = "over"
    """Above its threshold, not for long enough."""
    OPEN = "open"
    INHIBITED = "inhibited"
    """Not judged, for the data are not whole."""


class Outcome(StrEnum):
    """What follows from a window."""

    NOTHING = "nothing"
    INCIDENT = "incident"
    TRIGGER = "trigger"


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What is kept of a signal between windows.

    Attributes:
        windows: How many were judged or warmed up.
        over, calm: Windows one after another above and below.
        open: Whether an incident stands.
        since: End of the window in which it opened.
        values, errors: Of the warm-up, less the reference where there is one.
        detector: Of a metric that may fall.
    """

    windows: int = 0
    over: int = 0
    calm: int = 0
    open: bool = False
    since: date | None = None
    values: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()
    detector: Detector = field(default_factory=Detector)


@dataclass(frozen=True, kw_only=True)
class Told:
    """One signal, how it came out, and why in words."""

    key: str
    finding: Finding
    reason: str
    severity: Severity | None = None
    retrain: bool = False


@dataclass(frozen=True, kw_only=True)
class Context:
    """What else bears on the decision.

    Attributes:
        candidate: Version that waits for a person; empty if none does.
        unfinished: Order to train this version again whose run has not ended; empty if none.
        champion: Whether the version is in use.
        retrains: Days on which a retraining was ordered.
        dismissed: How many incidents of a signal, by key, were called noise before the window.
        noise: Signal and opening day of every incident that was called noise.
    """

    candidate: str = ""
    unfinished: str = ""
    champion: bool = True
    retrains: tuple[date, ...] = ()
    dismissed: Mapping[str, int] = field(default_factory=dict)
    noise: frozenset[tuple[str, date]] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What a window led to; logged whether or not anything follows.

    Attributes:
        trigger: Why a model is to be trained again; empty if it is not.
        held: Why not, where a rule asked for it.
    """

    policy: str
    version: str
    window: tuple[date, date]
    outcome: Outcome
    told: tuple[Told, ...]
    trigger: str = ""
    held: tuple[str, ...] = ()

    @property
    def open(self) -> list[Told]:
        """Signals in incident."""
        return [one for one in self.told if one.finding is Finding.OPEN]


State = Mapping[str, Watch]


def decide(
    policy: DriftPolicy, window: Window, state: State, context: Context
) -> tuple[Evaluation, dict[str, Watch]]:
    """Judge a window.

    Args:
        policy: The rules.
        window: Signals of one window about one version.
        state: What earlier windows of this version left, by signal key.
        context: Candidates that wait and retrainings of before.

    Returns:
        What follows, and the state for the next window.
    """
    watches = dict(state)
    told: list[Told] = []
    # Broken data explain whatever else looks like drift, so they are judged first; what they spoil
    # is not judged, and leaves no trace in what is kept. What a person called noise spoils nothing.
    first = [s for s in window.signals if s.kind in policy.inhibited_by]
    rest = [s for s in window.signals if s.kind not in policy.inhibited_by]
    for signal in first:
        before = watches.get(signal.key, Watch())
        one, watches[signal.key] = _judge(policy, signal, before, context, window.end)
        told.append(one)
    causes = [
        one.key
        for one in told
        if one.finding is Finding.OPEN and (one.key, watches[one.key].since) not in context.noise
    ]
    for signal in rest:
        if causes and policy.rule(signal):
            reason = f"not judged while {', '.join(causes)} stands"
            told.append(_told(signal, Finding.INHIBITED, reason))
            continue
        before = watches.get(signal.key, Watch())
        one, watches[signal.key] = _judge(policy, signal, before, context, window.end)
        told.append(one)
    asking = [one for one in told if one.finding is Finding.OPEN and one.retrain]
    held = _held(policy, window.end, context) if asking else []
    trigger = "; ".join(one.reason for one in asking) if asking and not held else ""
    is_open = any(one.finding is Finding.OPEN for one in told)
    outcome = Outcome.TRIGGER if trigger else Outcome.INCIDENT if is_open else Outcome.NOTHING
    evaluation = Evaluation(
        policy=policy.key,
        version=window.version,
        window=(window.start, window.end),
        outcome=outcome,
        told=tuple(told),
        trigger=trigger,
        held=tuple(held),
    )
    return evaluation, watches


def _judge(
    policy: DriftPolicy, signal: Signal, watch: Watch, context: Context, today: date
) -> tuple[Told, Watch]:
    found = policy.rule(signal)
    if found is None:
        return _told(signal, Finding.RECORDED, "no rule is about it"), watch
    times = context.dismissed.get(signal.key, 0)
    rule = found.raised(times)
    told, after = _judge_by(policy, rule, signal, watch)
    after = replace(after, since=(watch.since or today) if after.open else None)
    if times:
        told = replace(told, reason=f"{told.reason}; raised after {times} dismissed as noise")
    return told, after


def _judge_by(
    policy: DriftPolicy, rule: EffectRule | FallRule, signal: Signal, watch: Watch
) -> tuple[Told, Watch]:
    # Too few rows in all are what signals of data are about.
    whole = signal.kind is Kind.DATA and not signal.surface
    if signal.n < policy.least_rows and not whole:
        reason = str(signal.detail.get("why") or f"{signal.n} rows, {policy.least_rows} are needed")
        return _told(signal, Finding.FEW_ROWS, reason), watch
    if isinstance(rule, EffectRule):
        return _judge_effect(rule, signal, watch)
    return _judge_fall(policy, rule, signal, watch)


def _judge_effect(rule: EffectRule, signal: Signal, watch: Watch) -> tuple[Told, Watch]:
    effect = signal.effect
    if effect is None or not math.isfinite(effect):
        reason = str(signal.detail.get("why") or "no effect could be computed")
        return _told(signal, Finding.FEW_ROWS, reason), watch
    above, below = effect >= rule.above, effect < rule.clear
    watch = replace(
        watch,
        windows=watch.windows + 1,
        over=watch.over + 1 if above else 0,
        calm=watch.calm + 1 if below else 0,
    )
    opened = watch.over >= rule.windows or (watch.open and watch.calm < rule.windows)
    watch = replace(watch, open=opened)
    finding = Finding.OPEN if opened else Finding.OVER if above else Finding.CALM
    reason = f"{signal.key} {effect:.3f} on {signal.n:,} rows; {rule.above:g} for {rule.windows}"
    reason += " windows opens an incident"
    if signal.detail:
        reason += f" ({', '.join(f'{k}: {v}' for k, v in sorted(signal.detail.items()))})"
    return _told(signal, finding, reason, rule), watch


def _judge_fall(
    policy: DriftPolicy, rule: FallRule, signal: Signal, watch: Watch
) -> tuple[Told, Watch]:
    if signal.value is None or signal.error is None or not signal.error > 0:
        return _told(signal, Finding.FEW_ROWS, "no metric with an error could be computed"), watch
    watch = replace(watch, windows=watch.windows + 1)
    if watch.windows <= policy.warm_up_windows:
        watch = replace(
            watch,
            values=(*watch.values, signal.value - (signal.reference or 0.0)),
            errors=(*watch.errors, signal.error),
        )
        reason = f"window {watch.windows} of {policy.warm_up_windows} of the warm-up"
        return _told(signal, Finding.WARMING_UP, reason), watch
    reference, doubt = _reference(signal, watch)
    distance = surprise(
        signal.value,
        signal.error,
        reference=reference,
        tolerated=rule.tolerated + ONE_SIDED_95 * doubt,
        between=between_windows(watch.values, watch.errors, floor=rule.between_floor),
    )
    watch = replace(watch, detector=watch.detector.update(distance))
    fallen = watch.detector.alarms(rule.windows_between_false_alarms)
    watch = replace(watch, open=fallen)
    reason = (
        f"{signal.key} {signal.value:.3f} against {reference:.3f} at registration, {distance:+.1f} "
        f"standard errors below what is tolerated; evidence {watch.detector.evidence:.1f} of "
        f"{math.log(rule.windows_between_false_alarms):.1f}"
    )
    return _told(signal, Finding.OPEN if fallen else Finding.CALM, reason, rule), watch


def _reference(signal: Signal, watch: Watch) -> tuple[float, float]:
    """What the metric is measured against, and the standard error of that."""
    if signal.reference is not None:
        return signal.reference, signal.reference_error
    count = len(watch.values)
    doubt = math.sqrt(sum(error * error for error in watch.errors)) / count
    return sum(watch.values) / count, doubt


def _told(
    signal: Signal, finding: Finding, reason: str, rule: EffectRule | FallRule | None = None
) -> Told:
    return Told(
        key=signal.key,
        finding=finding,
        reason=reason,
        severity=rule.severity if rule else None,
        retrain=bool(rule and rule.retrain),
    )


def _held(policy: DriftPolicy, today: date, context: Context) -> list[str]:
    held = []
    if not context.champion:
        held.append("it is not the version in use")
    if context.unfinished:
        held.append(f"the run of {context.unfinished} has not ended")
    if context.candidate:
        held.append(f"version {context.candidate} waits for a person already")
    last = max(context.retrains, default=None)
    if last is not None and (today - last).days < policy.cooldown_days:
        until = last + timedelta(days=policy.cooldown_days)
        held.append(f"the last retraining was ordered on {last}; cooldown until {until}")
    recent = [day for day in context.retrains if today - day < QUARTER]
    if len(recent) >= policy.retrains_per_quarter:
        held.append(
            f"{len(recent)} retrainings in 91 days; the budget is {policy.retrains_per_quarter}"
        )
    return held
