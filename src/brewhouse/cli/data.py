"""`brewhouse domain` and `brewhouse data`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from brewhouse.cli.console import emit

domain_app = typer.Typer(no_args_is_help=True, help="Data worlds described by YAML.")
app = typer.Typer(no_args_is_help=True, help="Import and validate data.")
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout")]
Domain = Annotated[str, typer.Option(help="Built-in domain or folder with a domain.yaml")]


@domain_app.command("ls")
def list_domains(as_json: Json = False) -> None:
    """List the built-in domains."""
    from brewhouse.domains.loader import BUILT_IN, load_domain

    found = {name: load_domain(name).domain.description for name in BUILT_IN}
    emit(
        found,
        as_json,
        lambda: typer.echo("\n".join(f"{name:14} {text}" for name, text in found.items())),
    )


@domain_app.command("validate")
def validate_domain(path: str, as_json: Json = False) -> None:
    """Check a domain folder: domain.yaml, tasks/*.yaml, templates, answer words.

    Checks that every field is known and typed, templates name existing columns, surfaces and
    actions agree with the tasks, and that no two answers of a question share their first token.
    Usual mistakes: an action missing from `actions`, a column named in a template but not in
    `columns`, a T1 task on a surface with `in_training: false`.
    """
    from brewhouse.domains.loader import load_domain
    from brewhouse.prompts.questions import build_questions, check_answer_words
    from brewhouse.tasks.suite import load_suite

    folder = load_domain(path)
    suite = load_suite(folder)
    book = build_questions(folder.domain, suite)
    check_answer_words(book)
    value = {
        "domain": folder.domain.name,
        "version": folder.domain.version,
        "digest": folder.digest,
        "surfaces": len(folder.domain.surfaces),
        "tasks": len(suite.tasks),
        "questions": len(book.questions),
    }
    emit(
        value,
        as_json,
        lambda: typer.echo(
            f"{value['domain']} version {value['version']} is valid: {value['surfaces']} surfaces, "
            f"{value['tasks']} tasks, {value['questions']} questions"
        ),
    )


@app.command("import")
def import_data(
    domain: Domain,
    out: Annotated[Path, typer.Option(help="Snapshot folder to write")],
    source: Annotated[str, typer.Option(help="Folder with the domain's files")] = "",
    preset: Annotated[str, typer.Option(help="Simulate a world of this size instead")] = "",
    seed: Annotated[int, typer.Option(help="Seed of simulation and sampling")] = 7,
    oracle: Annotated[Path | None, typer.Option(help="Folder for a simulation's truth")] = None,
    as_json: Json = False,
) -> None:
    """Import a source folder, or a simulated world, into an immutable snapshot."""
    from brewhouse.files import refuse_foreign
    from brewhouse.stages import importing

    refuse_foreign(out, "manifest.json")
    with tempfile.TemporaryDirectory() as scratch:
        snapshot = importing.run(
            domain=domain,
            source=source,
            preset=preset,
            seed=seed,
            snapshot_out=out,
            oracle_out=oracle or Path(scratch),
        )
    emit(snapshot.manifest, as_json, lambda: typer.echo(f"{snapshot.digest} {out}"))


@app.command("validate")
def validate_data(
    domain: Domain,
    snapshot: Annotated[Path, typer.Option(help="Snapshot folder")],
    train_end: Annotated[str, typer.Option(help="End of training, for freshness")] = "",
    docs: Annotated[Path | None, typer.Option(help="Folder for Data Docs HTML")] = None,
    as_json: Json = False,
) -> None:
    """Check a snapshot; exit code 4 if a blocking rule is broken."""
    from brewhouse.files import refuse_foreign
    from brewhouse.stages import validating

    if docs:
        refuse_foreign(docs, "index.html")
    with tempfile.TemporaryDirectory() as scratch:
        findings = validating.run(
            domain=domain,
            snapshot=snapshot,
            train_end=train_end,
            report_out=Path(scratch) / "validation.json",
            docs_out=docs or Path(scratch) / "docs",
        )
    emit(
        [vars(f) for f in findings], as_json, lambda: typer.echo(f"valid, {len(findings)} warnings")
    )
