"""The model card: what a model owner reads before anything else."""

from __future__ import annotations

from typing import Any

from brewhouse.domains.spec import Domain
from brewhouse.domains.strict import Release
from brewhouse.evaluation.results import Results
from brewhouse.gates.verdict import Verdict


def model_card(
    results: Results,
    verdict: Verdict,
    domain: Domain,
    release: Release,
    *,
    training: dict[str, Any],
) -> str:
    """A Hugging Face model card: metadata with the figures, then Markdown.

    Args:
        results: What was measured.
        verdict: What the gate made of it.
        domain: Data world.
        release: Owner, use and limits.
        training: `training.json` of the model.
    """
    from huggingface_hub import EvalResult, ModelCardData

    figures = [
        EvalResult(
            task_type="ranking",
            dataset_type=results.domain,
            dataset_name=f"{results.domain} {results.snapshot[:19]}",
            metric_type="auc",
            metric_value=round(value, 4),
            metric_name=f"mean AUC, {tier}",
        )
        for tier in ("T1", "T2")
        if (value := results.mean_auc("ranker", tier)) is not None
    ]
    data = ModelCardData(
        license=release.model_licence,
        library_name="transformers",
        tags=["mixtral", "ranking", "mixture-of-experts"],
        model_name=f"ranker-{results.domain}",
        eval_results=figures or None,
    )
    lines = _lines(results, verdict, domain, release, training)
    return f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines) + "\n"


def _lines(
    results: Results, verdict: Verdict, domain: Domain, release: Release, training: dict[str, Any]
) -> list[str]:
    config = training["config"]
    lines = [
        f"# Ranker for {results.domain}",
        "",
        f"A decoder-only mixture of experts (Mixtral, size `{config['model']}`, "
        f"{training['parameters']:,} parameters) that reads a member's profile and history as text "
        "and gives the log-odds of an action on an item.",
        "",
        f"**Owner.** {release.owner}",
        "",
        f"**Intended use.** {release.intended_use}",
        "",
        f"**Out of scope.** {release.out_of_scope or 'Anything else.'}",
        "",
        f"**Licence.** Model: {release.model_licence}. Data: {domain.licence}",
        "",
        "## Training",
        "",
        f"- Snapshot {results.snapshot}",
        f"- Training window {results.split['train_start']} to {results.split['train_end']}, "
        f"gap {results.split['gap_days']} days",
        f"- {training['steps']} steps on {training['world_size']} processes",
        "",
        "## Evaluation",
        "",
        "| task | tier | n | base rate | AUC | 95 % interval |",
        "|---|---|---|---|---|---|",
    ]
    for task in results.tasks:
        auc = task.scorers["ranker"].auc
        shown = "n/a" if auc.value is None else f"{auc.value:.3f}"
        band = "n/a" if auc.low is None or auc.high is None else f"{auc.low:.3f} to {auc.high:.3f}"
        lines.append(
            f"| {task.name} | {task.tier} | {task.n} | {task.base_rate:.3f} | {shown} | {band} |"
        )
    lines += ["", f"## Gate: {verdict.outcome}", ""]
    lines += [f"- {rule.outcome}: {rule.reason}" for rule in verdict.rules]
    limits = (*release.limits, *results.notes)
    return [*lines, "", "## Limits", "", *(f"- {note}" for note in limits)]
