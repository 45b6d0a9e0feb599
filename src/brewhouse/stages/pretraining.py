"""Builds a model that ships with the project: a recipe in YAML -> world, shards, weights, card.

The same steps as the pipeline, less baselines, gate and registry; all are resumable by running
again with the same work folder.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.strict import Strict
from brewhouse.errors import ModelError
from brewhouse.evaluation.results import Results
from brewhouse.files import atomic_dir, write_text
from brewhouse.model.build import export_half
from brewhouse.prompts.probes import NEWCOMER
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.stages import evaluating, features, importing, training, verbalizing
from brewhouse.stages.common import tell

MAX_BYTES = 5_000_000
"""What a model in the repository may weigh, tokenizer included."""


class Recipe(Strict):
    """Everything that a shipped model depends on."""

    name: str
    domain: str
    preset: str = Field(description="Size of the simulated world")
    seed: int = Field(description="Seed of the world; not one that a demo or test uses")
    vocab_size: int = Field(ge=300)
    max_test_sessions: int = Field(ge=1)
    processes: int = Field(default=1, ge=1)
    options: dict[str, Any] = Field(description="Fields of TrainConfig")
    intended_use: str
    licence: str


def load_recipe(name: str) -> Recipe:
    """Read a recipe that comes with the project.

    Raises:
        ConfigError: No such recipe, or one with mistakes.
    """
    path = Path(str(resources.files("brewhouse.stages") / "recipes" / f"{name}.yaml"))
    value, lines = read_yaml(path)
    return parse_model(Recipe, value, path=path, lines=lines)


def run(recipe: Recipe, *, work: Path, out: Path) -> Results:
    """Build a model; steps whose output is in the work folder are not repeated.

    Raises:
        ModelError: The export is larger than the repository takes.
    """
    snapshot, oracle, store = work / "snapshot", work / "oracle", work / "features"
    shards, model = work / "shards", work / "model"
    if not snapshot.exists():
        importing.run(
            domain=recipe.domain,
            source="",
            preset=recipe.preset,
            seed=recipe.seed,
            snapshot_out=snapshot,
            oracle_out=oracle,
        )
    if not (store / features.ABOUT).exists():
        features.run(domain=recipe.domain, snapshot=snapshot, features_out=store)
    if not (shards / ShardsManifest.FILE).exists():
        verbalizing.run(
            domain=recipe.domain,
            snapshot=snapshot,
            features=store,
            train_end="",
            shards_out=shards,
            model=str(recipe.options["model"]),
            vocab_size=recipe.vocab_size,
            max_test_sessions=recipe.max_test_sessions,
        )
    training.run(
        shards=shards,
        model_out=model,
        workspace=str(work / "training"),
        options=recipe.options,
        processes=recipe.processes,
    )
    with atomic_dir(out) as scratch:
        export_half(model, scratch)
        results = evaluating.run(
            domain=recipe.domain,
            shards=shards,
            model=scratch,
            baselines=None,
            oracle=oracle,
            results_out=work / "results.json",
            report_out=work / "report.html",
            seed=recipe.seed,
        )
        write_text(scratch / "README.md", card(recipe, results))
        size = sum(path.stat().st_size for path in scratch.rglob("*") if path.is_file())
        if size > MAX_BYTES:
            msg = f"{recipe.name} weighs {size:,} bytes, more than {MAX_BYTES:,}; lower vocab_size"
            raise ModelError(msg)
    tell(f"{recipe.name}: {size:,} bytes in {out}")
    return results


def card(recipe: Recipe, results: Results) -> str:
    """The model card, in the hub's form: front matter, use, training, figures, limits."""
    lines = [
        "---",
        f"license: {recipe.licence.lower()}",
        "library_name: transformers",
        "tags: [mixtral, ranking, simulated-data]",
        "---",
        "",
        f"# {recipe.name}",
        "",
        f"A Mixtral of {results.model['parameters']:,} parameters that reads a member's profile "
        "and labelled history as text and gives log-odds of actions on items.",
        "",
        f"Rebuild it, with these figures: `brewhouse pretrain {recipe.name}`.",
        "",
        f"**Use.** {recipe.intended_use.strip()}",
        "",
        f"**Data.** The `{recipe.preset}` world of the simulated domain `{recipe.domain}`, seed "
        f"{recipe.seed}, snapshot `{results.snapshot}`. No real person is in it.",
        "",
        f"**Training.** {results.model['steps']:,} steps of {recipe.options['batch_tokens']:,} "
        "tokens on one CPU process:",
        "",
        "| stage | loss | tokens | learning rate |",
        "|---|---|---|---|",
        *(
            f"| {s['name']} | {s['loss']} of {s.get('shards', 'made-up histories')} | "
            f"{s['tokens']:,} | {s['lr']:g} |"
            for s in recipe.options["stages"]
        ),
        "",
        f"**Figures.** {results.split['test_days']} days of the same world from "
        f"{results.split['gap_days']:g} days after training; mean AUC:",
        "",
        "| tasks | ranker | oracle without history | oracle |",
        "|---|---|---|---|",
    ]
    for tier, what in (("T1", "trained surfaces"), ("T2", "surfaces never seen")):
        values = [results.mean_auc(s, tier) for s in ("ranker", "oracle_without_history", "oracle")]
        shown = " | ".join("n/a" if v is None else f"{v:.3f}" for v in values)
        lines.append(f"| {what} | {shown} |")
    lines += ["", "| the same rows told with | mean AUC | cost |", "|---|---|---|"]
    lines += [
        f"| {p.name} | {p.auc:.3f} | {p.cost.value:+.3f} |"
        for p in results.probes
        if p.name != NEWCOMER
    ]
    lines += ["", "**Limits.** Simulated behaviour only. " + " ".join(results.notes)]
    return "\n".join(lines) + "\n"
