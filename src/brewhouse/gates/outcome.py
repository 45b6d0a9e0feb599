"""What a rule, or the gate as a whole, can find."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What a rule, or the gate as a whole, found."""

    PASS = "PASS"  # an outcome, no secret
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


def worst(outcomes: list[Outcome]) -> Outcome:
    """FAIL before INCONCLUSIVE before PASS."""
    return next((o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE) if o in outcomes), Outcome.PASS)
