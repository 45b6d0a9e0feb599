"""Signals about data: what is broken, and by how much more than is tolerated."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest

from brewhouse.drift.decision import Context, Finding, Outcome, decide
from brewhouse.drift.policy import load_drift_policy
from brewhouse.drift.quality import MOST, DataFacts, DataReference, data_signals, reference_signal
from brewhouse.drift.reference import Reference, router_drift
from brewhouse.drift.signals import Window

KNOWN = DataReference(
    rows_per_day={"feed": 100.0, "jobs": 10.0},
    columns={"tokens": "int32", "item.area": "string"},
    nulls={"tokens": 0.0, "item.area": 0.02},
)
WHOLE = {
    "start": date(2024, 5, 1),
    "end": date(2024, 5, 8),
    "rows": {"feed": 700, "jobs": 70},
    "columns": dict(KNOWN.columns),
    "nulls": dict(KNOWN.nulls),
    "described": 500,
    "newest": datetime(2024, 5, 8, 1, tzinfo=UTC),
    "skewed": 0,
}
BROKEN = {
    "empty window": ({"rows": {}, "described": 0, "newest": None}, {"volume", "freshness"}),
    "half gone": ({"rows": {"feed": 340, "jobs": 33}}, {"volume"}),
    "twice as many": ({"rows": {"feed": 1500, "jobs": 160}}, {"volume"}),
    "a surface gone": ({"rows": {"feed": 700}}, {"volume/jobs"}),
    "a column gone": ({"columns": {"tokens": "int32"}}, {"schema"}),
    "another kind": ({"columns": KNOWN.columns | {"tokens": "string"}}, {"schema"}),
    "a new column": ({"columns": KNOWN.columns | {"item.price": "double"}}, {"schema"}),
    "empty values": ({"nulls": {"tokens": 0.0, "item.area": 0.2}}, {"nulls"}),
    "stopped early": ({"newest": datetime(2024, 5, 6, 12, tzinfo=UTC)}, {"freshness"}),
    "clocks": ({"skewed": 20}, {"clock"}),
}


@pytest.mark.parametrize(("change", "wanted"), BROKEN.values(), ids=BROKEN)
def test_each_fault_is_told_and_only_it(change, wanted: set[str]) -> None:
    found = {
        s.key.removeprefix("data/"): s for s in data_signals(DataFacts(**WHOLE | change), KNOWN)
    }
    over = {name for name, signal in found.items() if signal.effect >= 1}
    assert wanted <= over
    assert {name.split("/")[0] for name in over} == {name.split("/")[0] for name in wanted}
    assert max(s.effect for s in found.values()) <= MOST


def test_whole_data_and_chance_are_no_fault() -> None:
    rng = np.random.default_rng(0)
    # On a surface with a row a day the count halves or doubles every few weeks.
    known = KNOWN.model_copy(update={"rows_per_day": KNOWN.rows_per_day | {"ads": 1.0}})
    called = 0
    for _ in range(300):
        rows = {"feed": int(rng.poisson(700)), "jobs": int(rng.poisson(70))}
        rows["ads"] = int(rng.poisson(7))
        signals = data_signals(DataFacts(**WHOLE | {"rows": rows}), known)
        called += max(s.effect for s in signals) >= 1
    assert called < 15


@pytest.mark.parametrize("change", [b for b, _ in BROKEN.values()], ids=BROKEN)
def test_a_fault_of_data_is_an_incident_and_never_a_retraining(change) -> None:
    """With a fall of the metric in the same window, which nobody could believe."""
    policy = load_drift_policy("default")
    fall = [_auc(0.70, n) for n in range(12)]
    signals = data_signals(DataFacts(**WHOLE | change), KNOWN)
    state: dict = {}
    for place in range(12):
        window = Window(
            version="1",
            start=date(2024, 5, 1),
            end=date(2024, 5, 8),
            matured_until=date(2024, 5, 5),
            signals=[*signals, fall[place]],
        )
        evaluation, state = decide(policy, window, state, Context())
        if next(iter(change)) == "rows" and change["rows"] == {"feed": 700}:
            continue  # Seventy rows are too few to judge a surface by.
        assert evaluation.outcome is Outcome.INCIDENT
        assert evaluation.told[-1].finding is Finding.INHIBITED


def _auc(value: float, _: int):
    from brewhouse.drift.signals import Kind, Signal

    return Signal(
        name="auc", kind=Kind.PERFORMANCE, value=value, error=0.004, reference=0.8, n=5000
    )


def test_without_a_reference_there_is_a_finding_and_nothing_else() -> None:
    window = Window(
        version="1",
        start=date(2024, 5, 1),
        end=date(2024, 5, 8),
        matured_until=date(2024, 5, 5),
        signals=[reference_signal("its dossier holds none; evaluate it again")],
    )
    evaluation, _ = decide(load_drift_policy("default"), window, {}, Context())
    assert evaluation.outcome is Outcome.INCIDENT
    assert "its dossier holds none" in evaluation.open[0].reason


def test_router_drift_is_the_share_of_tokens_that_moved() -> None:
    from brewhouse.drift.estimate import EstimateReference
    from brewhouse.drift.measure import Performance

    bound = Reference(
        model="sha256:0",
        tasks=[],
        start=date(2024, 5, 1),
        end=date(2024, 5, 15),
        performance=Performance(tasks={}, auc={}),
        estimate=EstimateReference(calibration={}, promised={}),
        data=KNOWN,
        router=[[0.5, 0.5], [0.25, 0.75]],
    )
    (signal,) = router_drift(np.array([[50, 50], [55, 45]]), bound)
    assert signal.effect == pytest.approx(0.30)
    assert signal.detail == {"layer": 1}
    assert router_drift(None, bound) == []
