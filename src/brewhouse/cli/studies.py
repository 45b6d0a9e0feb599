"""`brewhouse studies`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brewhouse.cli.console import emit, table
from brewhouse.cli.data import Json

app = typer.Typer(no_args_is_help=True, help="The paper's figures as commands.")
Names = Annotated[
    list[str] | None,
    typer.Argument(
        help="data, model, history, out_of_domain, cold_start, temporal; all if none is named"
    ),
]
Preset = Annotated[str, typer.Option(help="tiny, demo, gpu, or a YAML file")]


@app.command("plan")
def plan(names: Names = None, preset: Preset = "demo", as_json: Json = False) -> None:
    """List what the studies train and evaluate; also the arguments of the pipeline `studies`."""
    from brewhouse.studies.plan import check_studies, evaluations, load_preset, trainings

    p, chosen = load_preset(preset), check_studies(names or [])
    models, asked = trainings(p, chosen), evaluations(p, chosen)
    value = {
        "preset": p.name,
        "names": chosen,
        "trainings": [m.model_dump(mode="json") for m in models],
        "evaluations": [e.model_dump(mode="json") for e in asked],
    }

    def show() -> None:
        tokens = [sum(s["tokens"] for s in m.options.get("stages", [])) for m in models]
        table(
            f"{len(models)} trainings of {sum(tokens):,} tokens",
            ["training", "model", "tokens"],
            [
                [m.name, str(m.options.get("model", p.base)), f"{n:,}"]
                for m, n in zip(models, tokens, strict=True)
            ],
            left=2,
        )
        table(
            f"{len(asked)} evaluations",
            ["evaluation", "training", "variant"],
            [[e.name, e.training, str(e.variant or "")] for e in asked],
            left=3,
        )

    emit(value, as_json, show)


@app.command("run")
def run(
    out: Annotated[Path, typer.Option(help="Folder; the same folder again goes on")],
    names: Names = None,
    preset: Preset = "demo",
    as_json: Json = False,
) -> None:
    """Run studies on this machine; trainings and evaluations that are there are not repeated."""
    from brewhouse.files import read_json
    from brewhouse.platform.pipelines import LocalRun, run_local
    from brewhouse.stages.common import TOLD, code_version
    from brewhouse.studies.plan import check_studies, evaluations, load_preset, trainings

    p, chosen = load_preset(preset), check_studies(names or [])
    out = out.resolve()
    run_local(
        "studies",
        {
            "preset": str(Path(preset).resolve()) if Path(preset).is_file() else preset,
            "work": str(out),
            "names": list(chosen),
            "trainings": [t.model_dump(mode="json") for t in trainings(p, chosen)],
            "evaluations": [e.model_dump(mode="json") for e in evaluations(p, chosen)],
        },
        LocalRun(out=out / "run", cache_key=code_version()),
        marker=TOLD,
    )
    found = read_json(out / "studies.json")

    def show() -> None:
        for one in found["findings"]:
            typer.echo(f"\n{one['title']}\n  {one['sentence']}")
            typer.echo(f"  paper: {one['paper']}\n  {one['agrees']}")
        typer.echo(f"\nreport {out / 'studies.html'}")

    emit(found, as_json, show)
