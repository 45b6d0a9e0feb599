"""Step 9: a judged model -> a version in the registry with its dossier. A person decides the rest.

A PASS waits for approval; anything else is registered too, so that it can be looked at, and waits
for a waiver. Never further.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from brewhouse.domains.loader import load_domain
from brewhouse.errors import RegistryError
from brewhouse.evaluation.results import Results
from brewhouse.files import read_json, sha256_json, write_json
from brewhouse.gates.outcome import Outcome
from brewhouse.gates.verdict import Verdict
from brewhouse.platform.ledger import Clock, now
from brewhouse.platform.stores import MLFLOW, SERVED, is_folder
from brewhouse.platform.tracking import EXPERIMENT, RESULTS_TAG, Tracker, artifact_root
from brewhouse.release import dossier
from brewhouse.release.service import Release, open_ledger
from brewhouse.release.settings import Settings
from brewhouse.release.store import VersionFolder
from brewhouse.release.versions import Registration, Version
from brewhouse.stages.common import note_lineage, publish, tell

CARD = "MODEL_CARD.md"


def run(
    *,
    domain: str,
    evidence: dossier.Evidence,
    model_store: str,
    registration_out: Path,
    home: str = "",
    tracking_uri: str = "",
    author: str = "",
    trigger: Mapping[str, str] | None = None,
    clock: Clock = now,
    publish_to: str = "",
) -> Version:
    """Register a version.

    Args:
        domain: Built-in name or folder; says who owns its models, their use and limits.
        evidence: Files that the run left.
        model_store: Folder or URI in which versions are kept for good; `mlflow-artifacts:/` for the
            artifacts of their MLflow runs.
        registration_out: JSON with name, version and state.
        home: Folder of registry, ledger and keys, where the environment does not name them.
        tracking_uri: MLflow, in place of the one that home or environment name.
        author: Who started the run.
        trigger: Drift trigger that the run answers: its `id` (empty for none), `window`, `reason`.
        clock: Tells the time of entries.
        publish_to: Run folder.

    Raises:
        RegistryError: The verdict belongs to other results, the registered name to another domain,
            or something an approver must be told is missing.
    """
    results = Results.read(evidence.results)
    verdict = Verdict.model_validate(read_json(evidence.verdict))
    digest = "sha256:" + sha256_json(results.model_dump(mode="json"))
    if verdict.results_digest != digest:
        msg = f"{evidence.verdict} judges other results than {evidence.results}; run the gate again"
        raise RegistryError(msg)
    folder = load_domain(domain)
    settings = Settings.read(home)
    if tracking_uri:
        settings = settings.at(tracking_uri)
    release = Release(settings, ledger=open_ledger(settings, clock=clock))
    _refuse_other_domain(release, results.domain)
    tags = {
        "brewhouse.domain": results.domain,
        RESULTS_TAG: digest,
        "brewhouse.verdict": verdict.outcome.value,
        "brewhouse.snapshot": results.snapshot,
        "brewhouse.model": str(results.model["digest"]),
        "brewhouse.code": results.code,
        "brewhouse.policy": verdict.policy,
    }
    if trigger and trigger["id"]:
        tags |= {f"brewhouse.trigger.{name}": told[:5000] for name, told in trigger.items()}
    tracker = Tracker(
        settings.tracking_uri,
        experiment=EXPERIMENT,
        artifacts=artifact_root(settings.tracking_uri),
    )
    about = {"domain": results.domain, "snapshot": results.snapshot}
    with tracker.running("candidate", about) as run_id:
        tracker.log_metrics(run_id, _metrics(results))
        key = sha256_json([results.model["digest"], digest])[:16]
        known = release.registry.judged_by(release.model, digest)
        kept = VersionFolder(
            known.source if known else f"{_place(model_store, tracker, run_id, release)}/{key}",
            tracking_uri=settings.tracking_uri,
        )
        artifact = _keep(evidence, folder.domain, kept, known=known is not None)
        card = kept.read(f"dossier/{CARD}").decode()
        registered = release.registry.register(
            release.model, source=kept.uri, run_id=run_id, tags=tags, description=card
        )
        version = release.register(
            Registration(
                model=release.model,
                version=registered.version,
                author=author or "unknown",
                artifact=artifact,
                results=digest,
                verdict="sha256:" + sha256_json(verdict.model_dump(mode="json")),
                passed=verdict.outcome is Outcome.PASS,
            )
        )
    told: dict[str, Any] = {
        "name": version.model,
        "version": version.version,
        "state": version.state.value,
        "run_id": registered.run_id,
        "results": digest,
        "dossier": f"{kept.uri}/dossier",
    }
    write_json(registration_out, told)
    publish({"registration.json": registration_out}, publish_to)
    note_lineage(publish_to, "register", {"version": version.version, "artifact": artifact})
    tell(f"registered {version.model} version {version.version}, {version.state.value}")
    return version


def _place(model_store: str, tracker: Tracker, run_id: str, release: Release) -> str:
    """URI of the folder above a new version's.

    Raises:
        RegistryError: MLflow's server would keep it on this machine's disk.
    """
    if model_store.rstrip("/") != f"{MLFLOW}:":
        return f"{model_store.rstrip('/')}/{release.model}"
    root = tracker.artifacts(run_id)
    if release.settings.tracking_uri.startswith(SERVED) and is_folder(root):
        msg = (
            f"experiment '{EXPERIMENT}' of {release.settings.tracking_uri} keeps artifacts in "
            f"{root}, on the disk of whoever's machine writes there; start MLflow's server with "
            "--artifacts-destination and rename the experiment, or give model_store s3:// or gs://"
        )
        raise RegistryError(msg)
    return root


def _keep(evidence: dossier.Evidence, domain: Any, kept: VersionFolder, *, known: bool) -> str:
    """Build the version's folder and put it into the store, unless it is there; its digest.

    Raises:
        RegistryError: A version that was registered is gone: it is not built anew, for the ledger
            names what it was.
    """
    if kept.exists():
        return "sha256:" + sha256_json(kept.read_json("manifest.json")["files"])
    if known:
        msg = f"{kept.uri} was registered with these results and is gone; restore it"
        raise RegistryError(msg)
    with tempfile.TemporaryDirectory(prefix="brewhouse-version-") as scratch:
        folder = Path(scratch) / "version"
        artifact = dossier.build(folder, evidence, domain)
        kept.put(folder)
    return artifact


def _refuse_other_domain(release: Release, domain: str) -> None:
    other = {v.tags.get("brewhouse.domain", domain) for v in release.versions()} - {domain}
    if other:
        msg = (
            f"{release.model} holds versions of domain {', '.join(sorted(other))}, this one is of "
            f"{domain}; set BREWHOUSE_MODEL_NAME to another name for it"
        )
        raise RegistryError(msg)


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
