"""`brewhouse gate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brewhouse.cli.console import emit
from brewhouse.cli.data import Json

app = typer.Typer(no_args_is_help=True, help="Results and a policy in, a reasoned verdict out.")
_EXIT = {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 3}


@app.command("check")
def check(
    results: Annotated[Path, typer.Argument(help="results.json of the candidate")],
    policy: Annotated[str, typer.Option(help="default, strict, smoke, or a YAML file")] = "default",
    champion: Annotated[Path | None, typer.Option(help="results.json of the model in use")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for verdict.json and report.html")
    ] = None,
    as_json: Json = False,
) -> None:
    """Apply a policy; exits with 0 for PASS, 1 for FAIL, 3 for INCONCLUSIVE."""
    from brewhouse.evaluation.results import Results
    from brewhouse.files import write_json
    from brewhouse.gates.policy import load_policy
    from brewhouse.gates.verdict import decide
    from brewhouse.reporting.report import write_report

    ours = Results.read(results)
    theirs = Results.read(champion) if champion else None
    verdict = decide(load_policy(policy), ours, theirs)
    value = verdict.model_dump(mode="json")
    if out:
        write_json(out / "verdict.json", value)
        write_report(ours, out / "report.html", verdict=verdict, champion=theirs)
    emit(value, as_json, lambda: typer.echo("\n".join(verdict.lines())))
    raise typer.Exit(_EXIT[verdict.outcome.value])


@app.command("explain")
def explain(
    verdict: Annotated[Path, typer.Argument(help="verdict.json")], as_json: Json = False
) -> None:
    """Tell each rule of a verdict: what it asks, what was found, and every task it looked at."""
    from brewhouse.gates.verdict import read_verdict, told_rule

    found = read_verdict(verdict)

    def show() -> None:
        typer.echo(f"{found.outcome} by {found.policy}")
        typer.echo(f"results  {found.results_digest}")
        typer.echo(f"champion {found.champion_digest or 'none'}")
        for one in found.rules:
            typer.echo(f"\n{one.outcome}  {told_rule(one.rule)}")
            typer.echo(f"  {one.reason}")
            for line in one.details:
                typer.echo(f"    {line}")

    emit(found.model_dump(mode="json"), as_json, show)
