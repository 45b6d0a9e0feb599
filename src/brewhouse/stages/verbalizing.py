"""Step 4: histories read through Feast -> prompt trees -> token shards with their manifest.

Works through one shard of members at a time, in parallel processes; members outside the allowed
regions are left out here and counted.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse import offline
from brewhouse.data.rules import excluded_members
from brewhouse.data.snapshot import Snapshot, shard_of
from brewhouse.data.splits import TemporalSplit, to_micros
from brewhouse.data.timelines import Log, Timelines, assert_no_leak, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder, load_domain
from brewhouse.errors import DataError
from brewhouse.evaluation.metrics import auc
from brewhouse.files import atomic_dir, read_json, write_json
from brewhouse.model.sizes import SIZES
from brewhouse.platform.feast_store import FeastStore
from brewhouse.prompts.builder import TreeBuilder, stream_layout, tokenized
from brewhouse.prompts.canary import CanaryBook, plant, sightings
from brewhouse.prompts.evidence import ItemBook, Version, item_book, profile_versions
from brewhouse.prompts.markup import Tagged, sanitize
from brewhouse.prompts.questions import answer_tokens, build_questions
from brewhouse.prompts.shards import write_trees
from brewhouse.prompts.shards_manifest import ShardsManifest, prove_tiers
from brewhouse.prompts.tokenizer import PromptTokenizer, train_tokenizer
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages.common import make_split, note_lineage, publish, tell
from brewhouse.tasks.suite import Suite, load_suite

ROWS = "rows.parquet"
SUMMARY = "summary.json"
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
    tasks: tuple[str, ...]


def run(
    *,
    domain: str,
    snapshot: Path,
    features: Path,
    train_end: str,
    shards_out: Path,
    model: str = "tiny",
    vocab_size: int = 4096,
    max_test_sessions: int = 6000,
    tasks: str = "",
    workers: int = 2,
    publish_to: str = "",
) -> ShardsManifest:
    """Build training, pre-training and test trees.

    Args:
        domain: Built-in name or folder.
        snapshot: Snapshot folder (items and profiles).
        features: Feature folder (the interaction log comes through Feast).
        train_end: End of training or empty for the domain's default.
        shards_out: Folder to write.
        model: A size trained from scratch gets a tokenizer of the domain; a path brings its own.
        vocab_size: Size of the domain's tokenizer.
        max_test_sessions: Test sessions kept over all surfaces and horizons, equal shares a
            surface; the rest is counted in the summary.
        tasks: Comma-separated task names, all by default.
        workers: Processes.
        publish_to: Run folder.
    """
    folder = load_domain(domain)
    suite = load_suite(folder).select([t for t in tasks.split(",") if t])
    cut = Snapshot.open(snapshot)
    last = pc.max(
        cut.read("interactions", columns=["event_at"], months=cut.months()[-1:]).column("event_at")
    ).as_py()
    split = make_split(folder.domain, train_end, last_event=last)
    with (
        tempfile.TemporaryDirectory(prefix="brewhouse-log-") as scratch,
        atomic_dir(shards_out) as out,
    ):
        logs = Path(scratch) / "log"
        counts, sessions = _pull_log(folder, domain, cut, features, logs, split)
        tell(
            f"training until {split.train_end:%Y-%m-%d}, tests from "
            f"{split.test(split.horizons_weeks[0]).start:%Y-%m-%d}"
        )
        tokenizer = _tokenizer(folder, cut, split, model=model, vocab_size=vocab_size)
        tokenizer.save(out / "tokenizer")
        book = build_questions(folder.domain, suite)
        answers = answer_tokens(book, tokenizer.markup, tokenizer.encode)
        share = _test_share(sessions, max_test_sessions)
        work = Work(
            domain=domain,
            snapshot=snapshot,
            logs=logs,
            out=out,
            split=split,
            tokenizer=out / "tokenizer",
            test_share=share,
            tasks=tuple(t.name for t in suite.tasks),
        )
        parts = _map_shards(work, sorted(int(p.name) for p in logs.iterdir()), workers)
        manifest = _finish(
            out, folder, suite, cut, split, parts, counts, sessions, book=book, answers=answers
        )
    publish({"prompts.json": shards_out / ShardsManifest.FILE}, publish_to)
    note_lineage(
        publish_to,
        "verbalize",
        {
            "snapshot": cut.digest,
            "shards": read_json(shards_out / ShardsManifest.FILE)["digest"],
        },
    )
    return manifest


def _pull_log(
    folder: DomainFolder,
    domain: str,
    cut: Snapshot,
    features: Path,
    logs: Path,
    split: TemporalSplit,
) -> tuple[Counter[str], Counter[str]]:
    """Read the log through Feast month by month and sort it into member shards on disk."""
    spec = folder.domain
    out = set()
    if spec.regions:
        members = cut.read("members", columns=["member_id", spec.regions.column])
        out = excluded_members(members, spec.regions.column, spec.regions.allowed)
    counts: Counter[str] = Counter(members_outside_regions=len(out))
    sessions: dict[str, set[str]] = {}
    store = FeastStore(features, domain=spec, domain_path=domain, state=logs.parent)
    store.apply()
    writers: dict[int, pq.ParquetWriter] = {}
    for month in cut.months():
        start = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
        end = (start + timedelta(days=32)).replace(day=1)
        table = store.interactions(start, end)
        outside = pc.is_in(table.column("member_id"), value_set=pa.array(sorted(out), pa.string()))
        counts["rows_outside_regions"] += int(pc.sum(outside).as_py() or 0)
        table = table.filter(pc.invert(outside))
        counts["rows"] += table.num_rows
        _count_sessions(table, split, sessions)
        shard = _shards(table.column("member_id"), cut.shards)
        for number in np.unique(shard).tolist():
            part = table.filter(pa.array(shard == number))
            path = logs / str(number) / "log.parquet"
            if number not in writers:
                path.parent.mkdir(parents=True, exist_ok=True)
                writers[number] = pq.ParquetWriter(path, part.schema)
            writers[number].write_table(part)
    for writer in writers.values():
        writer.close()
    if not writers:
        msg = "no interactions of allowed members; check regions.allowed in the domain"
        raise DataError(msg)
    tell(
        f"{counts['rows']:,} interactions through Feast; {len(out):,} members outside the allowed "
        "regions left out"
    )
    return counts, Counter({k: len(v) for k, v in sessions.items()})


def _shards(ids: pa.ChunkedArray, shards: int) -> np.ndarray:
    of = {member: shard_of(member, shards) for member in pc.unique(ids).to_pylist()}
    return np.array([of[member] for member in ids.to_pylist()], np.int64)


def _count_sessions(table: pa.Table, split: TemporalSplit, found: dict[str, set[str]]) -> None:
    shown = table.column("shown_at")
    for window in split.tests.values():
        lo, hi = (pa.scalar(t, pa.timestamp("us", tz="UTC")) for t in (window.start, window.end))
        inside = table.filter(pc.and_(pc.greater_equal(shown, lo), pc.less(shown, hi)))
        for surface, session in zip(
            inside.column("surface").to_pylist(),
            inside.column("session_id").to_pylist(),
            strict=True,
        ):
            found.setdefault(surface, set()).add(session)


def _test_share(sessions: Counter[str], limit: int) -> dict[str, float]:
    """Share of test sessions kept a surface: small surfaces whole, large ones cut alike."""
    left, share = limit, {}
    for done, (surface, count) in enumerate(sorted(sessions.items(), key=lambda kv: kv[1])):
        fair = left / (len(sessions) - done)
        share[surface] = min(1.0, fair / max(count, 1))
        left -= int(min(count, fair))
    return share


def _tokenizer(
    folder: DomainFolder, cut: Snapshot, split: TemporalSplit, *, model: str, vocab_size: int
) -> PromptTokenizer:
    if model not in SIZES:
        return PromptTokenizer.load(model)
    spec, end = folder.domain, pa.scalar(split.train_end, pa.timestamp("us", tz="UTC"))
    verbalizer, markup = Verbalizer(spec), Tagged()
    members = cut.read("members")
    if spec.regions:
        allowed = pc.is_in(
            members.column(spec.regions.column), value_set=pa.array(spec.regions.allowed)
        )
        members = members.filter(allowed)
    items = cut.read("items")
    texts = [
        verbalizer.item(r)
        for r in items.filter(pc.less(items.column("valid_from"), end)).to_pylist()
    ]
    for row in members.filter(pc.less(members.column("valid_from"), end)).to_pylist():
        texts += [verbalizer.profile(row), verbalizer.update(row)]
    marks = [spec.prompt.instruction, *markup.vocabulary(verbalizer.structural_words())]
    tokenizer = train_tokenizer(
        (f" {sanitize(t)}" for t in texts), marks=marks, vocab_size=vocab_size, markup=markup
    )
    tell(f"tokenizer of {len(tokenizer):,} tokens from {len(texts):,} texts of the training window")
    return tokenizer


def _map_shards(work: Work, numbers: list[int], workers: int) -> list[dict[str, Any]]:
    parts = []
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for part in pool.map(_shard, [(work, n) for n in numbers]):
            parts.append(part)
            tell(
                f"shard {len(parts)} of {len(numbers)}: {part['train']['leaves']:,} training and "
                f"{part['test']['leaves']:,} test targets"
            )
    return parts


_BOOKS: dict[Path, tuple[ItemBook, dict[str, list[Version]]]] = {}


def _shard(job: tuple[Work, int]) -> dict[str, Any]:
    offline.silence()
    work, number = job
    folder = load_domain(work.domain)
    spec = folder.domain
    suite = load_suite(folder).select(list(work.tasks))
    tokenizer = PromptTokenizer.load(work.tokenizer)
    if work.snapshot not in _BOOKS:
        cut, verbalizer = Snapshot.open(work.snapshot), Verbalizer(spec)
        _BOOKS[work.snapshot] = (
            item_book(cut.read("items"), verbalizer),
            profile_versions(cut.read("members"), verbalizer),
        )
    items, versions = _BOOKS[work.snapshot]
    builder = TreeBuilder(
        layout=stream_layout(spec, suite, tokenizer), items=items, versions=versions
    )
    log = log_from_table(pq.read_table(work.logs / str(number) / "log.parquet"))
    known_by = to_micros(work.split.train_end)
    train = _timelines(log, spec, train_rows(log, spec, work.split))
    name = f"shard-{number:04d}.parquet"
    counts: dict[str, Any] = {
        "train": write_trees(
            work.out / "train" / name,
            tokenized(builder.training(train, known_by=known_by), tokenizer),
        ),
        "cpt": write_trees(
            work.out / "cpt" / name,
            tokenized(builder.documents(train, known_by=known_by), tokenizer),
        ),
    }
    chosen = test_rows(log, work.split, work.test_share)
    test = _timelines(log, spec, np.concatenate([*chosen.values(), np.zeros(0, np.int64)]))
    counts["test"] = write_trees(
        work.out / "test" / name, tokenized(builder.requests(test), tokenizer)
    )
    _write_rows(work.out / "rows" / name, test, chosen)
    counts["train_members"] = len(np.unique(log.member[train.targets_Q]))
    known = log.known_at[train.targets_Q]
    counts["last_known"] = max(int(known.max(initial=0)), *builder.newest_told, 0)
    counts["canary"] = _canary(builder, log, spec, test) if len(test.targets_Q) else []
    return counts


def _timelines(log: Log, spec: Any, rows: np.ndarray) -> Timelines:
    timelines = build_timelines(
        log,
        history_surfaces=spec.history_surfaces,
        targets=rows.astype(np.int64),
        lag_micros=int(spec.history.lag.total_seconds() * 1e6),
    )
    assert_no_leak(timelines, newest=spec.history.max_events + 1)
    return timelines


def train_rows(log: Log, spec: Any, split: TemporalSplit) -> np.ndarray:
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
    limit = np.array([share.get(surface, 1.0) for surface in log.surfaces])[log.surface]
    chosen = {}
    for weeks, window in split.tests.items():
        start, end = window.micros
        chosen[weeks] = np.flatnonzero((log.shown_at >= start) & (log.shown_at < end) & (u < limit))
    return chosen


def _write_rows(path: Path, test: Timelines, chosen: dict[int, np.ndarray]) -> None:
    """What evaluation needs to know of each test row besides its scores."""
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
                "surface": pa.array([log.surfaces[s] for s in log.surface[q]], pa.string()),
                "action": pa.array([log.actions[a] for a in log.action[q]], pa.string()),
                "horizon_weeks": pa.array(horizon.astype(np.int64)),
                "history": pa.array(test.branch_Q),
                "sampled": pa.array(~log.logged[q]),
            }
        ),
        path,
    )


def _canary(builder: TreeBuilder, log: Log, spec: Any, test: Timelines) -> list[list[float]]:
    """Label and sighting of some test rows in a log where canaries were planted."""
    rows = test.targets_Q[:CANARY_ROWS]
    none = log.actions.index("none") if "none" in log.actions else -1
    positive = np.zeros(len(log), bool)
    positive[rows] = log.action[rows] != none
    surfaces = set(spec.history_surfaces)
    planted_on = np.isin(np.array(log.surfaces), list(surfaces))[log.surface]
    tampered = plant(log, positive=positive & planted_on, action=int(log.action[rows[0]]))
    rows = rows[planted_on[rows]]
    timelines = build_timelines(
        tampered,
        history_surfaces=spec.history_surfaces,
        targets=rows,
        lag_micros=int(spec.history.lag.total_seconds() * 1e6),
    )
    watcher = TreeBuilder(
        layout=builder.layout, items=CanaryBook(builder.items), versions=builder.versions
    )
    seen = sightings(watcher.requests(timelines))
    return [
        [float(positive[r]), seen[log.interaction_id[r]]]
        for r in rows.tolist()
        if log.interaction_id[r] in seen
    ]


def _finish(
    out: Path,
    folder: DomainFolder,
    suite: Suite,
    cut: Snapshot,
    split: TemporalSplit,
    parts: list[dict[str, Any]],
    counts: Counter[str],
    sessions: Counter[str],
    *,
    book: Any,
    answers: list[list[int]],
) -> ShardsManifest:
    """Join what shards wrote, prove the tiers, and write the manifest last."""
    spec = folder.domain
    totals: dict[str, Any] = {
        kind: {k: sum(p[kind][k] for p in parts) for k in parts[0][kind]}
        for kind in ("train", "cpt", "test")
    }
    totals |= {
        "removed": dict(counts),
        "train_members": sum(p["train_members"] for p in parts),
        "test_sessions_available": dict(sessions),
    }
    rows = pa.concat_tables([pq.read_table(p) for p in sorted((out / "rows").glob("*.parquet"))])
    pq.write_table(rows, out / ROWS)
    pairs = np.array([pair for p in parts for pair in p["canary"]]).reshape(-1, 2)
    canary = auc(pairs[:, 0], pairs[:, 1]) if len(pairs) else float("nan")
    write_json(
        out / SUMMARY,
        {
            "counts": totals,
            "canary": {"auc": None if np.isnan(canary) else canary, "rows": len(pairs)},
        },
    )
    last = max(p["last_known"] for p in parts)
    trained = sorted(
        t.key for t in suite.tasks if spec.surfaces[t.surface].in_training and t.tier == "T1"
    )
    manifest = ShardsManifest(
        domain={"name": spec.name, "version": str(spec.version), "digest": folder.digest},
        snapshot=cut.digest,
        split=split.describe(),
        surfaces=sorted(set(spec.training_surfaces) | set(spec.history_surfaces)),
        tasks=trained,
        last_known=datetime.fromtimestamp(last / 1e6, UTC).isoformat() if last else "",
        counts=totals,
        book=book,
        answers=answers,
        history={"max_events": spec.history.max_events, "max_tokens": spec.history.max_tokens},
    )
    prove_tiers(manifest, suite.tasks)
    manifest.write(out)
    return manifest
