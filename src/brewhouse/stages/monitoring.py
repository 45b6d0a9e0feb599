"""The monitor: windows of the version in use -> signals -> evaluations, incidents and triggers.

A window is measured once, when it is over, and judged in the order of time; started again after
any end, the monitor goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.loader import load_domain
from brewhouse.drift.decision import Evaluation
from brewhouse.drift.estimate import estimates
from brewhouse.drift.measure import ScoredTask, calibration, performance, score_drift
from brewhouse.drift.policy import DriftPolicy, EffectRule
from brewhouse.drift.quality import DataFacts, data_signals, reference_signal
from brewhouse.drift.reference import Reference, router_drift
from brewhouse.drift.signals import Kind, Signal, Window
from brewhouse.platform.database import Database
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.evidently_drift import Workspace, input_drift
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.watching import WatchedVersion, watched_version
from brewhouse.stages import inputs
from brewhouse.stages.common import tell
from brewhouse.stages.observing import (
    SCORES,
    Watched,
    about,
    day_folder,
    labels_between,
    midnight,
    observe,
)
from brewhouse.stages.referring import columns_of, input_noise, nulls_of
from brewhouse.stages.scored_rows import SCHEMA, scored_tasks, unlabelled
from brewhouse.stages.scoring import ScoringPlan
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

DAY = timedelta(days=1)
DEFAULT_ABOVE = 0.25


@dataclass(frozen=True, kw_only=True)
class Monitored:
    """What a run of the monitor found.

    Attributes:
        version: Watched.
        evaluations: Of windows that were judged now, oldest first.
        next: Day on which the next window is over.
        trained: Day on which the version's training data ended; None where it does not say.
        pages: Evidently's pages by window.
    """

    version: str
    evaluations: list[Evaluation]
    next: date
    trained: date | None
    pages: list[Path]


def open_log(settings: Settings) -> DriftLog:
    """The drift log of the deployment's model."""
    return DriftLog(Database(settings.database_uri), settings.model_name)


def run(
    *,
    domain: str,
    snapshot: Path,
    features: Path,
    policy: DriftPolicy,
    settings: Settings,
    store: Path,
    out: Path,
    version: str = CHAMPION,
    as_of: datetime | None = None,
    scoring: ScoringPlan | None = None,
) -> Monitored:
    """Judge every window that is over and was not judged yet.

    Args:
        domain: Built-in name or folder.
        snapshot: Newest import.
        features: Its feature folder.
        policy: How windows are judged.
        settings: Registry and database.
        store: Folder that keeps observed days between runs.
        out: Folder for pages.
        version: `champion`, or a version's number.
        as_of: Read the log as it was then, and judge windows that were over then; aware.
            `Snapshot.now` if None.
        scoring: Where requests are scored; in this process if None.

    Raises:
        RegistryError: There is no version to watch.
    """
    cut, log = Snapshot.open(snapshot), open_log(settings)
    moment = as_of or cut.now()
    with watched_version(settings, version) as kept:
        if kept.champion:
            log.succeeded(kept.number)
        spans = windows(log, kept, policy, moment)
        evaluations, pages = [], []
        for start, end in spans:
            window, page = measure_window(
                domain,
                cut,
                features,
                policy,
                kept,
                store,
                out,
                start,
                end,
                moment,
                scoring,
                settings,
            )
            evaluation = log.take(window, policy, candidate=kept.waiting, champion=kept.champion)
            evaluations.append(evaluation)
            pages += [page] if page else []
            tell(f"{start} to {end}: {evaluation.outcome} ({len(evaluation.open)} signals open)")
        last = spans[-1][1] if spans else _begin(log, kept, policy, moment)
        return Monitored(
            version=kept.number,
            evaluations=evaluations,
            next=last + policy.window_days * DAY,
            trained=kept.trained,
            pages=pages,
        )


def windows(
    log: DriftLog, kept: WatchedVersion, policy: DriftPolicy, moment: datetime
) -> list[tuple[date, date]]:
    """Windows that are over and not judged, oldest first."""
    begin, found = _begin(log, kept, policy, moment), []
    while begin + policy.window_days * DAY <= moment.date():
        found.append((begin, begin + policy.window_days * DAY))
        begin = found[-1][1]
    return found


def _begin(log: DriftLog, kept: WatchedVersion, policy: DriftPolicy, moment: datetime) -> date:
    judged = log.windows(kept.number)
    if judged:
        return judged[-1].end
    if kept.reference is not None:
        return kept.reference.end
    # Nothing says when its tests ended: only the newest window can be told about.
    return moment.date() - policy.window_days * DAY


def measure_window(
    domain: str,
    cut: Snapshot,
    features: Path,
    policy: DriftPolicy,
    kept: WatchedVersion,
    store: Path,
    out: Path,
    start: date,
    end: date,
    moment: datetime,
    scoring: ScoringPlan | None,
    settings: Settings | None = None,
) -> tuple[Window, Path | None]:
    """Signals of one window, and Evidently's page about it; days that are missing are observed.

    Args:
        domain: Built-in name or folder.
        cut: Newest import.
        features: Its feature folder.
        policy: Says how much is scored and compared, and when labels are final.
        kept: The version, with its reference.
        store: Folder of observed days, below it one a model, and in that one a version.
        out: Folder for the page.
        start: First day.
        end: Day after the last.
        moment: The log is read as it was then; aware.
        scoring: Where requests are scored.
        settings: Name the workspace of Evidently's service, if there is one.
    """
    matured_until = min(end, moment.date()) - policy.maturity_days * DAY
    window = Window(
        version=kept.number, start=start, end=end, matured_until=matured_until, signals=[]
    )
    if kept.reference is None:
        return window.model_copy(update={"signals": [reference_signal(kept.missing)]}), None
    tasks = _tasks(domain, kept.reference)
    if not tasks:
        missing = "the domain has none of its tasks any more; evaluate and register it again"
        return window.model_copy(update={"signals": [reference_signal(missing)]}), None
    days = _days(start, end)
    watched = Watched(
        domain=domain,
        snapshot=cut.path,
        features=features,
        model=kept.model,
        projection=kept.folder / inputs.PROJECTION,
        tasks=tuple(task.name for task in tasks),
        as_of=moment,
    )
    home = store / kept.name / kept.number
    mine = max(kept.reference.end, start - policy.maturity_days * DAY)
    observe(
        watched,
        _days(mine, end),
        home,
        sessions_per_day=policy.sessions_per_day,
        scoring=scoring,
    )
    page = out / f"inputs-{start}.html"
    described = _described(home, days)
    signals = data_signals(_facts(home, days, described), kept.reference.data)
    if described is not None:
        reference = pq.read_table(kept.folder / inputs.INPUTS)
        workspace = _workspace(settings, kept.number, start)
        signals += _inputs(described, reference, kept.reference, policy, page, workspace)
    fresh = unlabelled(scored_tasks(_scores(home, days), tasks))
    matured = _matured(cut, home, tasks, mine, matured_until, moment)
    signals += score_drift(fresh, kept.reference.performance)
    signals += router_drift(_load(home, days), kept.reference)
    signals += calibration(matured, kept.reference.performance)
    signals += _told_why(
        performance(matured, kept.reference.performance), mine, matured_until, policy
    )
    auc = kept.reference.performance.auc
    signals += estimates(fresh, matured, kept.reference.estimate, auc)
    whole = window.model_copy(update={"signals": signals})
    return whole, page if page.is_file() else None


def _tasks(domain: str, reference: Reference) -> list[Task]:
    """Tasks that the version was judged on, in the versions that it was judged on."""
    known = set(reference.tasks)
    suite = load_suite(load_domain(domain))
    gone = sorted(known - {task.key for task in suite.tasks})
    if gone:
        tell(f"not measured, for the domain has them no longer: {', '.join(gone)}")
    return [task for task in suite.tasks if task.key in known]


def _days(start: date, end: date) -> list[date]:
    return [start + n * DAY for n in range((end - start).days)]


def _scores(home: Path, days: Iterable[date]) -> pa.Table:
    parts = [pq.read_table(day_folder(home, day) / SCORES) for day in days]
    return pa.concat_tables([SCHEMA.empty_table(), *parts]).unify_dictionaries()


def _described(home: Path, days: Iterable[date]) -> pa.Table | None:
    paths = [day_folder(home, day) / inputs.INPUTS for day in days]
    parts = [pq.read_table(path) for path in paths if path.is_file()]
    found = pa.concat_tables(parts, promote_options="permissive") if parts else None
    return found if found is not None and len(found) else None


def _facts(home: Path, days: Sequence[date], described: pa.Table | None) -> DataFacts:
    told = [about(home, day) for day in days]
    rows: dict[str, int] = {}
    for one in told:
        for surface, count in one["rows"].items():
            rows[surface] = rows.get(surface, 0) + count
    newest = [datetime.fromisoformat(one["newest"]) for one in told if one["newest"]]
    return DataFacts(
        start=days[0],
        end=days[-1] + DAY,
        rows=rows,
        columns={} if described is None else columns_of(described),
        nulls={} if described is None else nulls_of(described),
        described=0 if described is None else len(described),
        newest=max(newest, default=None),
        skewed=sum(one["skewed"] for one in told),
    )


def _load(home: Path, days: Iterable[date]) -> np.ndarray | None:
    loads = [np.array(one["router"]) for day in days if (one := about(home, day))["router"]]
    return np.sum(loads, axis=0) if loads else None


def _matured(
    cut: Snapshot,
    home: Path,
    tasks: Sequence[Task],
    start: date,
    until: date,
    moment: datetime,
) -> list[ScoredTask]:
    """Rows of the cohort whose labels became final in this window."""
    if until <= start:
        return []
    labels = labels_between(cut, midnight(start), midnight(until), as_of=moment)
    return scored_tasks(_scores(home, _days(start, until)), tasks, labels.select(["row", "action"]))


def _told_why(
    signals: Sequence[Signal], start: date, until: date, policy: DriftPolicy
) -> list[Signal]:
    """Performance says which rows it is about, and why it is not known where it is not."""
    if until > start:
        cohort = {"shown": f"{start} to {until}"}
        return [s.model_copy(update={"detail": s.detail | cohort}) for s in signals]
    why = f"labels mature {policy.maturity_days} days after a row was shown; none has yet"
    return [s.model_copy(update={"detail": s.detail | {"why": why}}) for s in signals]


def _workspace(settings: Settings | None, version: str, start: date) -> Workspace | None:
    if settings is None or not settings.evidently:
        return None
    name = f"version {version}, from {start}"
    return Workspace(place=settings.evidently, project=settings.model_name, name=name)


def _inputs(
    current: pa.Table,
    described: pa.Table,
    bound: Reference,
    policy: DriftPolicy,
    page: Path,
    workspace: Workspace | None,
) -> list[Signal]:
    """Distances beyond those between two halves of the reference's own members."""
    rule = policy.rule(Signal(name="any", kind=Kind.INPUT, n=0))
    above = rule.above if isinstance(rule, EffectRule) else DEFAULT_ABOVE
    found = input_drift(
        current, described, policy.inputs, threshold=above, page=page, workspace=workspace
    )
    signals, noises = [], bound.inputs
    if any(one.method not in noises for one in found):
        # The version was bound by the default methods; this policy has others.
        noises = noises | input_noise(described, policy.inputs)
    for one in found:
        noise = noises.get(one.method, {}).get(one.column, 0.0)
        signals.append(
            Signal(
                name=one.column,
                kind=Kind.INPUT,
                effect=max(0.0, one.distance - noise),
                n=one.n,
                detail={"method": one.method, "noise": round(noise, 4)},
            )
        )
    return signals
