"""Batch scoring: members and candidates -> scores of a model, by the path that evaluation takes.

The same timelines, trees, files and scorer as in evaluation, so that a request scored here gets the
very numbers that it would be judged by.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse import offline
from brewhouse.data import requests as data
from brewhouse.data.rules import excluded_members
from brewhouse.data.schema import interactions_schema
from brewhouse.data.snapshot import Snapshot, shard_of
from brewhouse.data.timelines import assert_no_leak, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder, load_domain
from brewhouse.domains.spec import Domain
from brewhouse.errors import DataError, ModelError
from brewhouse.files import read_json
from brewhouse.prompts.builder import stream_layout
from brewhouse.prompts.columnar import ColumnarBuilder
from brewhouse.prompts.pieces import PieceStore, voice_pieces
from brewhouse.prompts.questions import QuestionBook, answer_tokens, build_questions
from brewhouse.prompts.shards import write_tables
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.scoring.files import Scored, read_scores
from brewhouse.stages import features as feature_step
from brewhouse.stages.common import code_version, tell
from brewhouse.stages.log_shards import pull_log
from brewhouse.stages.scoring import ScoringPlan, scored_files
from brewhouse.tasks.suite import Suite, load_suite

KIND = "requests"
ABOUT_KEY = b"brewhouse"
OUT = pa.schema(
    [
        *data.SCHEMA,
        pa.field("task", pa.string(), nullable=False),
        pa.field("log_odds", pa.float32(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
    ]
)
"""One row a candidate and task; `rank` counts from 1 within request and task, best first."""


@dataclass(frozen=True, kw_only=True)
class Asking:
    """What the process that tells a shard's requests needs; small and picklable."""

    domain: str
    snapshot: Path
    work: Path
    model: Path
    tasks: tuple[str, ...]


def run(
    *,
    domain: str,
    snapshot: Path,
    requests: pa.Table,
    model: Path,
    out: Path,
    features: Path | None = None,
    tasks: str = "",
    scoring: ScoringPlan | None = None,
    workers: int = 1,
    model_name: str = "",
) -> dict[str, Any]:
    """Score candidates and write them with their ranks; return what was done.

    Args:
        domain: Built-in name or folder; tasks in it that the model never saw are asked too.
        snapshot: Snapshot folder: profiles, items and the log.
        requests: Of `data.requests.SCHEMA`.
        model: Exported model.
        out: Parquet file to write, whole or not at all.
        features: Feature folder of the snapshot; filled in a scratch folder if None.
        tasks: Comma-separated task names; all whose surface is asked about by default.
        scoring: How trees are scored; in this process if None.
        workers: Processes that tell histories.
        model_name: What to call the model in the file's metadata.

    Raises:
        DataError: A candidate cannot be scored; nothing is written.
        ModelError: The model is of another domain, or tells no prompts.
    """
    folder = load_domain(domain)
    trained = _trained(model)
    if trained.domain["name"] != folder.domain.name:
        msg = f"{model} is a model of domain {trained.domain['name']}, not {folder.domain.name}"
        raise ModelError(msg)
    if trained.domain.get("digest") not in (None, folder.digest):
        tell(f"domain {folder.domain.name} has changed since the model was trained")
    suite = load_suite(folder).select([t for t in tasks.split(",") if t])
    cut = Snapshot.open(snapshot)
    excluded: set[str] = set()
    if regions := folder.domain.regions:
        members = cut.read("members", columns=["member_id", regions.column])
        excluded = excluded_members(members, regions.column, regions.allowed)
    data.check_requests(requests, cut, {t.surface for t in suite.tasks}, excluded)
    asked = set(pc.unique(requests.column("surface")).to_pylist())
    suite = suite.select([t.name for t in suite.tasks if t.surface in asked])
    with tempfile.TemporaryDirectory(prefix="brewhouse-requests-", dir=_beside(out)) as scratch:
        work = Path(scratch)
        with _features(features, domain, snapshot, work) as filled:
            wanted = pc.unique(requests.column("member_id"))
            pull_log(folder, domain, cut, filled, work / "log", members=wanted)
        asking = Asking(
            domain=domain,
            snapshot=snapshot,
            work=work,
            model=model,
            tasks=tuple(t.name for t in suite.tasks),
        )
        shards = _write_requests(work, requests, cut.shards)
        pairs = _tell_all(asking, shards, workers)
        book = _write_manifest(work, folder, suite, cut, trained, model)
        tell(f"{len(requests):,} candidates told, {pairs:,} pairs checked for leaks")
        about = {
            "schema_version": 1,
            "model": model_name or str(model),
            "domain": folder.domain.name,
            "snapshot": cut.digest,
            "code": code_version(),
            "tasks": [t.key for t in suite.tasks],
            "candidates": len(requests),
            "requests": len(pc.unique(requests.column("request_id"))),
        }
        with scored_files(work, KIND, model, scoring or ScoringPlan()) as files:
            cost = _write_scores(out, work, files, suite, book, about)
    return about | cost


def _beside(out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.parent


def _trained(model: Path) -> ShardsManifest:
    path = model / "prompts.json"
    if not path.is_file():
        msg = f"{model}: no prompts.json; score with a model that `brewhouse train` exported"
        raise ModelError(msg)
    return ShardsManifest.read_file(path)


@contextmanager
def _features(given: Path | None, domain: str, snapshot: Path, work: Path) -> Iterator[Path]:
    """The features of this very snapshot."""
    if given is None:
        feature_step.run(domain=domain, snapshot=snapshot, features_out=work / "features")
        yield work / "features"
        return
    about = given / feature_step.ABOUT
    found = read_json(about)["snapshot"] if about.is_file() else "nothing"
    wanted = Snapshot.open(snapshot).digest
    if found != wanted:
        msg = f"{given} was filled from {found}, not from {wanted}; fill features anew"
        raise DataError(msg)
    yield given


def _write_requests(work: Path, requests: pa.Table, shards: int) -> list[int]:
    """Sort requests into the shards of their members; return those that have any."""
    rows = pa.array([str(n) for n in range(len(requests))], pa.string())
    table = requests.append_column("row", rows)
    encoded = pc.dictionary_encode(table.column("member_id").combine_chunks())
    of = np.array([shard_of(m, shards) for m in encoded.dictionary.to_pylist()], np.int64)
    shard = of[encoded.indices.to_numpy()]
    numbers: list[int] = np.unique(shard).tolist()
    for number in numbers:
        path = work / "asked" / _name(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pa.array(shard == number)), path)
    return numbers


def _name(number: int) -> str:
    return f"shard-{number:04d}.parquet"


def _tell_all(asking: Asking, shards: list[int], workers: int) -> int:
    """Write the trees of every shard; return how many pairs were checked for leaks."""
    jobs = [(asking, n) for n in shards]
    if workers == 1 or len(jobs) == 1:
        return sum(ask_shard(job) for job in jobs)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(ask_shard, jobs))


def ask_shard(job: tuple[Asking, int]) -> int:
    """Write the trees of one shard's requests; return how many pairs were checked for leaks."""
    offline.silence()
    asking, number = job
    folder, cut = load_domain(asking.domain), Snapshot.open(asking.snapshot)
    trained = _trained(asking.model)
    spec = _as_trained(folder.domain, trained)
    suite = load_suite(folder).select(list(asking.tasks))
    asked = pq.read_table(asking.work / "asked" / _name(number))
    past = asking.work / "log" / str(number) / "log.parquet"
    known = pq.read_table(past) if past.is_file() else interactions_schema().empty_table()
    log = log_from_table(
        pa.concat_tables([known, data.as_interactions(asked, action=next(iter(spec.actions)))])
    )
    timelines = build_timelines(
        log,
        history_surfaces=spec.history_surfaces,
        targets=np.arange(len(known), len(log)),
        lag_micros=int(spec.history.lag.total_seconds() * 1e6),
    )
    pairs = assert_no_leak(timelines, newest=spec.history.max_events + 1)
    tokenizer = PromptTokenizer.load(asking.model)
    verbalizer = Verbalizer(spec, style=trained.style, numbers=trained.numbers)
    pieces = voice_pieces(
        stream_layout(spec, suite, tokenizer, verbalizer=verbalizer),
        tokenizer,
        PieceStore(tokenizer),
        items=_of(cut.read("items"), "item_id", log.item_ids),
        members=_of(cut.read("members", shards=[number]), "member_id", log.member_ids),
    )
    builder = ColumnarBuilder(spec, {trained.style: pieces}, timelines)
    write_tables(asking.work / KIND / _name(number), builder.requests(style=trained.style))
    return pairs


def _of(table: pa.Table, column: str, wanted: np.ndarray) -> pa.Table:
    return table.filter(pc.is_in(table.column(column), value_set=pa.array(wanted, pa.string())))


def _as_trained(spec: Domain, trained: ShardsManifest) -> Domain:
    """The domain with the histories that the model was judged with."""
    if trained.style not in spec.prompt.styles:
        known = ", ".join(spec.prompt.styles)
        msg = f"the model is told style '{trained.style}', the domain has {known}"
        raise ModelError(msg)
    history = spec.history.model_copy(update=trained.history)
    return spec.model_copy(update={"history": history})


def _write_manifest(
    work: Path,
    folder: DomainFolder,
    suite: Suite,
    cut: Snapshot,
    trained: ShardsManifest,
    model: Path,
) -> QuestionBook:
    """Say what is asked, so that the scorer puts these questions."""
    tokenizer = PromptTokenizer.load(model)
    book = build_questions(folder.domain, suite)
    answers = answer_tokens(book, tokenizer.markup, tokenizer.encode)
    asked = replace(trained, snapshot=cut.digest, book=book, answers=answers)
    asked.write(work)
    return book


def _write_scores(
    out: Path,
    work: Path,
    files: Sequence[Path],
    suite: Suite,
    book: QuestionBook,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write scores, a shard of members at a time; tell what they took."""
    part = work / "scores.parquet"
    seconds, tokens, needed = 0.0, 0, 0
    metadata = {ABOUT_KEY: json.dumps(about, sort_keys=True).encode()}
    with pq.ParquetWriter(part, OUT.with_metadata(metadata), compression="zstd") as writer:
        for path in files:
            asked, found = pq.read_table(work / "asked" / path.name), read_scores([path])
            for task in suite.tasks:
                on = asked.filter(pc.equal(asked.column("surface"), task.surface))
                if len(on):
                    writer.write_table(_task_scores(task.name, on, found, book))
            seconds += found.seconds
            tokens += found.leaves.tokens
            needed += found.needed
    part.replace(out)
    return {"tokens": tokens, "needed": needed, "seconds": seconds}


def _task_scores(task: str, asked: pa.Table, found: Scored, book: QuestionBook) -> pa.Table:
    """Scores of one task in the order of the requests."""
    own = found.leaves.question_N == book.readings[task].question
    rows = pa.array(found.leaves.rows_N[own].tolist(), pa.string())
    at = pc.index_in(asked.column("row"), value_set=rows)
    if at.null_count:
        msg = f"task {task}: {at.null_count} of {len(at)} candidates got no score; run it again"
        raise DataError(msg)
    log_odds = book.log_odds(task, found.leaves.logits_NA[own])[at.to_numpy()]
    request = pc.index_in(asked.column("request_id"), pc.unique(asked.column("request_id")))
    order = np.lexsort((np.arange(len(log_odds)), -log_odds, request.to_numpy()))
    request = request.to_numpy()[order]
    first = np.flatnonzero(np.diff(request, prepend=-1))
    place = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    rank = np.empty(len(order), np.int32)
    rank[order] = place + 1
    columns = [asked.column(name) for name in data.SCHEMA.names]
    columns += [
        pa.array([task] * len(asked), pa.string()),
        pa.array(log_odds, pa.float32()),
        pa.array(rank),
    ]
    return pa.Table.from_arrays(columns, schema=OUT)
