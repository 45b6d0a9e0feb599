"""What Prometheus reads: drift of the versions that are watched, in the text format.

One function serves the console's endpoint and the file for node_exporter's textfile collector.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime

from brewhouse.drift.incidents import Status
from brewhouse.drift.signals import Window
from brewhouse.platform.drift_log import DriftLog

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
    standing = gauge("trigger_without_run", "Triggers whose run was not started.", ("model",))
    for window, at in _newest(log):
        version = window.version
        end.labels(model, version).set(_seconds(window.end))
        judged.labels(model, version).set(at.timestamp())
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
    standing.labels(model).set(sum(not trigger.run for trigger in log.triggers()))
    return str(generate_latest(registry).decode())


def _newest(log: DriftLog) -> Iterator[tuple[Window, datetime]]:
    """Newest window of each version that is watched still, with when it was judged."""
    yield from log.newest().values()


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
