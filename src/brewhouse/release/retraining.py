"""From a trigger to one run of `train_and_evaluate`: it may train, it never promotes.

The run is looked for before it is started, by the trigger's id; wherever this dies, starting again
finds the run or makes it, never a second one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from brewhouse.domains.loader import load_domain
from brewhouse.drift.policy import DriftPolicy
from brewhouse.errors import ConfigError
from brewhouse.files import read_json, write_json
from brewhouse.platform.drift_log import DriftLog, Trigger
from brewhouse.platform.pipelines import LocalRun, run_local, submit
from brewhouse.release.running import MARKER
from brewhouse.release.settings import Settings

EXPERIMENT = "retrain"
PIPELINE = "train_and_evaluate"
ARGUMENTS = "run.json"
"""Arguments of the last `brewhouse run` of a home folder: what a retraining repeats."""
DONE = "done.json"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A run of a trigger.

    Attributes:
        run: Id in Kubeflow Pipelines, or `local:` with the run's folder.
        fresh: Whether it was started now.
    """

    trigger: str
    run: str
    fresh: bool


def run_arguments(settings: Settings, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a retraining is told, but for its data: given, or as the last run of the home folder.

    Raises:
        ConfigError: Neither is there, or they name no domain.
    """
    path = settings.home / ARGUMENTS
    if not given and not path.is_file():
        msg = (
            f"{path} is not there, so nothing says how to train; give the arguments of "
            f"{PIPELINE} in a YAML file with --arguments"
        )
        raise ConfigError(msg)
    found: dict[str, Any] = dict(given) if given else read_json(path)
    if not isinstance(found.get("domain"), str):
        msg = f"arguments of a retraining need `domain`, got {', '.join(found) or 'nothing'}"
        raise ConfigError(msg)
    return found


def arguments_of(
    trigger: Trigger, base: Mapping[str, Any], policy: DriftPolicy, *, as_of: datetime
) -> dict[str, Any]:
    """Arguments of a trigger's run: as ever, on data until the trigger's window.

    Args:
        trigger: The order.
        base: Arguments of an earlier run.
        policy: Says when labels are final.
        as_of: What the log learned later is left out; aware.
    """
    spec = load_domain(str(base["domain"])).domain.defaults
    last = datetime.combine(trigger.window[1], datetime.min.time(), UTC)
    tests = timedelta(days=spec.gap_days + spec.test_days, weeks=max(spec.horizons_weeks))
    end = last - timedelta(days=policy.maturity_days) - tests
    start, stop = trigger.window
    return dict(base) | {
        "train_end": f"{end:%Y-%m-%d}",
        "until": as_of.isoformat(),
        "run_id": trigger.trigger,
        "champion": "",
        "author": "monitor",
        "trigger": trigger.trigger,
        "trigger_window": f"{start}/{stop}",
        "trigger_reason": trigger.reason,
    }


def start(
    log: DriftLog,
    settings: Settings,
    policy: DriftPolicy,
    base: Mapping[str, Any],
    *,
    as_of: datetime,
) -> list[Started]:
    """Start the runs of triggers that have none, and finish local ones that died.

    In Kubeflow Pipelines where one is named, else on this machine, where it takes as long as
    training does.

    Args:
        log: Holds the triggers.
        settings: Where runs go.
        policy: Says when labels are final.
        base: Arguments of an earlier run.
        as_of: As in `arguments_of`.

    Raises:
        BrewhouseError: A run failed; start again when its cause is gone.
    """
    done = []
    for trigger in log.triggers():
        arguments = arguments_of(trigger, base, policy, as_of=as_of)
        if settings.kfp_host:
            if trigger.run:
                continue
            run = submit(
                PIPELINE,
                arguments,
                host=settings.kfp_host,
                experiment=EXPERIMENT,
                run_name=trigger.trigger,
            )
            kept = log.started(trigger.trigger, run)
            done.append(Started(trigger=trigger.trigger, run=kept, fresh=True))
        elif found := _run_here(log, settings, trigger, arguments):
            done.append(found)
    return done


def local_folder(settings: Settings, trigger: str) -> Path:
    """Where the run of a trigger keeps its files on this machine."""
    return settings.home / "retrains" / trigger


def _run_here(
    log: DriftLog, settings: Settings, trigger: Trigger, arguments: dict[str, Any]
) -> Started | None:
    folder = local_folder(settings, trigger.trigger)
    if trigger.run and (not trigger.run.startswith("local:") or (folder / DONE).is_file()):
        return None
    with _alone(folder) as first:
        if not first or (folder / DONE).is_file():
            return None
        plan = folder / "arguments.json"
        if not plan.is_file():
            # A run that goes on must be told what it was told first.
            write_json(plan, arguments | _places(folder, settings, arguments))
        run = log.started(trigger.trigger, f"local:{folder}")
        run_local(
            PIPELINE,
            read_json(plan),
            LocalRun(out=folder, cache_key=trigger.trigger),
            marker=MARKER,
        )
        write_json(folder / DONE, {"trigger": trigger.trigger, "run": run})
    return Started(trigger=trigger.trigger, run=run, fresh=not trigger.run)


def _places(folder: Path, settings: Settings, arguments: Mapping[str, Any]) -> dict[str, str]:
    """A run's own folders; registry and store stay those of the deployment."""
    return {
        "workspace": str(folder / "training"),
        "publish_to": str(folder / "evidence"),
        "home": str(settings.home),
        "tracking_uri": settings.tracking_uri,
        "model_store": str(arguments.get("model_store") or settings.home / "models"),
    }


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether no other process of this machine is at the run."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
