"""Step 4: histories read through Feast -> prompt trees -> token shards with their manifest.

Works through shards of members, in parallel; members outside the allowed regions are left out here
and counted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import TemporalSplit
from brewhouse.domains.loader import DomainFolder, load_domain
from brewhouse.errors import ConfigError
from brewhouse.evaluation.metrics import auc
from brewhouse.files import read_json, write_json
from brewhouse.model.shipped import locate
from brewhouse.model.sizes import SIZES
from brewhouse.prompts.markup import Tagged, sanitize
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.questions import QuestionBook, answer_tokens, build_questions
from brewhouse.prompts.shards_manifest import ShardsManifest, prove_tiers
from brewhouse.prompts.tokenizer import PromptTokenizer, train_tokenizer
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.stages import inputs
from brewhouse.stages.common import ROWS, SUMMARY, make_split, note_lineage, publish, tell
from brewhouse.stages.facets import add_facets
from brewhouse.stages.log_shards import SessionCounts, pull_log, test_share
from brewhouse.stages.shard_work import Work
from brewhouse.stages.telling import TellingPlan, desk, tell_shards
from brewhouse.stages.variant import Variant
from brewhouse.tasks.suite import Suite, load_suite

PROBE_SESSIONS = 800
"""Test sessions that are also told in every other style and with histories tampered with."""
NEWCOMER_SESSIONS = 3000
"""Test sessions that are also told as newcomers': the prompts are short, and so are differences."""


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
    variant: Variant | None = None,
    known_by: datetime | None = None,
    plan: TellingPlan | None = None,
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
        workers: Processes, where no cluster tells.
        variant: What differs from shards that are trained on, for studies and new tasks.
        known_by: Ask as if the log held nothing newer; aware.
        plan: Where shards are told; on this machine if None.
        publish_to: Run folder.
    """
    variant, plan = variant or Variant(), plan or TellingPlan()
    found = load_domain(domain)
    folder = replace(found, domain=variant.domain(found.domain))
    suite = load_suite(folder).select([t for t in tasks.split(",") if t])
    base, cut = _base(model), Snapshot.open(snapshot)
    again = base is not None and not variant.training and variant.days is None
    if base is not None and again and base.snapshot == cut.digest:
        train_end = str(base.split["train_end"])
    last = pc.max(
        cut.read("interactions", columns=["event_at"], months=cut.months()[-1:]).column("event_at")
    ).as_py()
    split = make_split(folder.domain, train_end, last_event=last)
    with desk(plan, snapshot, shards_out) as at:
        out, logs = at.out, at.logs
        asked = {task.surface for task in suite.tasks}
        seen = SessionCounts(split, asked)
        counts = pull_log(
            folder,
            domain,
            cut,
            features,
            logs,
            shards=plan.shards(cut),
            known_by=known_by,
            watch=seen,
        )
        sessions = seen.counts
        tell(
            f"training until {split.train_end:%Y-%m-%d}, tests from "
            f"{split.test(split.horizons_weeks[0]).start:%Y-%m-%d}"
        )
        book = build_questions(folder.domain, suite)
        asks_only = base is not None and not variant.training
        numbers = base.numbers if base and asks_only else _numbers(folder, cut, split)
        tokenizer = _tokenizer(
            folder, cut, split, book, numbers, model=model, vocab_size=vocab_size
        )
        tokenizer.save(out / "tokenizer")
        answers = answer_tokens(book, tokenizer.markup, tokenizer.encode)
        share = test_share(sessions, max_test_sessions)
        work = Work(
            domain=domain,
            snapshot=at.snapshot,
            logs=logs,
            out=out,
            split=split,
            tokenizer=out / "tokenizer",
            test_share=share,
            probe_share=test_share(sessions, min(max_test_sessions, PROBE_SESSIONS)),
            newcomer_share=test_share(sessions, min(max_test_sessions, NEWCOMER_SESSIONS)),
            numbers=numbers,
            tasks=tuple(t.name for t in suite.tasks),
            variant=variant,
        )
        numbered = sorted(int(p.name) for p in logs.iterdir())
        parts = tell_shards(work, numbered, plan, processes=workers)
        manifest = _finish(
            out,
            folder,
            suite,
            cut,
            split,
            parts,
            counts,
            sessions,
            daily=seen.daily,
            book=book,
            answers=answers,
            numbers=numbers,
            base=base,
            variant=variant,
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


def _base(model: str) -> ShardsManifest | None:
    """What the model that training starts from was trained on, where it was one of ours."""
    path = Path(locate(model)) / "prompts.json"
    return ShardsManifest.read_file(path) if model not in SIZES and path.is_file() else None


def _numbers(folder: DomainFolder, cut: Snapshot, split: TemporalSplit) -> NumberWords:
    """Quantiles of the training window, of the members that may be trained on."""
    return NumberWords.fit(
        folder.domain,
        members=_allowed(folder, cut.read("members")),
        items=cut.read("items"),
        train_end=_end(split),
    )


def _allowed(folder: DomainFolder, members: pa.Table) -> pa.Table:
    regions = folder.domain.regions
    if regions is None:
        return members
    return members.filter(
        pc.is_in(members.column(regions.column), value_set=pa.array(regions.allowed))
    )


def _end(split: TemporalSplit) -> pa.Scalar:
    return pa.scalar(split.train_end, pa.timestamp("us", tz="UTC"))


def _tokenizer(
    folder: DomainFolder,
    cut: Snapshot,
    split: TemporalSplit,
    book: QuestionBook,
    numbers: NumberWords,
    *,
    model: str,
    vocab_size: int,
) -> PromptTokenizer:
    """A size brings a tokenizer trained on the styles that are trained on, a path its own."""
    if model not in SIZES:
        return PromptTokenizer.load(locate(model))
    spec, markup, end = folder.domain, Tagged(), _end(split)
    members, items = _allowed(folder, cut.read("members")), cut.read("items")
    known = [
        table.filter(pc.less(table.column("valid_from"), end)).to_pylist()
        for table in (items, members)
    ]
    texts: list[str] = []
    for style, told in spec.prompt.styles.items():
        if told.share:
            verbalizer = Verbalizer(spec, style=style, numbers=numbers)
            texts += [verbalizer.question(row) for row in known[0]]
            for row in known[1]:
                texts += [verbalizer.profile(row), verbalizer.update(row)]
    # Words that tasks bring themselves are structure too: each gets a token of its own.
    own = [word for q in book.questions for word in (q.word, *q.answers)]
    verbalizer = Verbalizer(spec)
    words = list(dict.fromkeys([*verbalizer.structural_words(), *own]))
    marks = [*verbalizer.instructions(), *markup.vocabulary(words)]
    tokenizer = train_tokenizer(
        (f" {sanitize(t)}" for t in texts), marks=marks, vocab_size=vocab_size, markup=markup
    )
    tell(f"tokenizer of {len(tokenizer):,} tokens from {len(texts):,} texts of the training window")
    return tokenizer


def _refuse_empty(totals: dict[str, Any], split: TemporalSplit, *, kinds: tuple[str, ...]) -> None:
    """Stop before training when a window holds nothing."""
    windows = {"train": split.train, "test": split.test(split.horizons_weeks[0])}
    for kind in kinds:
        window = windows[kind]
        if not totals[kind]["leaves"]:
            msg = (
                f"no {kind} targets between {window.start:%Y-%m-%d} and {window.end:%Y-%m-%d}; "
                "choose another --train-end, or other windows in the domain's defaults"
            )
            raise ConfigError(msg)


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat() if micros else ""


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
    daily: dict[str, Counter[str]],
    book: QuestionBook,
    answers: list[list[int]],
    numbers: NumberWords,
    base: ShardsManifest | None,
    variant: Variant,
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
        "history_pairs_checked": sum(p["pairs_checked"] for p in parts),
        "test_sessions_available": dict(sessions),
    }
    _refuse_empty(totals, split, kinds=("train", "test") if variant.training else ("test",))
    rows = pa.concat_tables([pq.read_table(p) for p in sorted((out / "rows").glob("*.parquet"))])
    start = split.test(split.horizons_weeks[0]).start
    pq.write_table(add_facets(rows, cut, spec, tests_start=start), out / ROWS)
    inputs.write(out, cut, spec)
    pairs = np.array([pair for p in parts for pair in p["canary"]]).reshape(-1, 2)
    canary = auc(pairs[:, 0], pairs[:, 1]) if len(pairs) else float("nan")
    write_json(
        out / SUMMARY,
        {
            "counts": totals,
            "canary": {"auc": None if np.isnan(canary) else canary, "rows": len(pairs)},
            "daily": {day: dict(sorted(n.items())) for day, n in sorted(daily.items())},
        },
    )
    first = min((p["first_test"] for p in parts if p["first_test"] is not None), default=0)
    last = max(p["last_known"] for p in parts)
    # What was written, not what was meant: the proof of T2 rests on these.
    asked = {surface for p in parts for surface in p["asked_surfaces"]}
    told = {surface for p in parts for surface in p["told_surfaces"]}
    trained = {t.key for t in suite.tasks if t.surface in asked}
    surfaces = asked | told
    if base is not None:
        trained, surfaces = trained | set(base.tasks), surfaces | set(base.surfaces)
    last_known = _iso(last)
    if base is not None and not variant.training:
        # Nothing is trained on these shards: the model knows of them what it was trained on.
        last_known = base.last_known if base.snapshot == cut.digest else ""
    manifest = ShardsManifest(
        domain={"name": spec.name, "version": str(spec.version), "digest": folder.digest},
        snapshot=cut.digest,
        split=split.describe(),
        surfaces=sorted(surfaces),
        tasks=sorted(trained),
        last_known=last_known,
        first_test=_iso(first),
        counts=totals,
        book=book,
        answers=answers,
        history={"max_events": spec.history.max_events, "max_tokens": spec.history.max_tokens},
        style=spec.style,
        numbers=numbers,
        base=base.snapshot if base else "",
    )
    prove_tiers(manifest, suite.tasks)
    manifest.write(out)
    return manifest
