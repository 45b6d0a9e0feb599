"""From a trigger to one run of `train_and_evaluate`: it may train, it never promotes.

The run is looked for before it is started, by the trigger's id; wherever this dies, starting again
finds the run or makes it, never a second one.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from brewhouse.domains.loader import load_domain
from brewhouse.drift.policy import DriftPolicy
from brewhouse.errors import BrewhouseError, ConfigError, PipelineError
from brewhouse.files import read_json, write_json
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.drift_triggers import FAILED, SUCCEEDED, Trigger
from brewhouse.platform.kubeflow import Kubeflow, Place
from brewhouse.platform.kubeflow_orders import Order
from brewhouse.platform.pipelines import LocalRun, run_local
from brewhouse.release.running import MARKER, say
from brewhouse.release.settings import Settings

EXPERIMENT = "retrain"
PIPELINE = "train_and_evaluate"
ARGUMENTS = "run.json"
"""Arguments of the last `brewhouse run` of a home folder: what a retraining repeats."""
HERE = "local:"
"""Prefix of runs on a machine; the run's folder follows."""
_PINNED = ("train_end", "until")
"""What a run that goes on is told as it was told first: its data."""


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
    found = given if given else read_json(path)
    if not isinstance(found, Mapping):
        msg = f"arguments of a retraining are names with values, got {found!r:.80}"
        raise ConfigError(msg)
    if not isinstance(found.get("domain"), str):
        msg = f"arguments of a retraining need `domain`, got {', '.join(found) or 'nothing'}"
        raise ConfigError(msg)
    return dict(found)


def arguments_of(
    trigger: Trigger, base: Mapping[str, Any], policy: DriftPolicy, *, as_of: datetime
) -> dict[str, Any]:
    """Arguments of a trigger's run: as ever, on data until the trigger's window.

    Args:
        trigger: The order.
        base: Arguments of an earlier run.
        policy: Says when labels are final, where a person ordered it.
        as_of: What the log learned later is left out; aware.
    """
    spec = load_domain(str(base["domain"])).domain.defaults
    last = datetime.combine(trigger.window[1], datetime.min.time(), UTC)
    tests = timedelta(days=spec.gap_days + spec.test_days, weeks=max(spec.horizons_weeks))
    matured = policy.maturity_days if trigger.maturity_days is None else trigger.maturity_days
    end = last - timedelta(days=matured) - tests
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


def standing(log: DriftLog) -> list[Trigger]:
    """Triggers that still want something: a run, or that a run of this machine goes on."""
    return [t for t in log.triggers() if t.ended != SUCCEEDED and (not t.run or _is_local(t))]


def start(
    log: DriftLog,
    settings: Settings,
    policy: DriftPolicy,
    base: Mapping[str, Any],
    *,
    as_of: datetime,
    noted: Callable[[], None] = lambda: None,
) -> list[Started]:
    """Start the runs of triggers that have none, and finish local ones that died.

    In Kubeflow Pipelines where one is named, else on this machine, where it takes as long as
    training does. A run that another machine or another home folder began is left to it.

    Args:
        log: Holds the triggers.
        settings: Where runs go.
        policy: Says when labels are final, where a person ordered it.
        base: Arguments of an earlier run.
        as_of: As in `arguments_of`.
        noted: Called when a run is on record and has not ended.

    Raises:
        BrewhouseError: A run failed; start again when its cause is gone.
    """
    done = []
    for trigger in standing(log):
        arguments = arguments_of(trigger, base, policy, as_of=as_of)
        if settings.kfp_host:
            if trigger.run:
                continue
            order = Order(
                pipeline=PIPELINE,
                arguments=arguments,
                run_name=trigger.trigger,
                experiment=EXPERIMENT,
            )
            run = Kubeflow(Place.read(settings.kfp_host), tell=say).submit(order)
            kept = log.started(trigger.trigger, run.id)
            noted()
            done.append(Started(trigger=trigger.trigger, run=kept, fresh=True))
        elif found := _run_here(log, settings, trigger, arguments, noted):
            done.append(found)
    return done


def note_ends(log: DriftLog, settings: Settings) -> None:
    """Ask Kubeflow Pipelines how runs that were at work have ended, and note it.

    A server that does not answer changes nothing: what is at work stays so.
    """
    if not settings.kfp_host:
        return
    server = Kubeflow(Place.read(settings.kfp_host), tell=say, patience_s=15.0)
    for trigger in log.triggers():
        if not trigger.run or trigger.ended or _is_local(trigger):
            continue
        try:
            run = server.find(trigger.run)
        except PipelineError as error:
            say(f"{trigger.trigger}: {error}")
            return
        if run.finished:
            state = SUCCEEDED if run.state == SUCCEEDED else FAILED
            log.ended(trigger.trigger, state, f"{run.state}: {run.error}".rstrip(": "))
            say(f"{trigger.trigger}: run {run.id} has ended: {run.state}")


def _is_local(trigger: Trigger) -> bool:
    return trigger.run.startswith(HERE)


def local_folder(settings: Settings, trigger: str) -> Path:
    """Where the run of a trigger keeps its files on this machine."""
    return settings.home / "retrains" / trigger


def _run_here(
    log: DriftLog,
    settings: Settings,
    trigger: Trigger,
    arguments: dict[str, Any],
    noted: Callable[[], None],
) -> Started | None:
    folder = local_folder(settings, trigger.trigger)
    mine = f"{HERE}{folder}"
    if trigger.run not in ("", mine):
        say(f"{trigger.trigger}: {trigger.run} is at it; finish it from that home folder")
        return None
    with _alone(folder) as first:
        # Whoever held the folder before may have finished meanwhile.
        if not first or any(
            t.trigger == trigger.trigger and t.ended == SUCCEEDED for t in log.triggers()
        ):
            return None
        if (run := log.started(trigger.trigger, mine)) != mine:
            return None
        noted()
        plan = folder / "arguments.json"
        told = arguments | _places(folder, settings, arguments)
        if plan.is_file():
            known = read_json(plan)
            told |= {name: known[name] for name in _PINNED if name in known}
        write_json(plan, told)
        try:
            run_local(
                PIPELINE, told, LocalRun(out=folder, cache_key=trigger.trigger), marker=MARKER
            )
        except BrewhouseError as error:
            log.ended(trigger.trigger, FAILED, str(error)[:500])
            raise
        log.ended(trigger.trigger, SUCCEEDED)
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
