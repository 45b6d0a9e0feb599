"""`brewhouse pipeline`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from brewhouse.cli.console import emit
from brewhouse.cli.data import Json
from brewhouse.errors import ConfigError

app = typer.Typer(no_args_is_help=True, help="KFP pipelines: compile, run here, submit.")
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
    as_json: Json = False,
) -> None:
    """Run a pipeline on this machine with explicit arguments."""
    from brewhouse.platform.pipelines import LocalRun, run_local
    from brewhouse.stages.common import TOLD, code_version

    run_local(
        name, _parse(arg or []), LocalRun(out=out.resolve(), cache_key=code_version()), marker=TOLD
    )
    emit({"pipeline": name, "out": str(out)}, as_json, lambda: typer.echo(str(out)))


@app.command("submit")
def submit(
    name: Name,
    host: Annotated[str, typer.Option(envvar="BREWHOUSE_KFP_HOST", help="KFP API server")],
    run_name: Annotated[str, typer.Option(help="Name; an existing run of it is returned")],
    experiment: Annotated[str, typer.Option(help="Experiment")] = "brewhouse",
    arg: Arguments = None,
    as_json: Json = False,
) -> None:
    """Submit a run to a cluster."""
    from brewhouse.platform.pipelines import submit as send

    run_id = send(name, _parse(arg or []), host=host, experiment=experiment, run_name=run_name)
    emit({"run_id": run_id}, as_json, lambda: typer.echo(run_id))


@app.command("schedule")
def schedule(
    name: Name,
    host: Annotated[str, typer.Option(envvar="BREWHOUSE_KFP_HOST", help="KFP API server")],
    job_name: Annotated[str, typer.Option(help="Name; an existing recurring run is returned")],
    cron: Annotated[
        str, typer.Option(help="Six fields, seconds first; every morning at six by default")
    ] = "0 0 6 * * *",
    experiment: Annotated[str, typer.Option(help="Experiment")] = "brewhouse",
    arg: Arguments = None,
    as_json: Json = False,
) -> None:
    """Have a cluster run a pipeline again and again, such as monitor every morning."""
    from brewhouse.platform.pipelines import schedule as send

    found = send(
        name, _parse(arg or []), host=host, experiment=experiment, job_name=job_name, cron=cron
    )
    emit({"recurring_run_id": found}, as_json, lambda: typer.echo(found))


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
