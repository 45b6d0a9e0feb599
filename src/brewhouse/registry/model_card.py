"""The model card: what a model owner reads before anything else."""

from __future__ import annotations

from typing import Any

from brewhouse.evaluation.results import Results
from brewhouse.gates.verdict import Verdict


def model_card(results: Results, verdict: Verdict, *, training: dict[str, Any]) -> str:
    """Markdown card: what it is, what it was trained on, how it does, where it falls short."""
    config = training["config"]
    lines = [
        f"# Ranker for {results.domain}",
        "",
        f"A decoder-only mixture of experts (Mixtral, size `{config['model']}`, "
        f"{training['parameters']:,} parameters) that reads a member's profile and history as text "
        "and gives the log-odds of an action on an item.",
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
    lines += ["", "## Limits", "", *(f"- {note}" for note in results.notes)]
    return "\n".join(lines) + "\n"
