"""Windows from a real log: a version measured on its own tests is what it was registered with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.drift import measure
from brewhouse.drift.policy import DriftPolicy, InputMethods, Severity, load_drift_policy
from brewhouse.drift.reference import Reference
from brewhouse.drift.signals import Window
from brewhouse.errors import ConfigError
from brewhouse.files import read_json
from brewhouse.model.shipped import locate
from brewhouse.platform.evidently_drift import Workspace, input_drift
from brewhouse.release.settings import Settings
from brewhouse.release.watching import WatchedVersion
from brewhouse.stages import (
    evaluating,
    features,
    monitor_step,
    monitoring,
    observing,
    verbalizing,
)
from brewhouse.stages.variant import Variant

pytestmark = pytest.mark.slow
MODEL = Path(locate("linkedin-tiny"))
TRAIN_END, AS_OF = "2024-02-19", datetime(2024, 3, 20, tzinfo=UTC)
ALL = 1_000_000


@pytest.fixture(scope="module")
def registered(tiny: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features of the tiny world, and the reference of the shipped model on it."""
    work = tmp_path_factory.mktemp("registered")
    features.run(domain="linkedin", snapshot=tiny.path, features_out=work / "features")
    verbalizing.run(
        domain="linkedin",
        snapshot=tiny.path,
        features=work / "features",
        train_end=TRAIN_END,
        shards_out=work / "shards",
        model=str(MODEL),
        max_test_sessions=ALL,
        variant=Variant(training=False, probe="shuffled_labels"),
    )
    evaluating.run(
        domain="linkedin",
        shards=work / "shards",
        model=MODEL,
        baselines=None,
        oracle=work / "none",
        results_out=work / "results.json",
        report_out=work / "report.html",
        reference_out=work / "reference",
        resamples=50,
    )
    return work


@pytest.fixture
def kept(registered: Path) -> WatchedVersion:
    reference = Reference.model_validate(read_json(registered / "reference" / "reference.json"))
    return WatchedVersion(
        name="ranker",
        number="1",
        model=MODEL,
        folder=registered / "reference",
        reference=reference,
        missing="",
        waiting="",
        trained=date(2024, 2, 19),
    )


def _policy(**changes: Any) -> DriftPolicy:
    return load_drift_policy("default").model_copy(
        update={"sessions_per_day": ALL, "maturity_days": 0, "least_rows": 50} | changes
    )


def _measure(
    tiny: Snapshot,
    registered: Path,
    kept: WatchedVersion,
    work: Path,
    policy: DriftPolicy,
    start: date,
    end: date,
    moment: datetime = AS_OF,
) -> Window:
    window, _ = monitoring.measure_window(
        "linkedin",
        tiny,
        registered / "features",
        policy,
        kept,
        work / "store",
        work,
        start,
        end,
        moment,
        None,
    )
    return window


def test_a_version_s_own_tests_are_no_drift(
    tiny: Snapshot, registered: Path, kept: WatchedVersion, tmp_path: Path
) -> None:
    """The days of its tests, told and scored again day by day: the same rows, the same numbers."""
    assert kept.reference is not None
    start, end = kept.reference.start, kept.reference.end
    again = replace(kept, reference=kept.reference.model_copy(update={"end": start}))
    window = _measure(tiny, registered, again, tmp_path, _policy(window_days=14), start, end)
    signals = {s.key: s for s in window.signals}
    known = kept.reference.performance
    assert len(known.auc.values) > 10
    keys = [key for key in signals if key.startswith("performance/auc")]
    assert len(keys) > 3
    for key in keys:
        one = signals[key]
        assert one.value == pytest.approx(one.reference, abs=1e-5), key
        if one.value is not None:
            # A reference's factor for few members is of all tasks, a surface's own of its members.
            assert one.error == pytest.approx(one.reference_error, rel=0.05), key
    assert signals["performance/auc"].reference == pytest.approx(
        np.mean(list(known.auc.values.values()))
    )
    for key, signal in signals.items():
        if signal.kind in ("data", "input", "score"):
            assert signal.effect == pytest.approx(0.0, abs=1e-3), key
    told = signals["estimate/auc"]
    assert told.value == pytest.approx(told.reference, abs=1e-5)


def test_a_day_is_observed_once_and_windows_join_days(
    tiny: Snapshot,
    registered: Path,
    kept: WatchedVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert kept.reference is not None
    end = kept.reference.end
    policy = _policy(maturity_days=2)
    # A day of a tiny world has few of anything.
    monkeypatch.setattr(measure, "LEAST_CASES", 1)
    first = _measure(tiny, registered, kept, tmp_path, policy, end, end + timedelta(days=3))
    days = sorted((tmp_path / "store" / "ranker" / "1").iterdir())
    assert [d.name for d in days] == [str(end + timedelta(days=n)) for n in range(3)]
    before = {p: p.stat().st_mtime_ns for d in days for p in d.iterdir()}
    again = _measure(tiny, registered, kept, tmp_path, policy, end, end + timedelta(days=3))
    assert again == first
    assert {p: p.stat().st_mtime_ns for d in days for p in d.iterdir()} == before
    # The day whose labels are final, no other: two of three are not.
    auc = next(s for s in first.signals if s.key == "performance/auc")
    mine = pq.read_table(days[0] / observing.SCORES)
    assert 0 < auc.n <= len(mine)
    assert auc.detail["shown"] == f"{end} to {end + timedelta(days=1)}"
    fresh = next(s for s in first.signals if s.key == "score/psi/feed")
    every = [pq.read_table(d / observing.SCORES)["task"].to_pylist() for d in days]
    assert fresh.n == sum(names.count(fresh.detail["task"]) for names in every)


def test_labels_are_those_that_are_known_now(
    tiny: Snapshot, registered: Path, kept: WatchedVersion, tmp_path: Path
) -> None:
    """A day is scored without its labels' last word; they are joined when they have matured."""
    assert kept.reference is not None
    begin = observing.midnight(kept.reference.end)
    late = begin + timedelta(days=1)
    early = observing.labels_between(tiny, begin, late, as_of=begin + timedelta(hours=12))
    whole = observing.labels_between(tiny, begin, late, as_of=AS_OF)
    assert 0 < len(early) < len(whole)
    assert set(early["row"].to_pylist()) < set(whole["row"].to_pylist())


def test_before_labels_mature_it_says_when(
    tiny: Snapshot, registered: Path, kept: WatchedVersion, tmp_path: Path
) -> None:
    assert kept.reference is not None
    end = kept.reference.end
    policy = _policy(maturity_days=30)
    window = _measure(tiny, registered, kept, tmp_path, policy, end, end + timedelta(days=2))
    auc = next(s for s in window.signals if s.key == "performance/auc")
    assert (auc.value, auc.n) == (None, 0)
    assert "labels mature 30 days after a row was shown" in auc.detail["why"]


@pytest.fixture
def watched(kept: WatchedVersion, monkeypatch: pytest.MonkeyPatch) -> dict[str, WatchedVersion]:
    """The version in use, without a registry."""
    holder = {"kept": kept}

    @contextmanager
    def fake(_settings: Settings, _wanted: str) -> Iterator[WatchedVersion]:
        yield holder["kept"]

    monkeypatch.setattr(monitoring, "watched_version", fake)
    return holder


def _run(
    tiny: Snapshot, registered: Path, home: Path, policy: DriftPolicy, as_of: datetime
) -> monitoring.Monitored:
    return monitoring.run(
        domain="linkedin",
        snapshot=tiny.path,
        features=registered / "features",
        policy=policy,
        settings=Settings.read(home),
        store=home / "observations",
        out=home / "drift",
        as_of=as_of,
    )


def test_windows_come_when_they_are_over_and_once(
    tiny: Snapshot, registered: Path, watched: Any, tmp_path: Path
) -> None:
    end = watched["kept"].reference.end
    policy = _policy(window_days=2, sessions_per_day=20)
    early = observing.midnight(end + timedelta(days=1))
    found = _run(tiny, registered, tmp_path, policy, early)
    assert (found.evaluations, found.next) == ([], end + timedelta(days=2))
    later = observing.midnight(end + timedelta(days=4)) + timedelta(hours=1)
    found = _run(tiny, registered, tmp_path, policy, later)
    assert [e.window for e in found.evaluations] == [
        (end, end + timedelta(days=2)),
        (end + timedelta(days=2), end + timedelta(days=4)),
    ]
    assert found.next == end + timedelta(days=6)
    assert _run(tiny, registered, tmp_path, policy, later).evaluations == []


def test_a_window_without_rows_is_an_incident(
    tiny: Snapshot, registered: Path, watched: Any, tmp_path: Path
) -> None:
    """As of a day at which the log had ended long ago."""
    end = watched["kept"].reference.end
    policy = _policy(window_days=90, sessions_per_day=1)
    log_end = tiny.end()
    kept = watched["kept"]
    after = log_end.date() + timedelta(days=2)
    watched["kept"] = replace(kept, reference=kept.reference.model_copy(update={"end": after}))
    moment = observing.midnight(after + timedelta(days=90))
    (evaluation,) = _run(tiny, registered, tmp_path, policy, moment).evaluations
    assert evaluation.outcome == "incident"
    assert {t.key for t in evaluation.open} >= {"data/volume", "data/freshness"}
    assert end < after


def test_incidents_of_a_version_end_with_its_reign(
    tiny: Snapshot, registered: Path, watched: Any, tmp_path: Path
) -> None:
    log = monitoring.open_log(Settings.read(tmp_path))
    log.fault("1", "data/import", severity=Severity.PAGE, reason="of the version before")
    log.fault("2", "data/import", severity=Severity.PAGE, reason="of the one in use")
    watched["kept"] = replace(watched["kept"], number="2")
    early = observing.midnight(watched["kept"].reference.end)
    _run(tiny, registered, tmp_path, _policy(), early)
    assert [k.incident.version for k in log.incidents()] == ["2"]
    assert log.steps(1)[-1]["reason"] == "version 2 is in use"


def test_a_version_without_a_reference_is_an_incident(
    tiny: Snapshot, registered: Path, watched: Any, tmp_path: Path
) -> None:
    watched["kept"] = replace(watched["kept"], reference=None, missing="it holds none")
    found = _run(tiny, registered, tmp_path, _policy(), AS_OF)
    (evaluation,) = found.evaluations
    assert evaluation.outcome == "incident"
    assert [t.key for t in evaluation.open] == ["data/reference"]
    assert "it holds none" in evaluation.open[0].reason
    assert not (tmp_path / "observations").exists()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"source": "/nowhere"}, "/nowhere"),
        ({"preset": "tiny", "source": "/nowhere"}, "either a source folder or a preset"),
    ],
)
def test_a_log_that_cannot_be_read_is_an_incident(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: dict[str, str], reason: str
) -> None:
    monkeypatch.setattr(monitor_step, "watched_number", lambda *_: "1")
    settings = Settings.read(tmp_path / "home")
    log = monitoring.open_log(settings)
    for _ in range(2):
        with pytest.raises(ConfigError, match=reason):
            monitor_step.run(
                domain="linkedin",
                data=monitor_step.DataPlace(**data),
                policy=_policy(),
                settings=settings,
                store=tmp_path / "store",
                out=tmp_path / "out",
            )
    (kept,) = log.incidents()
    assert (kept.incident.key, kept.incident.severity) == ("data/import", Severity.PAGE)
    assert reason in kept.incident.reason
    assert 'signal="import"' in (tmp_path / "out" / "drift.prom").read_text()


def test_now_is_where_a_simulated_log_ends(tiny: Snapshot) -> None:
    """A real log that stopped does not stop the clock: windows without rows are judged."""
    assert tiny.now() == tiny.end()
    provenance = {k: v for k, v in tiny.manifest["provenance"].items() if k != "simulated"}
    real = replace(tiny, manifest=tiny.manifest | {"provenance": provenance})
    assert abs((real.now() - datetime.now(UTC)).total_seconds()) < 60


def test_inputs_by_the_distances_that_the_policy_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def table(shift: float, share: float) -> pa.Table:
        n = 4000
        return pa.table(
            {
                "row": [str(i) for i in range(n)],
                "tokens": rng.normal(shift, 2.0, n),
                "area": np.where(rng.random(n) < share, "a", "b").tolist(),
                "free": [f"text {i}" for i in range(n)],
                "gone": pa.nulls(n, pa.string()),
                "flat": np.ones(n),
            }
        )

    page = tmp_path / "page.html"
    moved = input_drift(table(1.0, 0.8), table(0.0, 0.5), InputMethods(), threshold=0.1, page=page)
    found = {one.column: one for one in moved}
    # Constant, empty and free text columns cannot be compared.
    assert set(found) == {"tokens", "area"}
    # Half a standard deviation; Jensen-Shannon of .8 and .5 by hand.
    assert found["tokens"].distance == pytest.approx(0.5, abs=0.06)
    p, q = np.array([0.8, 0.2]), np.array([0.5, 0.5])
    m = (p + q) / 2
    js = np.sqrt(((p * np.log(p / m)).sum() + (q * np.log(q / m)).sum()) / 2)
    assert found["area"].distance == pytest.approx(js / np.sqrt(np.log(2)), abs=0.03) or found[
        "area"
    ].distance == pytest.approx(js, abs=0.03)
    assert 'src="http' not in page.read_text()
    there = Workspace(place=str(tmp_path / "ui"), project="ranker", name="version 1")
    input_drift(table(1.0, 0.8), table(0, 0.5), InputMethods(), threshold=0.1, workspace=there)
    (kept,) = (tmp_path / "ui").glob("*/snapshots/*.json")
    assert "tokens" in kept.read_text()
    gone = replace(there, place="http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="127.0.0.1:9.*BREWHOUSE_EVIDENTLY_WORKSPACE"):
        input_drift(table(0, 0.5), table(0, 0.5), InputMethods(), threshold=0.1, workspace=gone)
    same = input_drift(table(0.0, 0.5), table(0.0, 0.5), InputMethods(), threshold=0.1)
    assert max(one.distance for one in same) < 0.06
