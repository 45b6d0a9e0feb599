"""What Prometheus reads: drift of the version that is watched, in the text format.

One function serves the console's endpoint and the file for node_exporter's textfile collector.
"""

from __future__ import annotations

from datetime import UTC, date, datetime

from brewhouse.drift.decision import Finding
from brewhouse.drift.incidents import Status
from brewhouse.drift.signals import Window
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.drift_triggers import FAILED

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SIGNAL = ("model", "version", "kind", "signal", "surface")


def exposition(log: DriftLog) -> str:
    """Metrics of the newest window, of incidents and of triggers."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    model = log.model

    def gauge(name: str, told: str, labels: tuple[str, ...]) -> Gauge:
        return Gauge(f"brewhouse_drift_{name}", told, labels, registry=registry)

    numbers = {
        "effect": gauge("effect", "Distance of a signal from its reference; 0 is none.", _SIGNAL),
        "value": gauge("value", "Value of a performance signal, such as the mean AUC.", _SIGNAL),
        "reference": gauge("reference", "The value when the version was registered.", _SIGNAL),
    }
    rows = gauge("rows", "Rows that a signal was measured on.", _SIGNAL)
    end = gauge(
        "window_end_timestamp_seconds", "End of the newest judged window.", ("model", "version")
    )
    judged = gauge(
        "last_judged_timestamp_seconds", "When a window was judged last.", ("model", "version")
    )
    incidents = gauge(
        "incident",
        "1 for an incident that is open and not acknowledged, snoozed or dismissed.",
        (*_SIGNAL, "severity", "number"),
    )
    counts = {
        name: gauge(name, told, ("model",))
        for name, told in {
            "trigger_without_run": "Retrainings that were ordered and whose run was not started.",
            "last_retrain_failed": "1 if the run of the newest order has failed.",
            "last_run_timestamp_seconds": "When the monitor came to its end last; 0 for never.",
        }.items()
    }
    inhibited = gauge(
        "inhibited_windows",
        "Newest windows, one after another, in which broken data kept signals from being judged.",
        ("model", "version"),
    )
    for window, at in _watched(log):
        version = window.version
        end.labels(model, version).set(_seconds(window.end))
        judged.labels(model, version).set(at.timestamp())
        inhibited.labels(model, version).set(_inhibited(log, version))
        for signal in window.signals:
            where = (model, version, signal.kind.value, signal.name, signal.surface)
            for name, metric in numbers.items():
                value = getattr(signal, name)
                if value is not None:
                    metric.labels(*where).set(value)
            rows.labels(*where).set(signal.n)
    for kept in log.incidents():
        one = kept.incident
        kind, signal_name, surface = (*one.key.split("/"), "")[:3]
        where = (model, one.version, kind, signal_name, surface)
        incidents.labels(*where, one.severity.value, str(kept.number)).set(
            one.status is Status.OPEN
        )
    triggers, ran = log.triggers(), log.last_run()
    counts["trigger_without_run"].labels(model).set(sum(not one.run for one in triggers))
    counts["last_retrain_failed"].labels(model).set(bool(triggers) and triggers[-1].ended == FAILED)
    counts["last_run_timestamp_seconds"].labels(model).set(ran[0].timestamp() if ran else 0)
    return str(generate_latest(registry).decode())


def _watched(log: DriftLog) -> list[tuple[Window, datetime]]:
    """Newest window of the version that was watched last, with when it was judged."""
    newest, ran = log.newest(), log.last_run()
    return [kept for version, kept in newest.items() if ran is None or version == ran[1]]


def _inhibited(log: DriftLog, version: str) -> int:
    """How many of the newest windows had signals that were not judged."""
    count = 0
    for evaluation in reversed(log.evaluations(version)):
        if all(told["finding"] != Finding.INHIBITED for told in evaluation["told"]):
            break
        count += 1
    return count


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
