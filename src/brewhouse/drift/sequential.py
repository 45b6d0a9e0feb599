"""Whether a metric has fallen, asked at every window without a test that wears out.

An e-detector (Shin, Ramdas & Rinaldo, arXiv:2203.03532): of each window comes a factor whose mean
is at most 1 while nothing has fallen; a Shiryaev-Roberts sum multiplies them up from every window
at which the fall may have begun. Whenever it is looked at, false alarms lie at least as many
windows apart on average as the threshold says, and a fall is met soon after it begins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BETS = (0.5, 1.0, 2.0, 4.0)
"""Falls that are bet on, in standard errors of a window; each gets an equal share of the stake."""


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What survives between windows.

    Attributes:
        windows: How many were seen.
        log_sums: Logarithm of each bet's Shiryaev-Roberts sum; minus infinity at first.
    """

    windows: int = 0
    log_sums: tuple[float, ...] = (-math.inf,) * len(BETS)

    def update(self, surprise: float) -> Detector:
        """Take a window.

        Args:
            surprise: How far the metric lies below what is tolerated, in standard errors. Its
                excess over a standard normal's must not be positive on average while nothing has
                fallen.
        """
        sums = tuple(
            _log_sum(0.0, before) + bet * surprise - bet * bet / 2
            for bet, before in zip(BETS, self.log_sums, strict=True)
        )
        return Detector(windows=self.windows + 1, log_sums=sums)

    @property
    def evidence(self) -> float:
        """Logarithm of the mean sum over the bets; minus infinity before the first window."""
        top = max(self.log_sums)
        if math.isinf(top):
            return top
        total = sum(math.exp(value - top) for value in self.log_sums)
        return top + math.log(total / len(BETS))

    def alarms(self, windows_between: float) -> bool:
        """Whether the metric has fallen, with false alarms at least so many windows apart."""
        return self.evidence >= math.log(windows_between)


def _log_sum(a: float, b: float) -> float:
    top = max(a, b)
    return top + math.log(math.exp(a - top) + math.exp(b - top))


def surprise(
    value: float, error: float, *, reference: float, tolerated: float, between: float
) -> float:
    """How far a window's metric lies below what is tolerated, in standard errors.

    Args:
        value: Of the window; more is better.
        error: Its standard error.
        reference: What the metric was when the model was registered.
        tolerated: Fall that is not worth a retraining.
        between: Standard deviation between windows beyond sampling.
    """
    return (reference - tolerated - value) / math.hypot(error, between)


def between_windows(values: Sequence[float], errors: Sequence[float], *, floor: float) -> float:
    """Standard deviation between windows beyond their sampling errors, by moments.

    Args:
        values: Metric of each window of the warm-up.
        errors: Their standard errors.
        floor: Least value: few windows cannot show that there is none.
    """
    count = len(values)
    if count < 2:
        return floor
    mean = sum(values) / count
    spread = sum((value - mean) ** 2 for value in values) / (count - 1)
    sampling = sum(error * error for error in errors) / count
    return max(floor, math.sqrt(max(0.0, spread - sampling)))
