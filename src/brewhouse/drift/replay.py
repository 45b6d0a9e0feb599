"""A policy over windows that are past: when it would have fired, at what cost, for what gain.

How on-call tunes a policy before it wakes anybody. What a retraining would have done to later
windows nobody knows; it is taken to bring the metric back to where it was at registration, from
where it falls along the decay curve of the same windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from brewhouse.drift.decay import Decay, Point, fit
from brewhouse.drift.decision import Context, Evaluation, Outcome, State, Watch, decide
from brewhouse.drift.policy import DriftPolicy
from brewhouse.drift.signals import Window
from brewhouse.errors import DataError

AUC = "performance/auc"
WEEK = 7.0


@dataclass(frozen=True, kw_only=True)
class Fired:
    """One retraining that a policy would have ordered.

    Attributes:
        trained: Day on which its training data would have ended.
    """

    day: date
    reason: str
    trained: date


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A policy over the windows of one version.

    Attributes:
        evaluations: One a window.
        incidents: Windows in which one opened, by signal.
        fired: Retrainings.
        cost: Of them, in the policy's unit.
        saved: What the metric would have been worth more, in the same unit; None without a
            decay curve.
        decay: Fitted to the same windows; None where they are too few.
    """

    evaluations: list[Evaluation]
    incidents: dict[str, list[date]]
    fired: list[Fired]
    cost: float
    saved: float | None
    decay: Decay | None

    @property
    def net(self) -> float | None:
        """Saved less cost."""
        return None if self.saved is None else self.saved - self.cost


def state_after(
    policy: DriftPolicy, windows: Sequence[Window], dismissed: Sequence[tuple[str, date]]
) -> State:
    """What windows leave: judged anew, so that a changed policy counts from the start.

    Args:
        policy: The rules.
        windows: Of one version, oldest first.
        dismissed: Signals of incidents that were called noise, and when those had opened.
    """
    state: State = {}
    for window in windows:
        context = Context(dismissed=dismissed_before(dismissed, window), noise=frozenset(dismissed))
        _, state = decide(policy, window, state, context)
    return state


def dismissed_before(dismissed: Sequence[tuple[str, date]], window: Window) -> dict[str, int]:
    """How many incidents of each signal, opened before a window, were called noise."""
    return dict(Counter(key for key, opened in dismissed if opened <= window.start))


def replay(policy: DriftPolicy, windows: Sequence[Window], *, trained: date) -> Replay:
    """Judge past windows of one version by a policy.

    Args:
        policy: To try.
        windows: Oldest first.
        trained: Day on which the version's training data ended, for its age.
    """
    state: dict[str, Watch] = {}
    evaluations, fired, opened = [], [], {}  # type: ignore[var-annotated]
    standing: set[str] = set()
    for window in windows:
        context = Context(retrains=tuple(one.day for one in fired))
        evaluation, state = decide(policy, window, state, context)
        evaluations.append(evaluation)
        now = {told.key for told in evaluation.open}
        for key in sorted(now - standing):
            opened.setdefault(key, []).append(window.end)
        standing = now
        if evaluation.outcome is Outcome.TRIGGER:
            # As with this version, tests lie between the end of training and the first window.
            ended = window.matured_until - (windows[0].start - trained)
            fired.append(Fired(day=window.end, reason=evaluation.trigger, trained=ended))
    curve = decay_of(windows, trained=trained)
    return Replay(
        evaluations=evaluations,
        incidents=opened,
        fired=fired,
        cost=policy.economics.retrain_cost * len(fired),
        saved=_saved(policy, windows, fired, curve),
        decay=curve,
    )


def decay_of(windows: Sequence[Window], *, trained: date) -> Decay | None:
    """Mean AUC against the age of the model; None where windows are too few."""
    points = []
    for window in windows:
        for signal in window.signals:
            if signal.key == AUC and signal.value is not None and signal.error:
                # The cohort whose labels matured lies before the window's end.
                age = (window.matured_until - trained).days / WEEK
                points.append(Point(age=age, value=signal.value, error=signal.error))
    try:
        return fit(points)
    except DataError:
        return None


def _saved(
    policy: DriftPolicy, windows: Sequence[Window], fired: Sequence[Fired], curve: Decay | None
) -> float | None:
    if curve is None:
        return None
    total = 0.0
    for window in windows:
        since = [one.trained for one in fired if one.day <= window.start]
        seen = next((s.value for s in window.signals if s.key == AUC), None)
        if since and seen is not None:
            age = (window.matured_until - max(since)).days / WEEK
            weeks = (window.end - window.start).days / WEEK
            total += (curve.fresh + curve.slope * age - seen) * weeks
    return policy.economics.auc_week * total
