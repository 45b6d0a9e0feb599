"""`brewhouse tasks`."""

from __future__ import annotations

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
