"""The whole of a monitor's run: windows, evaluations, runs of triggers, pages and metrics."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import parse_day
from brewhouse.drift.policy import DriftPolicy, Severity, load_drift_policy
from brewhouse.errors import BrewhouseError
from brewhouse.files import write_json, write_text
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.prometheus import exposition
from brewhouse.release import retraining
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.watching import watched_number
from brewhouse.reporting.drift_page import DriftStory, write_drift_page
from brewhouse.stages import features as feature_step
from brewhouse.stages import importing, monitoring, validating
from brewhouse.stages.common import publish, tell
from brewhouse.stages.scoring import ScoringPlan

SUMMARY = "drift.html"
METRICS = "drift.prom"
RESULT = "drift.json"
NO_PAGE = "<!doctype html><title>Inputs</title><p>No window was judged in this run.</p>\n"
IMPORT = "data/import"
"""Signal of a log that could not be read at all."""


@dataclass(frozen=True, kw_only=True)
class DataPlace:
    """The newest log: a snapshot, or what one is imported from.

    Attributes:
        snapshot: Snapshot folder; None to import.
        features: Its feature folder; filled in a scratch folder if None.
        source: Folder with the domain's files.
        preset: Size of a simulated world, in place of a source.
        seed: Of simulation and of sampled negatives.
    """

    snapshot: Path | None = None
    features: Path | None = None
    source: str = ""
    preset: str = ""
    seed: int = 7


def run(
    *,
    domain: str,
    data: DataPlace,
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
        data: The newest log.
        policy: How windows are judged.
        settings: Registry, database, and where runs go.
        store: Folder that keeps observed days between runs.
        out: Folder for the page, Evidently's pages and metrics.
        version: `champion`, or a version's number.
        as_of: Read the log as it was then; aware. Now if None; a simulated world ends when its
            log does.
        scoring: Where requests are scored.
        arguments: Of `train_and_evaluate`; those of the home folder's last run if None.
        retrain: Whether runs are started; triggers stand otherwise.

    Returns:
        What was judged, started and written.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = monitoring.open_log(settings)
    log.renew()
    with tempfile.TemporaryDirectory(prefix="brewhouse-monitor-") as scratch:
        try:
            snapshot, features = _filled(log, settings, version, domain, data, Path(scratch))
        except BrewhouseError:
            write_text(out / METRICS, exposition(log))
            raise
        moment = as_of or Snapshot.open(snapshot).now()
        found = monitoring.run(
            domain=domain,
            snapshot=snapshot,
            features=features,
            policy=policy,
            settings=settings,
            store=store,
            out=out,
            version=version,
            as_of=moment,
            scoring=scoring,
        )
    log.ran(found.version)
    # What was found is told before anything is trained: that takes long, and may fail.
    _tell_all(log, found, policy, out)
    started: list[retraining.Started] = []
    retraining.note_ends(log, settings)
    if retrain and retraining.standing(log):
        base = retraining.run_arguments(settings, arguments)
        started = retraining.start(
            log,
            settings,
            policy,
            base,
            as_of=moment,
            noted=lambda: write_text(out / METRICS, exposition(log)),
        )
        for one in started:
            tell(f"{one.trigger}: run {one.run}")
    _tell_all(log, found, policy, out)
    result = {
        "version": found.version,
        "policy": policy.key,
        "evaluations": [
            asdict(e) | {"window": [str(d) for d in e.window]} for e in found.evaluations
        ],
        "started": [asdict(one) for one in started],
        "incidents": len(log.incidents()),
        "next": str(found.next),
        "page": str(out / SUMMARY),
        "metrics": str(out / METRICS),
    }
    write_json(out / RESULT, result)
    return result


def _tell_all(log: DriftLog, found: monitoring.Monitored, policy: DriftPolicy, out: Path) -> None:
    write_drift_page(_story(log, found, policy, out), out / SUMMARY)
    write_text(out / METRICS, exposition(log))


def _filled(
    log: DriftLog, settings: Settings, version: str, domain: str, data: DataPlace, work: Path
) -> tuple[Path, Path]:
    """Snapshot and features of the newest log.

    Raises:
        BrewhouseError: The log cannot be imported, or breaks the domain's rules; an incident tells
            it.
    """
    snapshot = data.snapshot or work / "snapshot"
    features = data.features or work / "features"
    number = watched_number(settings, version)
    try:
        if data.snapshot is None:
            importing.run(
                domain=domain,
                source=data.source,
                preset=data.preset,
                seed=data.seed,
                snapshot_out=snapshot,
                oracle_out=work / "oracle",
            )
        if data.features is None:
            validating.run(
                domain=domain,
                snapshot=snapshot,
                train_end="",
                report_out=work / "validation.json",
                docs_out=work / "data_docs",
            )
            feature_step.run(domain=domain, snapshot=snapshot, features_out=features)
    except BrewhouseError as error:
        log.fault(number, IMPORT, severity=Severity.PAGE, reason=str(error))
        raise
    log.mended(number, IMPORT)
    return snapshot, features


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


def run_step(
    *,
    domain: str,
    data: DataPlace,
    policy: str,
    version: str,
    as_of: str,
    store: str,
    scoring: Mapping[str, Any],
    arguments: Mapping[str, Any],
    retrain: bool,
    home: str,
    publish_to: str,
    summary_out: Path,
    inputs_out: Path,
    evaluations_out: Path,
    metrics_out: Path,
) -> dict[str, Any]:
    """`run` as a pipeline's step: places and policies by name, pages as artifacts.

    Arguments are those of the component `monitor_drift`.
    """
    settings = Settings.read(home)
    with tempfile.TemporaryDirectory(prefix="brewhouse-pages-") as scratch:
        out = Path(scratch)
        found = run(
            domain=domain,
            data=data,
            policy=load_drift_policy(policy),
            settings=settings,
            store=Path(store) if store else settings.home / "observations",
            out=out,
            version=version,
            as_of=parse_day(as_of) if as_of else None,
            scoring=ScoringPlan.of(dict(scoring)),
            arguments=arguments or None,
            retrain=retrain,
        )
        written = {path.name: path for path in sorted(out.iterdir()) if path.is_file()}
        publish(written, publish_to)
        for name, target in (
            (SUMMARY, summary_out),
            (RESULT, evaluations_out),
            (METRICS, metrics_out),
        ):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(out / name, target)
        pages = [path for name, path in written.items() if name.startswith("inputs-")]
        write_text(inputs_out, pages[-1].read_text(encoding="utf-8") if pages else NO_PAGE)
    return found
