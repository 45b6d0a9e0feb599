"""`brewhouse drift run|status|ack|snooze|resolve|dismiss|retrain|replay`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brewhouse.cli.console import emit, number, table
from brewhouse.cli.data import Domain, Json
from brewhouse.cli.release import Home, Reason

if TYPE_CHECKING:
    from brewhouse.drift.policy import DriftPolicy
    from brewhouse.drift.replay import Replay
    from brewhouse.platform.drift_log import DriftLog
    from brewhouse.release.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Watch the version in use; answer its incidents.")
Policy = Annotated[str, typer.Option(help="Drift policy: a name or a YAML file")]
Incident = Annotated[int, typer.Argument(help="Number, as `brewhouse drift status` lists them")]
Version = Annotated[str, typer.Option(help="champion, or a version's number")]
Arguments = Annotated[
    Path | None,
    typer.Option(
        help="YAML file with arguments of train_and_evaluate; those of the home folder's last "
        "`brewhouse run` if empty"
    ),
]


def _policy(name: str) -> DriftPolicy:
    from brewhouse.drift.policy import load_drift_policy

    return load_drift_policy(name)


def _open(home: str) -> tuple[Settings, DriftLog]:
    from brewhouse.release.settings import Settings
    from brewhouse.stages.monitoring import open_log

    settings = Settings.read(home)
    return settings, open_log(settings)


def _moment(text: str) -> datetime | None:
    from brewhouse.data.splits import parse_day

    return parse_day(text) if text else None


@app.command("run")
def run(
    domain: Domain,
    snapshot: Annotated[
        Path | None, typer.Option(help="Snapshot folder of the newest import")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="Feature folder of the snapshot; filled anew if empty")
    ] = None,
    source: Annotated[
        str, typer.Option(help="In place of a snapshot: the domain's files, imported now")
    ] = "",
    policy: Policy = "default",
    version: Version = "champion",
    as_of: Annotated[
        str,
        typer.Option(help="Judge what was over then, on the log as it was, ISO 8601; now if empty"),
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="Folder for pages and metrics; HOME/drift if empty")
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder that keeps observed days; HOME/observations if empty"),
    ] = None,
    scoring: Annotated[
        Path | None, typer.Option(help="YAML file with how requests are scored")
    ] = None,
    retrain: Annotated[
        bool, typer.Option(help="Start the runs that triggers order; they stand otherwise")
    ] = True,
    arguments: Arguments = None,
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Judge every window of the version in use that is over; open incidents, order retrainings."""
    from brewhouse.domains.loader import read_yaml
    from brewhouse.errors import ConfigError
    from brewhouse.stages import monitor_step
    from brewhouse.stages.scoring import ScoringPlan

    if (snapshot is None) == (not source):
        msg = "give --snapshot, or --source to import from, not both or neither"
        raise ConfigError(msg)
    settings, _ = _open(home)
    data = monitor_step.DataPlace(snapshot=snapshot, features=features, source=source)
    plan = ScoringPlan.of(read_yaml(scoring)[0] if scoring else None)
    # Libraries talk on stdout, which is for the result alone.
    with redirect_stdout(sys.stderr):
        found = monitor_step.run(
            domain=domain,
            data=data,
            policy=_policy(policy),
            settings=settings,
            store=store or settings.home / "observations",
            out=out or settings.home / "drift",
            version=version,
            as_of=_moment(as_of),
            scoring=plan,
            arguments=_read(arguments),
            retrain=retrain,
        )
    emit(found, as_json, lambda: _show_run(found))


def _read(path: Path | None) -> dict[str, Any] | None:
    from brewhouse.domains.loader import read_yaml
    from brewhouse.errors import ConfigError

    if path is None:
        return None
    found = read_yaml(path)[0]
    if not isinstance(found, dict) or not found:
        msg = f"{path} holds no arguments; write one `name: value` a line, `domain` among them"
        raise ConfigError(msg)
    return found


def _show_run(found: dict[str, Any]) -> None:
    typer.echo(f"watched     version {found['version']} by {found['policy']}")
    for one in found["evaluations"]:
        start, end = one["window"]
        typer.echo(f"  {start} to {end}  {one['outcome']}")
        for told in one["told"]:
            if told["finding"] in ("open", "over"):
                typer.echo(f"    {told['finding']:<5} {told['reason']}")
        for reason in one["held"]:
            typer.echo(f"    not trained again: {reason}")
    if not found["evaluations"]:
        typer.echo("  no window is over that was not judged")
    for one in found["started"]:
        typer.echo(f"started     {one['run']} for {one['trigger']}")
    typer.echo(f"next        {found['next']}")
    typer.echo(f"incidents   {found['incidents']} open")
    typer.echo(f"page        {found['page']}")


@app.command("status")
def status(
    home: Home = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Incidents that are resolved too")
    ] = False,
    as_json: Json = False,
) -> None:
    """List incidents, retrainings that were ordered, and when the last window was judged."""
    _, log = _open(home)
    kept, triggers = log.incidents(live=not everything), log.triggers()
    judged = log.evaluations()
    value = {
        "incidents": [{"number": k.number, **asdict(k.incident)} for k in kept],
        "triggers": [asdict(t) for t in triggers],
        "last": judged[-1] if judged else None,
    }

    def show() -> None:
        rows = [
            [
                str(k.number),
                k.incident.severity.value,
                k.incident.status.value,
                k.incident.version,
                k.incident.key,
                str(k.incident.opened),
            ]
            for k in kept
        ]
        table("incidents", ["number", "severity", "status", "version", "signal", "since"], rows, 6)
        for t in triggers:
            typer.echo(f"trigger   {t.trigger}  {t.window[1]}  {t.run or 'no run yet'}: {t.reason}")
        if judged:
            typer.echo(f"last      {' to '.join(judged[-1]['window'])}: {judged[-1]['outcome']}")

    emit(value, as_json, show)


def _act(
    incident: int, what: str, reason: str, home: str, as_json: bool, until: date | None = None
) -> None:
    from brewhouse.drift.incidents import Step
    from brewhouse.registry.approvals import Actor
    from brewhouse.release.incidents import handle
    from brewhouse.release.settings import whoami

    settings, log = _open(home)
    actor = Actor(name=whoami(), via="cli")
    kept = handle(log, settings, actor, incident, Step(what), reason=reason, until=until)
    emit(
        {"number": kept.number, **asdict(kept.incident)},
        as_json,
        lambda: typer.echo(
            f"incident {kept.number}  {kept.incident.key}: {kept.incident.status}"
            + (f" until {kept.incident.until}" if kept.incident.until else "")
        ),
    )


@app.command("ack")
def ack(incident: Incident, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Say that you are at it; its alert falls silent."""
    _act(incident, "acknowledge", reason, home, as_json)


@app.command("snooze")
def snooze(
    incident: Incident,
    until: Annotated[str, typer.Option(help="Last quiet day, YYYY-MM-DD")],
    reason: Reason,
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Silence an incident until a day; it opens again then, unless its signal has calmed."""
    from brewhouse.data.splits import parse_day

    moment = parse_day(until)
    _act(incident, "snooze", reason, home, as_json, until=moment.date())


@app.command("resolve")
def resolve(incident: Incident, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Close an incident whose cause is gone; it opens anew if its signal stays open."""
    _act(incident, "resolve", reason, home, as_json)


@app.command("dismiss")
def dismiss(incident: Incident, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Call an incident noise: quiet until its signal was calm once, and its threshold is raised."""
    _act(incident, "dismiss", reason, home, as_json)


@app.command("retrain")
def retrain(
    reason: Annotated[
        str, typer.Option(help="Order a retraining yourself, and say why; else what stands starts")
    ] = "",
    policy: Policy = "default",
    version: Version = "champion",
    as_of: Annotated[str, typer.Option(help="Train on the log as it was then; all if empty")] = "",
    arguments: Arguments = None,
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Start the runs of triggers that have none; each gets one, however often this is called."""
    from brewhouse.registry.approvals import Actor
    from brewhouse.release import retraining
    from brewhouse.release.incidents import order
    from brewhouse.release.settings import whoami
    from brewhouse.release.watching import watched_number

    settings, log = _open(home)
    moment = _moment(as_of) or datetime.now(UTC)
    base = retraining.run_arguments(settings, _read(arguments))
    with redirect_stdout(sys.stderr):
        if reason:
            number = watched_number(settings, version)
            actor = Actor(name=whoami(), via="cli")
            order(log, settings, actor, number, moment.date(), reason=reason)
        found = retraining.start(log, settings, _policy(policy), base, as_of=moment)
    emit(
        [asdict(one) for one in found],
        as_json,
        lambda: typer.echo(
            "\n".join(f"{one.trigger}  {one.run}" for one in found)
            or "no trigger stands without its run"
        ),
    )


@app.command("replay")
def replay(
    policy: Policy = "default",
    against: Annotated[
        str, typer.Option(help="Another policy, to see both on the same windows")
    ] = "",
    version: Version = "champion",
    windows: Annotated[
        Path | None,
        typer.Option(help="JSON file of windows, in place of those that the monitor measured"),
    ] = None,
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Show when a policy would have fired on past windows, what it cost and what it saved."""
    from brewhouse.stages import replaying

    settings, log = _open(home)
    past = replaying.past(log, settings, version, windows)
    found = {
        name: replaying.run(_policy(name), past)
        for name in dict.fromkeys([policy, against])
        if name
    }
    emit(
        {name: replaying.to_json(one) for name, one in found.items()},
        as_json,
        lambda: _show_replays(found),
    )


@app.command("ageing")
def ageing(
    domain: Domain,
    out: Annotated[Path, typer.Option(help="Work folder; the same folder again goes on")],
    train_end: Annotated[
        list[str], typer.Option(help="End of a model's training, YYYY-MM-DD; repeatable")
    ],
    until: Annotated[str, typer.Option(help="Day after which nothing is asked")],
    source: Annotated[str, typer.Option(help="Folder with the domain's files")] = "",
    preset: Annotated[str, typer.Option(help="Simulate a world in place of a source")] = "",
    quarters: Annotated[int, typer.Option(min=2, help="Quarters of each model at most")] = 12,
    model: Annotated[
        str, typer.Option(help="What the first model starts from; later ones from the one before")
    ] = "tiny",
    tokens: Annotated[int, typer.Option(help="Token budget of fine-tuning")] = 2_000_000,
    first_tokens: Annotated[int, typer.Option(help="The same of the first model")] = 4_000_000,
    sessions: Annotated[int, typer.Option(help="Test sessions of each model")] = 6000,
    processes: Annotated[int, typer.Option(min=1, help="Training processes")] = 2,
    policy: Policy = "default",
    as_json: Json = False,
) -> None:
    """Train models at several times, ask each quarter after quarter, replay a policy on them."""
    from brewhouse.stages import ageing as study

    plan = study.Ageing(
        domain=domain,
        source=str(Path(source).resolve()) if source else "",
        preset=preset,
        train_ends=tuple(train_end),
        until=until,
        quarters=quarters,
        model=model,
        tokens=tokens,
        first_tokens=first_tokens,
        sessions=sessions,
        processes=processes,
    )
    with redirect_stdout(sys.stderr):
        found = study.run(plan, _policy(policy), out.resolve())
    emit(found, as_json, lambda: typer.echo(f"page        {out / 'ageing.html'}"))


def _show_replays(found: dict[str, Replay]) -> None:
    for name, one in found.items():
        _show_replay(name, one)


def _show_replay(name: str, found: Replay) -> None:
    rows = []
    for one in found.evaluations:
        auc = next((t.reason for t in one.told if t.key == "performance/auc"), "")
        rows.append([str(one.window[1]), one.outcome.value, str(len(one.open)), auc[:90]])
    table(f"{name}: windows", ["until", "outcome", "open", "mean AUC"], rows, 4)
    for key, days in sorted(found.incidents.items()):
        typer.echo(f"incident    {key}: {', '.join(str(d) for d in days)}")
    for fired in found.fired:
        typer.echo(f"fires       {fired.day}: {fired.reason}")
    if found.decay:
        low, high = found.decay.slope_interval
        typer.echo(
            f"decay       {1000 * found.decay.slope:+.2f} per 1000 a week "
            f"({1000 * low:+.2f} to {1000 * high:+.2f})"
        )
    typer.echo(f"cost        {found.cost:.2f}, saved {number(found.saved, 2)}")
