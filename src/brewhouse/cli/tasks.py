"""`brewhouse tasks`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from brewhouse.cli.console import emit, table
from brewhouse.cli.data import Domain, Json

app = typer.Typer(no_args_is_help=True, help="What the ranker is asked, as versioned YAML.")


@app.command("ls")
def list_tasks(domain: Domain = "linkedin", as_json: Json = False) -> None:
    """List the tasks of a domain."""
    from brewhouse.domains.loader import load_domain
    from brewhouse.tasks.suite import load_suite

    suite = load_suite(load_domain(domain))
    emit(
        [t.model_dump() for t in suite.tasks],
        as_json,
        lambda: table(
            f"{len(suite.tasks)} tasks of {suite.domain}",
            ["task", "tier", "surface", "yes", "question"],
            [[t.key, t.tier, t.surface, ", ".join(t.positive), t.phrase] for t in suite.tasks],
            left=5,
        ),
    )


@app.command("show")
def show_task(
    name: Annotated[str, typer.Argument(help="Task name")],
    domain: Domain = "linkedin",
    as_json: Json = False,
) -> None:
    """Tell everything about a task: label rule, candidates, metrics and margins, owner, licence."""
    import yaml

    from brewhouse.domains.loader import load_domain
    from brewhouse.tasks.suite import load_suite

    folder = load_domain(domain)
    task = load_suite(folder).select([name]).tasks[0]
    value = task.model_dump(mode="json")
    if task.candidates == "sampled":
        policy = next(p for p in folder.domain.source.negatives if p.surface == task.surface)
        value["negatives_policy"] = policy.model_dump(mode="json", exclude={"surface"})
    emit(value, as_json, lambda: typer.echo(yaml.safe_dump(value, sort_keys=False).rstrip()))


@app.command("run")
def run_tasks(
    file: Annotated[Path, typer.Argument(help="YAML file of tasks")],
    run: Annotated[
        Path, typer.Option(help="Run folder whose data is asked about, such as runs/demo")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html")],
    domain: Domain = "linkedin",
    model: Annotated[
        str, typer.Option(help="Model folder or shipped model; that of the run if empty")
    ] = "",
    max_test_sessions: Annotated[int, typer.Option(min=1, help="Test sessions asked about")] = 6000,
    as_json: Json = False,
) -> None:
    """Ask a trained model tasks that it never saw, from YAML alone; report AUC with intervals."""
    from brewhouse.cli.runs import show_tasks
    from brewhouse.files import refuse_foreign
    from brewhouse.stages import asking
    from brewhouse.stages.artifacts import RunArtifacts

    refuse_foreign(out, "results.json")
    kept = RunArtifacts(run)
    results = asking.run(
        file,
        domain=domain,
        model=model or str(kept.newest("train-ranker/model")),
        snapshot=kept.newest("import-data/snapshot"),
        features=kept.newest("build-features/features"),
        oracle=kept.newest("import-data/oracle"),
        out=out,
        max_test_sessions=max_test_sessions,
    )
    emit(results.model_dump(mode="json"), as_json, lambda: show_tasks(results))


@app.command("validate")
def validate_tasks(
    domain: Domain = "linkedin",
    tokenizer: Annotated[
        str, typer.Option(help="Check answers against this tokenizer folder as well")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check tasks against their domain, and answers against a tokenizer.

    Fields: name, version, tier (T1 or T2), positive, negative, question, answers, phrase, n_min.
    Usual mistakes: an action that the surface does not have, answers that begin alike, a T1 task on
    a surface held out of training.
    """
    from brewhouse.domains.loader import load_domain
    from brewhouse.prompts.questions import answer_tokens, build_questions, check_answer_words
    from brewhouse.tasks.suite import load_suite

    folder = load_domain(domain)
    suite = load_suite(folder)
    book = build_questions(folder.domain, suite)
    check_answer_words(book)
    if tokenizer:
        from brewhouse.prompts.tokenizer import PromptTokenizer

        own = PromptTokenizer.load(tokenizer)
        answer_tokens(book, own.markup, own.encode)
    emit(
        {"tasks": len(suite.tasks), "questions": len(book.questions)},
        as_json,
        lambda: typer.echo(f"{len(suite.tasks)} tasks are valid"),
    )
