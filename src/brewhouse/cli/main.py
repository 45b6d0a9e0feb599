"""Entry point: commands parse and print, everything else is in the package.

Nothing heavy is imported here, so that `brewhouse --help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from brewhouse import __version__, offline
from brewhouse.cli import (
    data,
    demo_drift,
    doctor,
    drift,
    gate,
    housekeeping,
    pipeline,
    release,
    runs,
    score,
    serve,
    studies,
    tasks,
)
from brewhouse.errors import BrewhouseError

app = typer.Typer(
    name="brewhouse",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Train, judge, release and watch one foundation ranking model.",
    epilog="Exit codes: 0 done, 2 configuration, 3 data, 4 validation blocked, 5 leak, 6 prompt, "
    "7 model, 8 training, 9 gate, 10 registry, 11 pipeline, 12 not permitted, 13 tampered with, "
    "14 cluster or service lacks something.",
)
app.add_typer(data.domain_app, name="domain")
app.add_typer(data.app, name="data")
app.add_typer(tasks.app, name="tasks")
app.add_typer(gate.app, name="gate")
app.add_typer(studies.app, name="studies")
app.add_typer(pipeline.app, name="pipeline")
app.add_typer(release.app, name="ledger")
app.add_typer(drift.app, name="drift")
for _command in (
    release.candidates,
    release.show,
    release.approve,
    release.reject,
    release.waive,
    release.promote,
    release.rollback,
):
    app.command(_command.__name__)(_command)
app.command("run")(runs.run)
app.command("demo")(runs.demo)
app.command("demo-drift")(demo_drift.demo_drift)
app.command("train")(runs.train)
app.command("baselines")(runs.baselines)
app.command("evaluate")(runs.evaluate)
app.command("pretrain")(runs.pretrain)
app.command("score")(score.score)
app.command("console")(serve.console)
app.command("inference-service")(serve.inference_service)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    offline.silence()


app.command("doctor")(doctor.doctor)
app.command("gc")(housekeeping.gc)


def main() -> None:
    """Run the command line; an expected error is one message and its exit code, no traceback."""
    try:
        app()
    except BrewhouseError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("stopped; start the same command again to go on\n")
        sys.exit(130)
