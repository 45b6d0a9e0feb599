"""`brewhouse pipeline`."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brewhouse.cli.console import emit
from brewhouse.cli.data import Json
from brewhouse.errors import ConfigError, PipelineError

if TYPE_CHECKING:
    from brewhouse.platform.kubeflow import Kubeflow
    from brewhouse.platform.kubeflow_runs import Run

app = typer.Typer(no_args_is_help=True, help="Pipelines: compile, run here, run in a cluster.")
Host = Annotated[str, typer.Option(envvar="BREWHOUSE_KFP_HOST", help="KFP API server, https://...")]
Namespace = Annotated[
    str, typer.Option(help="Namespace of the run where KFP is multi-user; BREWHOUSE_KFP_NAMESPACE")
]
Account = Annotated[str, typer.Option(help="Service account of the steps, if not the pipeline's")]
Root = Annotated[str, typer.Option(help="URI under which steps keep artifacts")]
Experiment = Annotated[str, typer.Option(help="Experiment")]
Package = Annotated[
    Path | None, typer.Option(help="Compiled pipeline, such as a release's; compiled anew if empty")
]
ArgumentsFile = Annotated[
    Path | None, typer.Option(help="YAML file with arguments; --arg goes before it")
]
RunOption = Annotated[str, typer.Argument(help="Name or id of the run")]
Name = Annotated[str, typer.Argument(help="Pipeline name, such as train_and_evaluate")]
Arguments = Annotated[list[str] | None, typer.Option("--arg", help="name=value, repeatable")]


@app.command("compile")
def compile_(
    name: Name, out: Annotated[Path, typer.Option(help="YAML file to write")], as_json: Json = False
) -> None:
    """Compile a pipeline to YAML."""
    from brewhouse.platform.pipelines import compile_pipeline

    path = compile_pipeline(name, out)
    emit({"pipeline": name, "path": str(path)}, as_json, lambda: typer.echo(str(path)))


@app.command("run")
def run(
    name: Name,
    out: Annotated[Path, typer.Option(help="Run folder")],
    arg: Arguments = None,
    arguments: ArgumentsFile = None,
    containers: Annotated[
        bool, typer.Option("--containers", help="Each step in a container of its image")
    ] = False,
    network: Annotated[str, typer.Option(help="Of containers: none, host, or a network")] = "none",
    as_json: Json = False,
) -> None:
    """Run a pipeline on this machine with explicit arguments."""
    from brewhouse.platform.containers import ContainerPlan
    from brewhouse.platform.pipelines import LocalRun, run_local
    from brewhouse.stages.common import TOLD, code_version

    run_local(
        name,
        _told(arguments, arg),
        LocalRun(out=out.resolve(), cache_key=code_version()),
        marker=TOLD,
        containers=ContainerPlan(network=network) if containers else None,
    )
    emit({"pipeline": name, "out": str(out)}, as_json, lambda: typer.echo(str(out)))


@app.command("submit")
def submit(
    name: Name,
    host: Host,
    run_name: Annotated[str, typer.Option(help="Name; an existing run of it is returned")],
    experiment: Experiment = "brewhouse",
    arg: Arguments = None,
    arguments: ArgumentsFile = None,
    package: Package = None,
    fresh: Annotated[bool, typer.Option(help="Take no step from what other runs finished")] = False,
    namespace: Namespace = "",
    service_account: Account = "",
    pipeline_root: Root = "",
    as_json: Json = False,
) -> None:
    """Start a run in a cluster, once: the same name again returns the run that is there."""
    from brewhouse.platform.kubeflow_orders import Order

    order = Order(
        pipeline=_known(name),
        arguments=_told(arguments, arg),
        run_name=run_name,
        experiment=experiment,
        package=package,
        fresh=fresh,
    )
    client = _client(host, namespace, service_account, pipeline_root)
    with redirect_stdout(sys.stderr):
        run = client.submit(order)
    if not run.fresh and run.arguments != dict(order.arguments):
        differ = sorted(
            key
            for key in {*run.arguments, *order.arguments}
            if run.arguments.get(key) != order.arguments.get(key)
        )
        msg = (
            f"run '{run_name}' is there already ({run.id}) with another {', '.join(differ)}; "
            "give this one a name of its own"
        )
        raise ConfigError(msg)
    emit({"run_id": run.id, "started": run.fresh}, as_json, lambda: typer.echo(run.id))


@app.command("status")
def status(
    run: RunOption,
    host: Host,
    namespace: Namespace = "",
    follow: Annotated[bool, typer.Option(help="Tell every change until the run has ended")] = False,
    as_json: Json = False,
) -> None:
    """Tell how a run and its steps stand; ends with 11 if the run has failed."""
    from dataclasses import asdict

    client = _client(host, namespace)
    found = client.find(run)
    if follow:
        for latest in client.follow(found.id, every_s=10.0):
            found = latest
            if not (as_json or found.finished):
                _show_run(found)
    emit(asdict(found), as_json, lambda: _show_run(found))
    if found.state == "FAILED":
        raise typer.Exit(PipelineError.exit_code)


@app.command("logs")
def logs(
    run: RunOption,
    step: Annotated[str, typer.Option(help="Step, as `brewhouse pipeline status` lists them")],
    host: Host,
    namespace: Namespace = "",
) -> None:
    """Print what a step wrote."""
    client = _client(host, namespace)
    with redirect_stdout(sys.stderr):
        lines = list(client.logs(client.find(run), step))
    typer.echo("\n".join(lines))


@app.command("cancel")
def cancel(run: RunOption, host: Host, namespace: Namespace = "", as_json: Json = False) -> None:
    """Stop a run; its TrainJob is deleted by the step that follows it."""
    client = _client(host, namespace)
    with redirect_stdout(sys.stderr):
        found = client.cancel(client.find(run))
    emit(
        {"run_id": found.id, "state": found.state},
        as_json,
        lambda: typer.echo(f"{found.id}  {found.state}"),
    )


@app.command("schedule")
def schedule(
    name: Name,
    host: Host,
    job_name: Annotated[str, typer.Option(help="Name; an existing recurring run is returned")],
    cron: Annotated[
        str, typer.Option(help="Six fields, seconds first; every morning at six by default")
    ] = "0 0 6 * * *",
    experiment: Experiment = "brewhouse",
    arg: Arguments = None,
    arguments: ArgumentsFile = None,
    package: Package = None,
    namespace: Namespace = "",
    service_account: Account = "",
    pipeline_root: Root = "",
    as_json: Json = False,
) -> None:
    """Have a cluster run a pipeline again and again, such as monitor every morning."""
    from brewhouse.platform.kubeflow_orders import Order

    order = Order(
        pipeline=_known(name),
        arguments=_told(arguments, arg),
        run_name=job_name,
        experiment=experiment,
        package=package,
    )
    client = _client(host, namespace, service_account, pipeline_root)
    with redirect_stdout(sys.stderr):
        found = client.schedule(order, cron)
    emit({"recurring_run_id": found}, as_json, lambda: typer.echo(found))


@app.command("unschedule")
def unschedule(
    job_name: Annotated[str, typer.Argument(help="Name of the recurring run")],
    host: Host,
    experiment: Experiment = "brewhouse",
    namespace: Namespace = "",
    as_json: Json = False,
) -> None:
    """End a recurring run; runs that it started go on."""
    client = _client(host, namespace)
    with redirect_stdout(sys.stderr):
        ended = client.unschedule(job_name, experiment)
    if not ended:
        msg = f"experiment {experiment} has no recurring run '{job_name}' at {host}"
        raise PipelineError(msg)
    emit({"recurring_run_id": ended}, as_json, lambda: typer.echo(ended))


def _client(host: str, namespace: str, service_account: str = "", root: str = "") -> Kubeflow:
    from brewhouse.platform.kubeflow import Kubeflow, Place

    place = Place.read(
        host, namespace=namespace, service_account=service_account, pipeline_root=root
    )
    return Kubeflow(place, tell=lambda line: typer.echo(line, err=True))


def _known(name: str) -> str:
    from brewhouse.platform.pipelines import load_pipeline

    load_pipeline(name)
    return name


def _told(path: Path | None, pairs: list[str] | None) -> dict[str, Any]:
    """Arguments of a YAML file, each replaced by one of the command line."""
    found: dict[str, Any] = {}
    if path is not None:
        from brewhouse.domains.loader import read_yaml

        value, _ = read_yaml(path)
        if not isinstance(value, dict):
            msg = f"{path} holds no names with values; write one `name: value` a line"
            raise ConfigError(msg)
        found |= value
    return found | _parse(pairs or [])


def _show_run(run: Run) -> None:
    typer.echo(f"run       {run.id}  {run.name}")
    typer.echo(f"state     {run.state}{': ' + run.error if run.error else ''}")
    for task in run.tasks:
        took = f"{task.seconds:.0f} s" if task.seconds is not None else ""
        why = f"  {task.error}" if task.error else ""
        typer.echo(f"  {task.state:<10} {task.name:<20} {took}{why}")


def _parse(pairs: list[str]) -> dict[str, Any]:
    """Read name=value; values that are JSON are taken as such."""
    out: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            msg = f"argument '{pair}' has no '='; write name=value"
            raise ConfigError(msg)
        try:
            out[name] = json.loads(value)
        except json.JSONDecodeError:
            out[name] = value
    return out
