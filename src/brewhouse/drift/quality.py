"""Signals about the data: volume, nulls, schema, freshness, clocks, and the reference itself.

Effects are in units of what is still tolerated: 1 is the limit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime

from brewhouse.domains.strict import Strict
from brewhouse.drift.signals import Kind, Signal

MOST = 10.0
"""Effects end here: an empty window is no further from the reference than that."""
NULLS = 0.1
"""Rise of the share of empty values in a column that is tolerated."""
LATE_DAYS = 1.0
SKEWED = 0.01
"""Share of rows with impossible clocks that is tolerated."""


class DataReference(Strict):
    """How the data were when the version was tested.

    Attributes:
        rows_per_day: Rows of the log by surface.
        columns: Kind of each described column.
        nulls: Share of empty values of each.
    """

    rows_per_day: dict[str, float]
    columns: dict[str, str]
    nulls: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The same of a window.

    Attributes:
        start, end: Days, the end outside.
        rows: Rows of the log by surface.
        columns, nulls: As in the reference; empty where nothing could be described.
        described: Rows that nulls were counted on.
        newest: When the newest row became known to the log; None where it is empty.
        skewed: Rows with clocks that cannot be: acted on before they were shown, or known before
            they happened.
    """

    start: date
    end: date
    rows: Mapping[str, int]
    columns: Mapping[str, str]
    nulls: Mapping[str, float]
    described: int
    newest: datetime | None
    skewed: int


def data_signals(facts: DataFacts, reference: DataReference) -> list[Signal]:
    """Judge a window's data."""
    days = max(1, (facts.end - facts.start).days)
    expected = {surface: rate * days for surface, rate in reference.rows_per_day.items()}
    total, found = sum(expected.values()), sum(facts.rows.values())
    out = [
        reference_signal(""),
        _signal(
            "volume", _fold(found, total), int(total), {"rows": found, "expected": round(total)}
        ),
    ]
    for surface, rows in sorted(expected.items()):
        got = facts.rows.get(surface, 0)
        effect = max(0.0, _fold(got, rows) - _chance(rows, got))
        detail = {"rows": got, "expected": round(rows)}
        out.append(_signal("volume", effect, int(rows), detail, surface=surface))
    if facts.described:
        before, now = reference.columns, facts.columns
        changed = [
            f"{name}: {before.get(name, 'absent')} -> {now.get(name, 'absent')}"
            for name in sorted({*before, *now})
            if before.get(name) != now.get(name)
        ]
        why = {"why": "; ".join(changed)} if changed else {}
        out.append(_signal("schema", min(MOST, len(changed)), facts.described, why))
        risen = {
            name: share - reference.nulls.get(name, 0.0) for name, share in facts.nulls.items()
        }
        worst = max(risen, key=lambda name: (risen[name], name), default="")
        rise = max(0.0, risen.get(worst, 0.0))
        where = {"column": worst, "rise": rise}
        out.append(_signal("nulls", min(MOST, rise / NULLS), facts.described, where))
    out.append(_freshness(facts))
    share = facts.skewed / found if found else 0.0
    out.append(_signal("clock", min(MOST, share / SKEWED), found, {"rows": facts.skewed}))
    return out


def reference_signal(missing: str) -> Signal:
    """Whether there is a reference: 0, or far beyond the limit with what is missing."""
    return _signal("reference", MOST if missing else 0.0, 0, {"why": missing} if missing else {})


def _freshness(facts: DataFacts) -> Signal:
    if facts.newest is None:
        return _signal("freshness", MOST, 0, {"why": "the log is empty"})
    end = datetime(facts.end.year, facts.end.month, facts.end.day, tzinfo=facts.newest.tzinfo)
    late = max(0.0, (end - facts.newest).total_seconds() / 86_400)
    detail = {"newest": facts.newest.isoformat(timespec="seconds")}
    return _signal("freshness", min(MOST, late / LATE_DAYS), 1, detail)


def _fold(found: float, expected: float) -> float:
    """Doublings or halvings between two counts."""
    if expected <= 0:
        return 0.0
    return min(MOST, abs(math.log2(max(found, 1e-3) / expected)))


def _chance(expected: float, found: float) -> float:
    """Doublings by chance between two Poisson counts, two standard errors of them.

    The reference's own count is about that of a window.
    """
    return 2 / math.log(2) * math.sqrt(1 / max(1.0, expected) + 1 / max(1.0, found or expected))


def _signal(
    name: str, effect: float, n: int, detail: Mapping[str, object], *, surface: str = ""
) -> Signal:
    return Signal(
        name=name, kind=Kind.DATA, surface=surface, effect=effect, n=n, detail=dict(detail)
    )
