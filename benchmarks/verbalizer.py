"""(c) Prompts a second: columnar trees against a pandas, f-string and tokenizer loop.

Both tell the same training targets of the same simulated members in the style that is served. The
loop makes one prompt a target, as a user would: filter the member's past in pandas, join f-strings,
call the tokenizer. Raw speed is that of the `tokenizers` library on the loop's finished prompts.
`python benchmarks/verbalizer.py`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common
import numpy as np

MEMBERS = 1500
LOOP_TARGETS = 1500


def prepare(folder: str) -> None:
    """Simulate members, import them, train the tokenizer."""
    from brewhouse.data.snapshot import Snapshot
    from brewhouse.domains.importer import import_source
    from brewhouse.domains.linkedin.simulate import simulate
    from brewhouse.domains.linkedin.world import World
    from brewhouse.domains.loader import load_domain
    from brewhouse.prompts.markup import Tagged
    from brewhouse.prompts.tokenizer import train_tokenizer
    from brewhouse.prompts.verbalizer import Verbalizer

    domain = load_domain("linkedin").domain
    raw, out = Path(folder) / "raw", Path(folder) / "snapshot"
    simulate(World(members=MEMBERS, weeks=12, seed=99), raw, workers=1)
    cut: Snapshot = import_source(domain, raw, out, seed=0, progress=lambda _: None)
    verbalizer, markup = Verbalizer(domain), Tagged()
    texts = [f" {verbalizer.question(row)}" for row in cut.read("items").to_pylist()]
    marks = [*verbalizer.instructions(), *markup.vocabulary(verbalizer.structural_words())]
    tokenizer = train_tokenizer(texts, marks=marks, vocab_size=1024, markup=markup)
    tokenizer.save(Path(folder) / "tokenizer")


def load(folder: str) -> tuple[Any, Any, Any, Any, np.ndarray]:
    """Domain, snapshot, tokenizer, log and the rows that are asked about."""
    from brewhouse.data.snapshot import Snapshot
    from brewhouse.data.timelines import log_from_table
    from brewhouse.domains.loader import load_domain
    from brewhouse.prompts.tokenizer import PromptTokenizer

    folder_, cut = load_domain("linkedin"), Snapshot.open(Path(folder) / "snapshot")
    spec = folder_.domain
    served = {spec.style: spec.prompt.styles[spec.style]}
    prompt = spec.prompt.model_copy(update={"styles": served})
    spec = spec.model_copy(update={"prompt": prompt})
    tokenizer = PromptTokenizer.load(Path(folder) / "tokenizer")
    log = log_from_table(cut.read("interactions"))
    asked = np.isin(np.array(log.surfaces), spec.training_surfaces)[log.surface]
    return (folder_, spec), cut, tokenizer, log, np.flatnonzero(asked)


def ours(folder: str) -> tuple[float, float, int, int]:
    """Seconds to tell and encode items and profiles, seconds for trees, targets, tokens."""
    from brewhouse.data.timelines import build_timelines
    from brewhouse.prompts.builder import stream_layout
    from brewhouse.prompts.columnar import ColumnarBuilder
    from brewhouse.prompts.pieces import PieceStore, voice_pieces
    from brewhouse.tasks.suite import load_suite

    (domain, spec), cut, tokenizer, log, rows = load(folder)
    items, members = cut.read("items"), cut.read("members")
    start = time.perf_counter()
    layout = stream_layout(spec, load_suite(domain), tokenizer)
    pieces = voice_pieces(layout, tokenizer, PieceStore(tokenizer), items=items, members=members)
    told = time.perf_counter()
    timelines = build_timelines(log, history_surfaces=spec.history_surfaces, targets=rows)
    builder = ColumnarBuilder(spec, {spec.style: pieces}, timelines)
    leaves = tokens = 0
    for table in builder.training(known_by=np.iinfo(np.int64).max // 4):
        leaves += sum(len(c.flatten()) for c in table.column("label").chunks)
        tokens += sum(len(c.flatten()) for c in table.column("tokens").chunks)
    return told - start, time.perf_counter() - told, leaves, tokens


def loop(folder: str) -> tuple[float, int, int, float]:
    """Seconds for some targets, their number, their tokens, raw tokens/s of `tokenizers`."""
    (_, spec), cut, tokenizer, log, rows = load(folder)
    items = cut.read("items").to_pandas().set_index("item_id").to_dict("index")
    members = cut.read("members").to_pandas()
    events = cut.read("interactions").to_pandas()
    chosen = np.random.default_rng(0).choice(rows, LOOP_TARGETS, replace=False)
    asked = events.set_index("interaction_id").loc[log.interaction_id[chosen]].reset_index()
    surface = {name: s.word for name, s in spec.surfaces.items()}
    action = {name: a.word for name, a in spec.actions.items()}
    core = tokenizer.tokenizer
    prompts, tokens = [], 0
    start = time.perf_counter()
    of_member = dict(tuple(events.groupby("member_id")))
    profiles = dict(tuple(members.groupby("member_id")))
    for row in asked.itertuples():
        past = of_member[row.member_id]
        past = past[
            (past.event_at < row.shown_at)
            & (past.created_at <= row.shown_at)
            & (past.session_id != row.session_id)
        ]
        past = past.sort_values("event_at").tail(spec.history.max_events)
        known = profiles[row.member_id]
        known = known[known.valid_from < row.shown_at]
        who = known.sort_values("valid_from").iloc[-1] if len(known) else None
        profile = f"{who.seniority} {who.role} {who.skill} {who.area}" if who is not None else ""
        lines = [f"{spec.prompt.instruction}\n<profile> {profile}"]
        for e in past.itertuples():
            i = items[e.item_id]
            lines.append(f"<{surface[e.surface]}> {i['format']} {i['area']}<{action[e.action]}>")
        i = items[row.item_id]
        lines.append(
            f"<{surface[row.surface]}> {i['title']} {i['reach']} {i['format']} {i['area']}"
        )
        prompts.append("\n".join(lines))
        tokens += len(core(prompts[-1])["input_ids"])
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    encoded = core.backend_tokenizer.encode_batch(prompts)
    raw = sum(len(e.ids) for e in encoded) / (time.perf_counter() - start)
    return seconds, LOOP_TARGETS, tokens, raw


def run() -> Iterable[common.Result]:
    """Prompts a second, and the share of raw tokenizer speed."""
    import pandas as pd
    import tokenizers

    with tempfile.TemporaryDirectory() as folder:
        common.in_own_process(prepare, folder)
        (telling, trees, leaves, tokens), memory = common.in_own_process(ours, folder)
        (seconds, targets, looped, raw), peak = common.in_own_process(loop, folder)
    # What a prompt each would hold: the loop's tokens a target.
    alike = looped / targets * leaves
    yield common.result(
        "verbalizer, one process",
        ours=leaves / (telling + trees),
        peer=targets / seconds,
        unit="prompts/s",
        against=f"pandas {pd.__version__} + f-strings + tokenizer, a prompt a target",
        prompts=leaves,
        seconds_items_and_profiles=round(telling, 2),
        seconds_trees=round(trees, 2),
        peak_mib=round(memory),
        peer_peak_mib=round(peak),
    )
    yield common.result(
        "verbalizer, tokens written",
        ours=tokens / (telling + trees),
        peer=raw,
        unit="tokens/s",
        against=f"tokenizers {tokenizers.__version__} encode_batch on finished prompts",
        tokens_of_a_prompt_each_per_s=round(alike / (telling + trees)),
    )


if __name__ == "__main__":
    common.main("verbalizer", run)
