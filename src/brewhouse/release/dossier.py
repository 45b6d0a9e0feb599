"""The dossier: one folder a version with all that an owner is asked about it a year later."""

from __future__ import annotations

import html
import json
import os
import platform
import shutil
import uuid
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml

from brewhouse.domains.spec import Domain
from brewhouse.domains.strict import Release
from brewhouse.errors import RegistryError
from brewhouse.evaluation.results import Results
from brewhouse.files import read_json, sha256_json, write_json, write_text
from brewhouse.gates.verdict import Verdict
from brewhouse.platform.tracking import mlflow_version
from brewhouse.prompts.shards import read_trees, sample_trees, write_trees
from brewhouse.registry.model_card import model_card
from brewhouse.release.store import seal
from brewhouse.scoring.files import read_scores, write_scores
from brewhouse.scoring.pyfunc import LOADER
from brewhouse.scoring.scorer import Scorer, tokens_needed

SMOKE_TREES = 16
SMOKE_LIMIT = 1e-4
PARTS = {
    "MODEL_CARD.md": "Model card: owner, use, limits, figures",
    "report.html": "Evaluation report",
    "results.json": "Results, for machines",
    "verdict.json": "Verdict of the gate, rule by rule",
    "lineage.json": "Lineage: data, features, prompts, code and images by digest",
    "environment.json": "Packages and image it was made with, and where the SBOM is",
    "LICENCE.txt": "Licences of model and data",
    "decisions.json": "Decisions about it, from the ledger",
}


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What a run leaves of a model.

    Attributes:
        results, verdict, report, lineage: Files; lineage may be absent.
        model: Folder of the exported model.
        shards: Shards it was tested on; a few of their trees become the smoke set.
        reference: Folder with what drift of it is measured against; may be absent.
    """

    results: Path
    verdict: Path
    report: Path
    model: Path
    shards: Path
    lineage: Path | None = None
    reference: Path | None = None


def release_of(domain: Domain, results: Results) -> Release:
    """What the domain says of its models.

    Raises:
        RegistryError: It says nothing of owner, use and limits, or results lack the data window.
    """
    if domain.release is None:
        msg = (
            f"domain {domain.name} has no `release`: owner, intended_use and limits; add them to "
            "its domain.yaml, for nothing is registered without them"
        )
        raise RegistryError(msg)
    missing = [k for k in ("train_start", "train_end") if not results.split.get(k)]
    if missing:
        msg = f"results lack the data window ({', '.join(missing)}); evaluate the model again"
        raise RegistryError(msg)
    return domain.release


def build(folder: Path, evidence: Evidence, domain: Domain) -> str:
    """Fill a version's folder and seal it; return the digest of all of it.

    Raises:
        RegistryError: Something an approver must be told is missing.
    """
    results = Results.read(evidence.results)
    verdict = Verdict.model_validate(read_json(evidence.verdict))
    release = release_of(domain, results)
    dossier = folder / "dossier"
    dossier.mkdir(parents=True)
    shutil.copytree(evidence.model, folder / "model")
    card = model_card(results, verdict, domain, release, training=results.model)
    write_text(dossier / "MODEL_CARD.md", card)
    for name, source in (
        ("report.html", evidence.report),
        ("results.json", evidence.results),
        ("verdict.json", evidence.verdict),
    ):
        shutil.copyfile(source, dossier / name)
    write_json(dossier / "lineage.json", _lineage(results, evidence.lineage))
    write_json(dossier / "environment.json", _environment())
    write_text(dossier / "LICENCE.txt", f"Model: {release.model_licence}\nData: {domain.licence}\n")
    _write_smoke(dossier / "smoke", evidence)
    if evidence.reference is not None:
        shutil.copytree(evidence.reference, dossier / "reference")
    write_text(dossier / "index.html", _index(results, verdict, release))
    write_text(folder / "MLmodel", _mlmodel(results))
    return seal(folder)


def _mlmodel(results: Results) -> str:
    columns = [{"type": "string", "name": n, "required": True} for n in ("prompt", "task")]
    output = [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-1]}}]
    name = uuid.uuid5(uuid.NAMESPACE_URL, str(results.model["digest"])).hex
    return yaml.safe_dump(
        {
            "artifact_path": "ranker",
            "flavors": {
                "python_function": {
                    "data": "model",
                    "loader_module": LOADER,
                    "python_version": platform.python_version(),
                }
            },
            "mlflow_version": mlflow_version(),
            "model_uuid": name,
            "signature": {"inputs": _json(columns), "outputs": _json(output)},
        },
        sort_keys=False,
    )


def _json(value: Any) -> str:
    return json.dumps(value)


def _write_smoke(folder: Path, evidence: Evidence) -> None:
    """A few test requests with the scores that this very model gave them."""
    trees = sample_trees(evidence.shards / "test", SMOKE_TREES)
    scorer = Scorer.load(evidence.model)
    write_trees(folder / "trees.parquet", trees)
    leaves = scorer.score(trees)
    write_scores(folder / "scores.parquet", leaves, needed=tokens_needed(trees), seconds=0.0)


def smoke(model: Path, folder: Path) -> float:
    """Largest difference between the smoke set's kept logits and what the model gives now."""
    import numpy as np

    kept = read_scores([folder / "scores.parquet"]).leaves
    found = Scorer.load(model).score(list(read_trees(folder / "trees.parquet")))
    finite = np.isfinite(kept.logits_NA)
    return float(np.abs(found.logits_NA[finite] - kept.logits_NA[finite]).max(initial=0.0))


def _environment() -> dict[str, Any]:
    """Packages of the process that registers; image and SBOM as the environment names them."""
    found = {d.metadata["Name"]: d.version for d in distributions() if d.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "image": os.environ.get("BREWHOUSE_IMAGE", ""),
        "sbom": os.environ.get("BREWHOUSE_SBOM", ""),
        "packages": dict(sorted(found.items(), key=lambda kv: kv[0].lower())),
    }


_FLOW: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "import_data": (("domain",), ("snapshot",)),
    "validate_data": (("snapshot",), ()),
    "build_features": (("snapshot",), ()),
    "publish_features": (("snapshot",), ()),
    "verbalize": (("snapshot",), ("shards",)),
    "train_ranker": (("shards",), ("model",)),
    "train_baselines": (("shards",), ()),
    "evaluate": (("shards", "model"), ()),
    "gate": (("results",), ()),
}
"""What each step reads and writes, of what the run noted by digest."""


def _lineage(results: Results, ledger: Path | None) -> dict[str, Any]:
    """Steps of the run as OpenLineage run events (openlineage.io, spec 2-0-2).

    Every data set is named by its digest, so that two versions made of the same data show it.
    """
    steps = read_json(ledger)["steps"] if ledger and ledger.is_file() else {}
    run = sha256_json([results.model["digest"], results.snapshot, results.code])
    # Training notes what it read; its model is named by what was judged.
    known = {"model": results.model["digest"], "snapshot": results.snapshot}

    def named(step: str, names: tuple[str, ...]) -> list[dict[str, str]]:
        digests = [(name, steps[step].get(name, known.get(name))) for name in names]
        return [{"namespace": "brewhouse", "name": f"{n}/{d}"} for n, d in digests if d]

    events = [
        {
            "eventType": "COMPLETE",
            "eventTime": steps[step].get("at", ""),
            "producer": f"urn:brewhouse:{steps[step].get('code', results.code)}",
            "schemaURL": "https://openlineage.io/spec/2-0-2/OpenLineage.json",
            "run": {"runId": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run}/{step}"))},
            "job": {"namespace": "brewhouse", "name": f"train_and_evaluate.{step}"},
            "inputs": named(step, reads),
            "outputs": named(step, writes),
        }
        for step, (reads, writes) in _FLOW.items()
        if step in steps
    ]
    return {
        "schema_version": 1,
        "model": results.model["digest"],
        "snapshot": results.snapshot,
        "code": results.code,
        "tasks": {task.name: task.version for task in results.tasks},
        "steps": steps,
        "events": events,
    }


def _index(results: Results, verdict: Verdict, release: Release) -> str:
    """A page without scripts that opens from a disk."""
    rows = "".join(
        f'<li><a href="{name}">{html.escape(told)}</a></li>' for name, told in PARTS.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Dossier of a ranker</title>
<style>
body{{font:1rem/1.5 system-ui,sans-serif;max-width:44rem;margin:2rem auto;padding:0 1rem}}
</style>
</head><body><h1>Dossier of a ranker for {html.escape(results.domain)}</h1>
<p>Verdict <strong>{verdict.outcome.value}</strong> by {html.escape(verdict.policy)}. Owner:
{html.escape(release.owner)}. Trained on {html.escape(str(results.split["train_start"])[:10])} to
{html.escape(str(results.split["train_end"])[:10])}.</p>
<p>Weights <code>{html.escape(str(results.model["digest"]))}</code></p>
<ul>{rows}</ul></body></html>
"""
