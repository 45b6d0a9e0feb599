"""Policies over windows that were measured: those of the log, or of a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from brewhouse.drift.policy import DriftPolicy
from brewhouse.drift.replay import Replay, replay
from brewhouse.drift.signals import Window
from brewhouse.errors import ConfigError, DataError
from brewhouse.files import read_json
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.tracking import Registry
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.store import VersionFolder
from brewhouse.release.watching import trained_until


@dataclass(frozen=True, kw_only=True)
class Past:
    """Windows of one version, oldest first, and the day on which its training data ended."""

    windows: list[Window]
    trained: date


def past(log: DriftLog, settings: Settings, version: str, path: Path | None) -> Past:
    """Windows of a version from the log, or of a file `{"trained": DAY, "windows": [...]}`.

    Raises:
        DataError: There are none.
        ConfigError: The file cannot be read.
    """
    if path is not None:
        return _of_file(path)
    registry, name = Registry(settings.tracking_uri), settings.model_name
    number = registry.alias(name, CHAMPION) if version == CHAMPION else version
    windows = log.windows(number) if number else []
    if not windows:
        msg = (
            f"no window of {name} version {number or 'champion'} was measured; "
            "`brewhouse drift run` measures them, --windows reads them from a file"
        )
        raise DataError(msg)
    kept = VersionFolder(registry.version(name, number).source, tracking_uri=settings.tracking_uri)
    trained = trained_until(kept)
    return Past(windows=windows, trained=trained or windows[0].start)


def _of_file(path: Path) -> Past:
    try:
        value = read_json(path)
        windows = [Window.model_validate(one) for one in value["windows"]]
        trained = date.fromisoformat(value["trained"])
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        told = str(error).splitlines()[0]
        msg = f"{path} holds no windows: {told}; give {{trained: DAY, windows: [...]}} as JSON"
        raise ConfigError(msg) from error
    return Past(windows=sorted(windows, key=lambda w: w.start), trained=trained)


def run(policy: DriftPolicy, found: Past) -> Replay:
    """Judge the windows by a policy."""
    return replay(policy, found.windows, trained=found.trained)


def to_json(found: Replay) -> dict[str, Any]:
    """For machines."""
    curve = found.decay
    return {
        "windows": [
            {"until": str(e.window[1]), "outcome": e.outcome.value, "open": [t.key for t in e.open]}
            for e in found.evaluations
        ],
        "incidents": {key: [str(d) for d in days] for key, days in found.incidents.items()},
        "fired": [{"day": str(one.day), "reason": one.reason} for one in found.fired],
        "cost": found.cost,
        "saved": found.saved,
        "net": found.net,
        "decay": None
        if curve is None
        else {
            "fresh": curve.fresh,
            "slope_per_week": curve.slope,
            "slope_interval": list(curve.slope_interval),
        },
    }


def dump(windows: Sequence[Window], trained: date) -> dict[str, Any]:
    """What `past` reads from a file."""
    return {
        "trained": trained.isoformat(),
        "windows": [window.model_dump(mode="json") for window in windows],
    }
