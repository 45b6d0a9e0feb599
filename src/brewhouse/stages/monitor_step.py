"""The whole of a monitor's run: windows, evaluations, runs of triggers, pages and metrics."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from brewhouse.data.snapshot import Snapshot
from brewhouse.drift.policy import DriftPolicy
from brewhouse.files import write_json, write_text
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.prometheus import exposition
from brewhouse.release import retraining
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.reporting.drift_page import DriftStory, write_drift_page
from brewhouse.stages import features as feature_step
from brewhouse.stages import monitoring
from brewhouse.stages.common import tell
from brewhouse.stages.scoring import ScoringPlan

SUMMARY = "drift.html"
METRICS = "drift.prom"
RESULT = "drift.json"


def run(
    *,
    domain: str,
    snapshot: Path,
    features: Path | None,
    policy: DriftPolicy,
    settings: Settings,
    store: Path,
    out: Path,
    version: str = CHAMPION,
    as_of: datetime | None = None,
    scoring: ScoringPlan | None = None,
    arguments: Mapping[str, Any] | None = None,
    retrain: bool = True,
) -> dict[str, Any]:
    """Watch a version: `monitoring.run`, then start what triggers order, then tell.

    Args:
        domain: Built-in name or folder.
        snapshot: Newest import.
        features: Its feature folder; filled in a scratch folder if None.
        policy: How windows are judged.
        settings: Registry, database, and where runs go.
        store: Folder that keeps observed days between runs.
        out: Folder for the page, Evidently's pages and metrics.
        version: `champion`, or a version's number.
        as_of: Read the log as it was then; aware.
        scoring: Where requests are scored.
        arguments: Of `train_and_evaluate`; those of the home folder's last run if None.
        retrain: Whether runs are started; triggers stand otherwise.

    Returns:
        What was judged, started and written.
    """
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="brewhouse-monitor-") as scratch:
        filled = features or Path(scratch) / "features"
        if features is None:
            feature_step.run(domain=domain, snapshot=snapshot, features_out=filled)
        found = monitoring.run(
            domain=domain,
            snapshot=snapshot,
            features=filled,
            policy=policy,
            settings=settings,
            store=store,
            out=out,
            version=version,
            as_of=as_of,
            scoring=scoring,
        )
    log = monitoring.open_log(settings)
    started: list[retraining.Started] = []
    if retrain and log.triggers():
        moment = as_of or Snapshot.open(snapshot).end()
        base = retraining.run_arguments(settings, arguments)
        started = retraining.start(log, settings, policy, base, as_of=moment)
        for one in started:
            tell(f"{one.trigger}: run {one.run}")
    incidents = log.incidents()
    write_drift_page(_story(log, found, policy, out), out / SUMMARY)
    write_text(out / METRICS, exposition(log))
    result = {
        "version": found.version,
        "policy": policy.key,
        "evaluations": [
            asdict(e) | {"window": [str(d) for d in e.window]} for e in found.evaluations
        ],
        "started": [asdict(one) for one in started],
        "incidents": len(incidents),
        "next": str(found.next),
        "page": str(out / SUMMARY),
        "metrics": str(out / METRICS),
    }
    write_json(out / RESULT, result)
    return result


def _story(
    log: DriftLog, found: monitoring.Monitored, policy: DriftPolicy, out: Path
) -> DriftStory:
    return DriftStory(
        model=log.model,
        version=found.version,
        policy=policy,
        trained=found.trained,
        windows=log.windows(found.version),
        evaluations=log.evaluations(found.version),
        incidents={k.number: k.incident for k in log.incidents(found.version)},
        triggers=[(t.trigger, t.window[1], t.reason, t.run) for t in log.triggers()],
        pages=sorted(path.name for path in out.glob("inputs-*.html")),
    )
