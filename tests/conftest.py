"""Shared worlds, made once a session from seeds."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brewhouse import offline

offline.silence()
if "PYTEST_XDIST_WORKER" in os.environ:  # Workers share the cores.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from brewhouse.data.schema import conform, interactions_schema  # noqa: E402
from brewhouse.data.snapshot import Snapshot  # noqa: E402
from brewhouse.domains.importer import import_source  # noqa: E402
from brewhouse.domains.linkedin.simulate import simulate  # noqa: E402
from brewhouse.domains.linkedin.world import World, preset  # noqa: E402
from brewhouse.domains.loader import DomainFolder, load_domain  # noqa: E402
from brewhouse.prompts.markup import Tagged  # noqa: E402
from brewhouse.prompts.numbers import NumberWords  # noqa: E402
from brewhouse.prompts.questions import QuestionBook, answer_tokens, build_questions  # noqa: E402
from brewhouse.prompts.shards import write_trees  # noqa: E402
from brewhouse.prompts.shards_manifest import ShardsManifest  # noqa: E402
from brewhouse.prompts.tokenizer import PromptTokenizer, train_tokenizer  # noqa: E402
from brewhouse.prompts.tree import TokenTree  # noqa: E402
from brewhouse.prompts.verbalizer import Verbalizer  # noqa: E402
from brewhouse.tasks.suite import load_suite  # noqa: E402

pytest_plugins = ["tests.containers", "tests.servers"]
ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


TOGETHER = {"kfp": "rights", "kube": "rights", "images": "images", "cluster": "images"}
"""Folders whose tests share a worker: those that record calls with those that compare them."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Send a file's tests to one worker, so that its fixtures are made once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::")[0]
            return TOGETHER.get(Path(path).parent.name, path)

    return Files(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip by name what this machine cannot run."""
    import torch

    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device on this machine"))
        if item.get_closest_marker("shared_data") and not (SHARED / "data").is_dir():
            item.add_marker(pytest.mark.skip(reason="data folder ../shared/data is absent"))


@pytest.fixture(scope="session")
def linkedin() -> DomainFolder:
    return load_domain("linkedin")


@pytest.fixture(scope="session")
def tiny_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(preset("tiny", seed=11), tmp_path_factory.mktemp("tiny") / "raw", workers=1)


@pytest.fixture(scope="session")
def tiny(
    tiny_raw: Path, linkedin: DomainFolder, tmp_path_factory: pytest.TempPathFactory
) -> Snapshot:
    return import_source(linkedin.domain, tiny_raw, tmp_path_factory.mktemp("tiny") / "snapshot")


@pytest.fixture(scope="session")
def thousand(linkedin: DomainFolder, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A snapshot of 1,200 members over six weeks."""
    folder = tmp_path_factory.mktemp("thousand")
    world = World(
        members=1200, weeks=6, seed=21, names=150, role_change_per_week=0.05, late_log_share=0.2
    )
    raw = simulate(world, folder / "raw")
    # Every third item gets a second version a week later: histories must tell the one then shown.
    items = pq.read_table(raw / "items.parquet").to_pandas()
    later = items.iloc[::3].copy()
    later["valid_from"] += pd.Timedelta(days=7)
    later["title"] = "renamed " + later["title"]
    pd.concat([items, later]).to_parquet(raw / "items.parquet", coerce_timestamps="us")
    return import_source(linkedin.domain, raw, folder / "snapshot")


@pytest.fixture(scope="session")
def tokenizer(linkedin: DomainFolder, tiny: Snapshot) -> PromptTokenizer:
    verbalizer, markup = Verbalizer(linkedin.domain), Tagged()
    texts = [f" {verbalizer.question(row)}" for row in tiny.read("items").to_pylist()[:2000]]
    marks = [*verbalizer.instructions(), *markup.vocabulary(verbalizer.structural_words())]
    return train_tokenizer(texts, marks=marks, vocab_size=800, markup=markup)


def at(day: float) -> datetime:
    """Day number `day` of a made-up month, with fractions as hours."""
    return datetime.fromtimestamp(1_704_067_200 + day * 86_400, UTC)


def log_table(rows: list[dict[str, object]]) -> pa.Table:
    """Interactions from short rows: `shown` is a day number, `event` and `logged` default to it."""
    full = []
    for number, row in enumerate(rows):
        shown = float(row["shown"])
        event = float(row.get("event", shown))
        full.append(
            {
                "interaction_id": row.get("id", f"x{number}"),
                "member_id": row.get("member", "m1"),
                "item_id": row.get("item", f"i{number}"),
                "surface": row.get("surface", "jobs"),
                "action": row.get("action", "none"),
                "session_id": row.get("session", f"s{number}"),
                "shown_at": at(shown),
                "event_at": at(event),
                "created_at": at(float(row.get("logged", event))),
                "origin": row.get("origin", "logged"),
                "weight": 1.0,
            }
        )
    return conform(pa.Table.from_pylist(full), interactions_schema(), name="interactions")


@pytest.fixture(scope="session")
def shards(linkedin: DomainFolder, tokenizer: PromptTokenizer, tmp_path_factory) -> Path:
    """Shards in which the answer is told by the item: something a tiny model can learn."""
    folder = tmp_path_factory.mktemp("shards")
    book = build_questions(linkedin.domain, load_suite(linkedin))
    answers = answer_tokens(book, Tagged(), tokenizer.encode)
    rng = np.random.default_rng(0)
    trees = [_tree(rng, book, i) for i in range(600)]
    counts = write_trees(folder / "train" / "shard-0000.parquet", trees, batch=150)
    write_trees(folder / "cpt" / "shard-0000.parquet", trees[:100])
    tokenizer.save(folder / "tokenizer")
    ShardsManifest(
        domain={"name": "linkedin"},
        snapshot="sha256:0",
        split={},
        surfaces=[],
        tasks=[],
        last_known="",
        first_test="",
        counts={"train": counts},
        book=book,
        answers=answers,
        history={},
        style="short",
        numbers=NumberWords(members={}, items={}),
    ).write(folder)
    return folder


def _tree(rng: np.random.Generator, book: QuestionBook, number: int) -> TokenTree:
    trunk, leaves = int(rng.integers(3, 25)), int(rng.integers(1, 5))
    labels = rng.integers(0, 2, leaves)
    tokens = rng.integers(300, 700, trunk + 2 * leaves).astype(np.int32)
    tokens[trunk + 1 :: 2] = 400 + labels
    return TokenTree(
        member=f"m{number}",
        tokens_T=tokens,
        trunk=trunk,
        leaf_start_N=trunk + 2 * np.arange(leaves),
        branch_N=np.full(leaves, trunk),
        question_N=np.zeros(leaves, np.int64),
        label_N=labels,
        weight_N=np.ones(leaves, np.float32),
        row_N=tuple(f"{number}-{i}" for i in range(leaves)),
    )
