"""The rows that conventional models are trained and tested on, read through Feast."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.baselines.features import FeatureBuilder
from brewhouse.data.rules import excluded_members
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import to_micros
from brewhouse.data.timelines import Log, Timelines, build_timelines, log_from_table
from brewhouse.data.twins import with_twins
from brewhouse.domains.spec import Domain
from brewhouse.platform.feast_store import FeastStore
from brewhouse.prompts.probes import COLD, NEWCOMER
from brewhouse.prompts.shards import read_folder
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages.common import ROWS, make_split
from brewhouse.stages.variant import Variant


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Training and test targets of all tasks, as target numbers of one set of timelines.

    Attributes:
        timelines: Of the log, with twins' rows where some are asked.
        train: Training targets.
        test: Test targets.
        cold: Test targets asked once more, of twins who know `COLD` events at most.
        row_Q: Id of the row that each target is, or repeats.
        member_ids: For each member code of the log, whose profile it has.
        own_rows: Rows of the log that are not twins'.
    """

    timelines: Timelines
    train: np.ndarray
    test: np.ndarray
    cold: np.ndarray
    row_Q: np.ndarray
    member_ids: np.ndarray
    own_rows: int

    @property
    def asked(self) -> np.ndarray:
        """All targets to be scored."""
        return np.concatenate([self.test, self.cold])


def rows_of(
    spec: Domain,
    store: FeastStore,
    cut: Snapshot,
    manifest: ShardsManifest,
    shards: Path,
    variant: Variant,
) -> Rows:
    """Targets of all tasks from the log that Feast gives; newcomers' are asked of twins too."""
    months = cut.months()
    start = datetime.strptime(months[0], "%Y-%m").replace(tzinfo=UTC)
    table = store.interactions(start, datetime(2200, 1, 1, tzinfo=UTC))
    # The same members as the ranker's: those outside the allowed regions are in no model.
    if spec.regions:
        members = cut.read("members", columns=["member_id", spec.regions.column])
        out = excluded_members(members, spec.regions.column, spec.regions.allowed)
        outside = pc.is_in(table.column("member_id"), value_set=pa.array(sorted(out), pa.string()))
        table = table.filter(pc.invert(outside))
    log = log_from_table(table)
    split = make_split(spec, str(manifest.split["train_end"]))
    log = variant.evidence(log, split)
    first, end = split.train.micros
    tested = pq.read_table(shards / ROWS, columns=["row"]).column("row")
    is_test = pc.is_in(
        pa.array(log.interaction_id.tolist(), pa.string()), value_set=tested.combine_chunks()
    ).to_numpy(zero_copy_only=False)
    asked = np.isin(np.array(log.surfaces), [q.surface for q in manifest.book.questions])
    is_train = (log.shown_at >= first) & (log.known_at < end) & asked[log.surface]
    plain = np.flatnonzero(is_train | is_test)

    lag = int(spec.history.lag.total_seconds() * 1e6)
    probed = [row for tree in read_folder(shards / "probes" / NEWCOMER) for row in tree.row_N]
    tests = np.flatnonzero(is_test)
    again = tests[np.isin(log.interaction_id[tests].astype(str), probed)]
    # A twin knows what the ranker is told: events of surfaces that are not held out.
    told = build_timelines(
        log, history_surfaces=spec.history_surfaces, targets=again, lag_micros=lag
    )
    twins = with_twins(told, keep=COLD)
    timelines = build_timelines(
        twins.log,
        history_surfaces=[n for n, s in spec.surfaces.items() if s.history],
        targets=np.concatenate([plain, twins.asked]),
        lag_micros=lag,
    )
    return Rows(
        timelines=timelines,
        train=np.flatnonzero(is_train[plain]),
        test=np.flatnonzero(is_test[plain]),
        cold=np.arange(len(plain), len(timelines.targets_Q)),
        row_Q=log.interaction_id[np.concatenate([plain, twins.original])],
        member_ids=twins.member_ids,
        own_rows=len(log),
    )


def features_of(
    spec: Domain, store: FeastStore, cut: Snapshot, manifest: ShardsManifest, rows: Rows, seed: int
) -> FeatureBuilder:
    """Counted and text features of the targets."""
    t, verbalizer = rows.timelines, Verbalizer(spec, numbers=manifest.numbers)
    members = rows.member_ids[t.log.member[t.targets_Q]]
    profiles = store.profiles_at(members.tolist(), t.moment_Q)
    told = [
        verbalizer.profile({str(k): v for k, v in r.items()}) for r in profiles.to_dict("records")
    ]
    items = _first_versions(cut.read("items"), t.log)
    texts = [verbalizer.question(r) for r in items.to_pylist()]
    end = to_micros(datetime.fromisoformat(str(manifest.split["train_end"])))
    return FeatureBuilder(
        spec, t, items, texts, told, train_end=end, seed=seed, own_rows=rows.own_rows
    )


def _first_versions(items: pa.Table, log: Log) -> pa.Table:
    """First version of each item of the log, in the order of its codes."""
    items = items.sort_by([("item_id", "ascending"), ("valid_from", "ascending")])
    at = pc.index_in(
        pa.array(log.item_ids.tolist(), pa.string()),
        value_set=items.column("item_id").combine_chunks(),
    )
    return items.take(at)
