"""What a check of a machine or a cluster found, and what mends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How a check came out."""

    OK = "ok"
    MISSING = "missing"
    """What runs need is not there: they would fail."""
    ABSENT = "absent"
    """An optional part is not there."""
    UNKNOWN = "unknown"
    """Whoever asked may not look."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What.
        value: What was found, in a few words.
        remedy: The command or the step that mends it; empty where nothing is wrong.
    """

    name: str
    value: str
    state: State = State.OK
    remedy: str = ""


def ok(name: str, value: str) -> Check:
    """All is well."""
    return Check(name=name, value=value)


def missing(name: str, value: str, remedy: str) -> Check:
    """Runs would fail."""
    return Check(name=name, value=value, state=State.MISSING, remedy=remedy)


def unknown(name: str, value: str, remedy: str) -> Check:
    """Whoever asked may not look."""
    return Check(name=name, value=value, state=State.UNKNOWN, remedy=remedy)


def guarded(name: str, remedy: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Checks of a part; whatever it raises is one that failed, with its remedy."""
    try:
        yield from look()
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, not an end
        told = " ".join(str(error).split())[:160] or type(error).__name__
        yield missing(name, f"{type(error).__name__}: {told}", remedy)
