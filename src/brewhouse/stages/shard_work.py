"""One shard of members: its timelines, its trees, its canaries. Runs in a process of its own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brewhouse import offline
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import TemporalSplit, to_micros
from brewhouse.data.timelines import Log, Timelines, assert_no_leak, build_timelines, log_from_table
from brewhouse.domains.loader import load_domain
from brewhouse.domains.spec import Domain
from brewhouse.prompts.builder import TreeBuilder, Voice, stream_layout, tokenized, voices
from brewhouse.prompts.canary import CanaryBook, plant, sightings
from brewhouse.prompts.columnar import ColumnarBuilder
from brewhouse.prompts.evidence import profile_versions
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.pieces import PieceStore, VoicePieces, voice_pieces, with_members
from brewhouse.prompts.probes import NEWCOMER, distortions
from brewhouse.prompts.shards import write_tables, write_trees
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages.log_shards import LOG, MEMBERS
from brewhouse.stages.variant import Variant
from brewhouse.tasks.suite import Suite, load_suite

CANARY_ROWS = 600


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every shard's process needs to know; small and picklable."""

    domain: str
    snapshot: Path
    logs: Path
    out: Path
    split: TemporalSplit
    tokenizer: Path
    test_share: dict[str, float]
    probe_share: dict[str, float]
    newcomer_share: dict[str, float]
    numbers: NumberWords
    tasks: tuple[str, ...]
    variant: Variant


@dataclass(frozen=True, kw_only=True)
class Telling:
    """Items and profiles, told and encoded.

    A process keeps those of items between shards; profiles are of one shard's members, so that its
    memory does not grow with members.
    """

    pieces: dict[str, VoicePieces]
    served: Voice
    tokenizer: PromptTokenizer
    store: PieceStore
    mark: int

    def of(self, members: pa.Table) -> Telling:
        """With the profiles of some members, in place of those of the shard before."""
        self.store.rewind(self.mark)
        versions = profile_versions(members, self.served.layout.verbalizer)
        return replace(
            self,
            pieces={style: with_members(p, members) for style, p in self.pieces.items()},
            served=replace(self.served, versions=versions),
        )


_KEPT: dict[Path, Telling] = {}


def _telling(work: Work, spec: Domain, suite: Suite) -> Telling:
    if work.out not in _KEPT:
        tokenizer = PromptTokenizer.load(work.tokenizer)
        cut = Snapshot.open(work.snapshot)
        items, members = cut.read("items"), cut.read("members", shards=[])
        store, pieces = PieceStore(tokenizer), {}
        for style in spec.prompt.styles:
            verbalizer = Verbalizer(spec, style=style, numbers=work.numbers)
            layout = stream_layout(spec, suite, tokenizer, verbalizer=verbalizer)
            pieces[style] = voice_pieces(layout, tokenizer, store, items=items, members=members)
        served = voices(
            spec,
            suite,
            tokenizer,
            items=items,
            members=members,
            numbers=work.numbers,
            styles=[spec.style],
        )
        _KEPT[work.out] = Telling(
            pieces=pieces,
            served=served[spec.style],
            tokenizer=tokenizer,
            store=store,
            mark=store.mark(),
        )
    return _KEPT[work.out]


def tell_shard(job: tuple[Work, int]) -> dict[str, Any]:
    """Write the training, pre-training and test trees of one shard; return what was counted."""
    offline.silence()
    work, number = job
    folder = load_domain(work.domain)
    spec = work.variant.domain(folder.domain)
    suite = load_suite(folder).select(list(work.tasks))
    home = work.logs / str(number)
    telling = _telling(work, spec, suite).of(pq.read_table(home / MEMBERS))
    raw = log_from_table(pq.read_table(home / LOG))
    log = work.variant.evidence(raw, work.split)
    known_by = to_micros(work.split.train_end)
    wanted = train_rows(log, spec, work.split) if work.variant.training else np.zeros(0, np.int64)
    train, pairs = _timelines(log, spec, wanted)
    name = f"shard-{number:04d}.parquet"
    builder = ColumnarBuilder(spec, telling.pieces, train)
    counts: dict[str, Any] = {
        "train": write_tables(work.out / "train" / name, builder.training(known_by=known_by)),
        "cpt": write_tables(
            work.out / "cpt" / name,
            builder.documents(known_by=known_by) if work.variant.training else iter(()),
        ),
    }
    chosen = test_rows(log, work.split, work.test_share)
    test, more = _timelines(log, spec, np.concatenate([*chosen.values(), np.zeros(0, np.int64)]))
    asking = ColumnarBuilder(spec, telling.pieces, test)
    counts["test"] = write_tables(work.out / "test" / name, asking.requests())
    _write_rows(work.out / "rows" / name, test, chosen, drawn=~raw.logged)
    if work.variant.probes:
        _write_probes(work, telling, spec, log, name)
    counts["pairs_checked"] = pairs + more
    seen = {"asked": train.targets_Q, "told": train.events_E}
    for kind, rows in seen.items():
        codes = np.unique(log.surface[rows])
        counts[f"{kind}_surfaces"] = [log.surfaces[c] for c in codes.tolist()]
    counts["train_members"] = len(np.unique(log.member[train.targets_Q]))
    known = log.known_at[train.targets_Q]
    counts["first_test"] = int(log.shown_at[test.targets_Q].min()) if len(test.targets_Q) else None
    counts["last_known"] = max(int(known.max(initial=0)), builder.newest_told)
    counts["canary"] = _canary(telling.served, log, spec, test) if len(test.targets_Q) else []
    return counts


def _write_probes(work: Work, telling: Telling, spec: Domain, log: Log, name: str) -> None:
    """The same few requests in every other style, and with histories tampered with."""

    def asked(share: dict[str, float]) -> Timelines:
        rows = test_rows(log, work.split, share)[min(work.split.tests)]
        return _timelines(log, spec, rows)[0]

    few, only = asked(work.probe_share), work.variant.probe
    if not only:
        asking = ColumnarBuilder(spec, telling.pieces, few)
        for style in spec.prompt.styles:
            if style != spec.style:
                write_tables(work.out / "styles" / style / name, asking.requests(style=style))
    builder = TreeBuilder(domain=spec, voices={spec.style: telling.served})
    for probe, distort in distortions(spec).items():
        if only not in ("", probe):
            continue
        timelines = asked(work.newcomer_share) if probe == NEWCOMER else few
        trees = tokenized(builder.requests(timelines, distort=distort), telling.tokenizer)
        write_trees(work.out / "probes" / probe / name, trees)


def _timelines(log: Log, spec: Domain, rows: np.ndarray) -> tuple[Timelines, int]:
    """Timelines, and how many (target, event) pairs were checked for leaks."""
    timelines = build_timelines(
        log,
        history_surfaces=spec.history_surfaces,
        targets=rows.astype(np.int64),
        lag_micros=int(spec.history.lag.total_seconds() * 1e6),
    )
    return timelines, assert_no_leak(timelines, newest=spec.history.max_events + 1)


def train_rows(log: Log, spec: Domain, split: TemporalSplit) -> np.ndarray:
    """Rows that may be training targets: shown in the window, and known before it ends."""
    start, end = split.train.micros
    allowed = np.isin(np.array(log.surfaces), spec.training_surfaces)[log.surface]
    return np.flatnonzero((log.shown_at >= start) & (log.known_at < end) & allowed)


def test_rows(log: Log, split: TemporalSplit, share: dict[str, float]) -> dict[int, np.ndarray]:
    """Test rows by horizon: whole sessions, chosen by a hash of their first row's id."""
    first: dict[int, str] = {}
    for session, row in zip(log.session.tolist(), log.interaction_id.tolist(), strict=True):
        first.setdefault(session, row)
    draw = {
        s: int.from_bytes(hashlib.blake2b(r.encode(), digest_size=6).digest()) / 2**48
        for s, r in first.items()
    }
    u = np.array([draw[s] for s in log.session.tolist()])
    limit = np.array([share.get(surface, 0.0) for surface in log.surfaces])[log.surface]
    chosen = {}
    for weeks, window in split.tests.items():
        start, end = window.micros
        chosen[weeks] = np.flatnonzero((log.shown_at >= start) & (log.shown_at < end) & (u < limit))
    return chosen


def _write_rows(
    path: Path, test: Timelines, chosen: dict[int, np.ndarray], *, drawn: np.ndarray
) -> None:
    """What evaluation needs to know of each test row besides its scores.

    `drawn` tells, a log row, whether a policy drew it as a negative.
    """
    log = test.log
    horizon = np.concatenate(
        [np.full(len(rows), weeks) for weeks, rows in chosen.items()] or [np.zeros(0)]
    )
    q = test.targets_Q
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "row": pa.array(log.interaction_id[q].tolist(), pa.string()),
                "member": pa.array(log.member_ids[log.member[q]].tolist(), pa.string()),
                "item": pa.array(log.item_ids[log.item[q]].tolist(), pa.string()),
                "shown_at": pa.array(log.shown_at[q], pa.timestamp("us", tz="UTC")),
                "surface": pa.array([log.surfaces[s] for s in log.surface[q]], pa.string()),
                "action": pa.array([log.actions[a] for a in log.action[q]], pa.string()),
                "horizon_weeks": pa.array(horizon.astype(np.int64)),
                "history": pa.array(test.branch_Q),
                "sampled": pa.array(drawn[q]),
            }
        ),
        path,
    )


def _canary(voice: Voice, log: Log, spec: Domain, test: Timelines) -> list[list[float]]:
    """Label and sighting of some test rows in a log where canaries were planted."""
    rows = test.targets_Q[:CANARY_ROWS]
    none = log.actions.index("none") if "none" in log.actions else -1
    positive = np.zeros(len(log), bool)
    positive[rows] = log.action[rows] != none
    surfaces = set(spec.history_surfaces)
    planted_on = np.isin(np.array(log.surfaces), list(surfaces))[log.surface]
    lag = int(spec.history.lag.total_seconds() * 1e6)
    action = int(log.action[rows[0]])
    tampered = plant(log, positive=positive & planted_on, action=action, lag_micros=lag)
    rows = rows[planted_on[rows]]
    timelines = build_timelines(
        tampered,
        history_surfaces=spec.history_surfaces,
        targets=rows,
        lag_micros=lag,
    )
    watching = replace(voice, items=CanaryBook(voice.items))
    watcher = TreeBuilder(domain=spec, voices={spec.style: watching})
    seen = sightings(watcher.requests(timelines))
    return [
        [float(positive[r]), seen[log.interaction_id[r]]]
        for r in rows.tolist()
        if log.interaction_id[r] in seen
    ]
