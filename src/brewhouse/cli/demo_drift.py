"""`brewhouse demo-drift`: a world that changes, a monitor that notices, one retraining."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from datetime import date, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from brewhouse.cli.console import emit
from brewhouse.cli.data import Json

PRESET = "drift"
RELEASED = date(2024, 3, 14)
"""Day until which the first version sees the world; matches lose their worth from week 14 on."""
AGAIN = 5


def demo_drift(
    out: Annotated[Path, typer.Option(help="Home folder; the same folder again goes on")] = (
        Path("runs/demo-drift")
    ),
    seed: Annotated[int, typer.Option(help="Seed of the world")] = 11,
    preset: Annotated[str, typer.Option(help="Simulated world with a shift")] = PRESET,
    released: Annotated[
        str, typer.Option(help="Day until which the first version sees the world")
    ] = RELEASED.isoformat(),
    weeks: Annotated[int, typer.Option(min=1, help="Weeks that the monitor watches at most")] = 12,
    policy: Annotated[str, typer.Option(help="Drift policy: a name or a YAML file")] = "default",
    as_json: Json = False,
) -> None:
    """Plant drift, watch it week by week until a retraining is ordered, and show that it is one."""
    from brewhouse.cli.runs import run
    from brewhouse.data.splits import parse_day
    from brewhouse.drift.policy import load_drift_policy
    from brewhouse.release.settings import Settings
    from brewhouse.stages import features, importing, monitor_step, monitoring
    from brewhouse.stages.common import tell

    day, rules = parse_day(released).date(), load_drift_policy(policy)
    out, settings = out.resolve(), Settings.read(out)
    with redirect_stdout(sys.stderr):
        if not _champion(settings):
            run(domain="linkedin", out=out, preset=preset, seed=seed, until=f"{day}")
            _release(settings)
        world, filled = out / "world", out / "world-features"
        if not (world / "manifest.json").is_file():
            importing.run(
                domain="linkedin",
                source="",
                preset=preset,
                seed=seed,
                snapshot_out=world,
                oracle_out=out / "world-oracle",
            )
        if not (filled / features.ABOUT).is_file():
            features.run(domain="linkedin", snapshot=world, features_out=filled)
        log = monitoring.open_log(settings)

        def watch(moment: date) -> dict[str, Any]:
            return monitor_step.run(
                domain="linkedin",
                data=monitor_step.DataPlace(snapshot=world, features=filled),
                policy=rules,
                settings=settings,
                store=out / "observations",
                out=out / "drift",
                as_of=parse_day(moment.isoformat()),
            )

        last, week = day, 0
        while not log.triggers() and week < weeks:
            week += 1
            last = day + timedelta(weeks=week)
            tell(f"as of {last}")
            watch(last)
        before = _counts(log, settings)
        # A monitor that died before its trigger's run was there starts it now.
        watch(last)
        once = _counts(log, settings)
        for _ in range(AGAIN):
            watch(last)
        after = _counts(log, settings)
    found = {
        "incidents": [k.incident.key for k in log.incidents()],
        "triggers": [t.trigger for t in log.triggers()],
        "runs": [t.run for t in log.triggers()],
        "before": before,
        "after_once_more": once,
        f"after_{AGAIN}_times_more": after,
        "versions": _states(settings),
        "page": str(out / "drift" / monitor_step.SUMMARY),
    }
    emit(found, as_json, lambda: _show(found))


def _champion(settings: Any) -> str:
    from brewhouse.platform.tracking import champion_of

    kept = champion_of(settings.tracking_uri, settings.model_name)
    return kept.version if kept else ""


def _release(settings: Any) -> None:
    """What two persons do: approve the first version, and order its promotion."""
    from brewhouse.registry.approvals import Actor
    from brewhouse.registry.lifecycle import Act, State
    from brewhouse.release.running import run_promotion
    from brewhouse.release.service import Release
    from brewhouse.release.settings import whoami

    release, actor = Release(settings), Actor(name=whoami(), via="cli")
    newest = release.versions()[0]
    why = "first version of the drift demo"
    if newest.state is State.PENDING_APPROVAL:
        newest = release.decide(Act.APPROVE, newest.version, actor, reason=why)
    if newest.entries[-1].act == Act.APPROVE:
        release.decide(Act.ORDER, newest.version, actor, reason=why)
    run_promotion(settings, newest.version)


def _counts(log: Any, settings: Any) -> dict[str, int]:
    return {
        "windows": len(log.evaluations()),
        "incidents": len(log.incidents(live=False)),
        "triggers": len(log.triggers()),
        "versions": len(_states(settings)),
    }


def _states(settings: Any) -> dict[str, str]:
    from brewhouse.release.service import Release

    return {v.version: v.state.value for v in Release(settings).versions()}


def _show(found: dict[str, Any]) -> None:
    typer.echo(f"incidents   {', '.join(found['incidents']) or 'none'}")
    for trigger, run in zip(found["triggers"], found["runs"], strict=True):
        typer.echo(f"retraining  {trigger}: {run}")
    for version, state in sorted(found["versions"].items()):
        typer.echo(f"version     {version} {state}")
    again = found[f"after_{AGAIN}_times_more"]
    same = "the same" if again == found["after_once_more"] else f"now {again}"
    typer.echo(f"run again   {AGAIN} times: {same}")
    typer.echo(f"page        {found['page']}")
