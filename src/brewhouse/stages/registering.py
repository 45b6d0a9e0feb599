"""Step 9: a passing model -> a candidate in the registry, PENDING_APPROVAL. Never further."""

from __future__ import annotations

import shutil
from pathlib import Path

from brewhouse.errors import RegistryError
from brewhouse.evaluation.results import Results
from brewhouse.files import atomic_dir, read_json, write_json, write_text
from brewhouse.gates.outcome import Outcome
from brewhouse.gates.verdict import Verdict
from brewhouse.platform.tracking import Registered, Tracker, artifact_root
from brewhouse.registry.model_card import model_card
from brewhouse.stages.common import note_lineage, publish, tell

CARD = "MODEL_CARD.md"


def run(
    *,
    results: Path,
    verdict: Path,
    model: Path,
    tracking_uri: str,
    model_store: str,
    registration_out: Path,
    publish_to: str = "",
) -> Registered:
    """Register a candidate.

    Args:
        results: results.json.
        verdict: verdict.json computed from those results.
        model: Exported model.
        tracking_uri: MLflow.
        model_store: Folder in which the registered model is kept for good.
        registration_out: JSON with name, version and state.
        publish_to: Run folder.

    Raises:
        RegistryError: The verdict is not PASS or belongs to other results.
    """
    found = Results.read(results)
    judged = Verdict.model_validate(read_json(verdict))
    if judged.outcome is not Outcome.PASS:
        msg = f"verdict is {judged.outcome}, so there is no candidate; see {verdict}"
        raise RegistryError(msg)
    kept = (
        Path(model_store) / found.domain / str(found.model["digest"]).removeprefix("sha256:")[:16]
    )
    if not kept.exists():
        with atomic_dir(kept) as scratch:
            shutil.copytree(model, scratch, dirs_exist_ok=True)
    card = model_card(found, judged, training=found.model)
    write_text(kept / CARD, card)
    tracker = Tracker(tracking_uri, experiment="brewhouse", artifacts=artifact_root(tracking_uri))
    run_id = tracker.start("candidate", {"domain": found.domain, "snapshot": found.snapshot})
    tracker.log_metrics(run_id, _metrics(found))
    tracker.log_files(run_id, [results, verdict, kept / CARD])
    registered = tracker.register(
        f"brewhouse-{found.domain}",
        source=kept,
        run_id=run_id,
        description=card,
        tags={
            "brewhouse.results": judged.results_digest,
            "brewhouse.verdict": judged.outcome,
            "brewhouse.snapshot": found.snapshot,
            "brewhouse.model": found.model["digest"],
            "brewhouse.code": found.code,
            "brewhouse.policy": judged.policy,
        },
    )
    tracker.finish(run_id)
    write_json(registration_out, vars(registered) | {"results": judged.results_digest})
    publish({"registration.json": registration_out, CARD: kept / CARD}, publish_to)
    note_lineage(publish_to, "register", vars(registered))
    tell(f"registered {registered.name} version {registered.version}, {registered.state}")
    return registered


def _metrics(results: Results) -> dict[str, float]:
    out = {}
    for task in results.tasks:
        auc = task.scorers["ranker"].auc.value
        if auc is not None:
            out[f"auc/{task.name}/{task.horizon_weeks}w"] = auc
    for tier in ("T1", "T2"):
        mean = results.mean_auc("ranker", tier)
        if mean is not None:
            out[f"mean_auc/{tier}"] = mean
    return out
