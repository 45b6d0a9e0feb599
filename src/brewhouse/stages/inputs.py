"""What prompts look like, a row a question: the sample that input drift is measured on.

Written beside the test rows, so that a version's reference and a window in use are described by
the same code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.queries import connect
from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.spec import Domain
from brewhouse.errors import ModelError
from brewhouse.prompts.markup import data
from brewhouse.prompts.shards import read_trees
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.stages.common import ROWS

INPUTS = "inputs.parquet"
SAMPLE = 5_000
"""Rows described: enough for distances of a few hundredths to mean something."""
EMBEDDED = 8
"""Principal components of prompt embeddings that are watched."""
PROJECTION = "projection.safetensors"
_WORD = re.compile(r"[^\W\d_]{2,}")
_EMBEDDING = "embed_tokens.weight"


def write(shards: Path, cut: Snapshot, domain: Domain, *, sample: int = SAMPLE) -> None:
    """Describe a sample of the rows of the first test window, in `inputs.parquet`.

    Columns: `row`, `member`, `surface`, `shown_at`; `tokens` of the prompt, `history` told,
    `item_age_days`, `unknown_words` (share of words without a token of their own), `language` of
    the question; `member.*` and `item.*` as they were when the row was shown. `prompt` holds its
    tokens until `embed` tells what they are about.

    Args:
        shards: Shards with test trees, rows and tokenizer.
        cut: Items and profiles.
        domain: Names their columns.
        sample: Rows, evenly spaced.
    """
    rows = pq.read_table(shards / ROWS)
    first = pc.min(rows.column("horizon_weeks"))
    rows = rows.filter(pc.equal(rows.column("horizon_weeks"), first))
    step = max(1, len(rows) // sample)
    rows = rows.take(pa.array(np.arange(0, len(rows), step)[:sample]))
    rows = rows.select(["row", "member", "item", "surface", "shown_at", "history", "item_age_days"])
    table = _with_columns(rows, cut, domain)
    prompts = _Prompts(PromptTokenizer.load(shards / "tokenizer"))
    told = prompts.describe(
        sorted((shards / "test").glob("*.parquet")), set(rows.column("row").to_pylist())
    )
    for name, kind in (
        ("tokens", pa.int32()),
        ("unknown_words", pa.float32()),
        ("language", pa.string()),
        ("prompt", pa.list_(pa.int32())),
    ):
        values = [told[row][name] for row in table.column("row").to_pylist()]
        table = table.append_column(name, pa.array(values, kind))
    pq.write_table(table.drop_columns(["item"]), shards / INPUTS, compression="zstd")


def _with_columns(rows: pa.Table, cut: Snapshot, domain: Domain) -> pa.Table:
    chosen = [
        f'{of}_now."{name}" AS "{of}.{name}"'
        for of, columns in (("member", domain.members.columns), ("item", domain.items.columns))
        for name in columns
        if not (of == "item" and name in domain.validation.text)
    ]
    with connect() as db:
        db.register("asked", rows.append_column("at", pa.array(range(len(rows)))))
        db.register("items", cut.read("items"))
        db.register("members", cut.read("members"))
        found: pa.Table = db.execute(
            f"""
            SELECT {", ".join(["asked.*", *chosen])}
            FROM asked
            ASOF LEFT JOIN members member_now
                ON member_now.member_id = asked.member AND asked.shown_at >= member_now.valid_from
            ASOF LEFT JOIN items item_now
                ON item_now.item_id = asked.item AND asked.shown_at >= item_now.valid_from
            ORDER BY asked.at
            """
        ).to_arrow_table()
    return found.drop_columns(["at"])


class _Prompts:
    """Describes the prompts of rows from their trees."""

    def __init__(self, tokenizer: PromptTokenizer) -> None:
        self.tokenizer = tokenizer

    def describe(self, files: Iterable[Path], wanted: set[str]) -> dict[str, dict[str, object]]:
        """By row; of several questions about a row the first."""
        found: dict[str, dict[str, object]] = {}
        for path in files:
            for tree in read_trees(path):
                for leaf, row in enumerate(tree.row_N):
                    if row not in wanted or row in found:
                        continue
                    alone = tree.single(leaf)
                    asked = alone.tokens_T[alone.trunk :]
                    words = _WORD.findall(self.tokenizer.decode(asked.tolist()))
                    unknown = [word for word in words if not self._known(word)]
                    found[row] = {
                        "tokens": len(alone),
                        "unknown_words": len(unknown) / max(1, len(words)),
                        "language": _language(" ".join(words)),
                        "prompt": alone.tokens_T,
                    }
        return found

    @lru_cache(maxsize=100_000)  # noqa: B019 - lives as long as one call of `write`
    def _known(self, word: str) -> bool:
        return len(self.tokenizer.encode(data(word))) == 1


@lru_cache(maxsize=100_000)
def _language(text: str) -> str:
    import py3langid

    return str(py3langid.classify(text)[0]) if text else "none"


def embed(inputs: pa.Table, model: Path, *, projection: Path, fit: bool = False) -> pa.Table:
    """Add what prompts are about in the model's own terms, in place of their tokens.

    A prompt's embedding is the mean of its tokens' input embeddings; the first principal
    components of the reference are watched, each in standard deviations of the reference.

    Args:
        inputs: Of `write`.
        model: Exported model.
        projection: File of mean and components, safetensors.
        fit: Whether these rows are the reference, and the projection is fitted and written.

    Returns:
        The table with columns `embedding_0` and on, float32, without `prompt`.
    """
    from safetensors.numpy import load_file, save_file

    out = inputs.drop_columns(["prompt"])
    mean_RD = _means(inputs.column("prompt"), _token_embeddings(model))
    if fit:
        middle_D = mean_RD.mean(0)
        _, _, axes = np.linalg.svd(mean_RD - middle_D, full_matrices=False)
        scale = ((mean_RD - middle_D) @ axes[:EMBEDDED].T).std(0)
        axes_KD = axes[:EMBEDDED] / np.maximum(scale, 1e-6)[:, None]
        save_file({"mean": middle_D, "axes": np.ascontiguousarray(axes_KD)}, str(projection))
    kept = load_file(str(projection))
    place_RK = ((mean_RD - kept["mean"]) @ kept["axes"].T).astype(np.float32)
    for number in range(place_RK.shape[1]):
        out = out.append_column(f"embedding_{number}", pa.array(place_RK[:, number]))
    return out


def _means(prompts: pa.ChunkedArray, table_VD: np.ndarray) -> np.ndarray:
    lists = prompts.combine_chunks()
    tokens, start = lists.values.to_numpy(), lists.offsets.to_numpy()
    mean_RD = np.empty((len(lists), table_VD.shape[1]), np.float32)
    for row, (begin, end) in enumerate(pairwise(start)):
        mean_RD[row] = table_VD[tokens[begin:end]].mean(0)
    return mean_RD


def _token_embeddings(model: Path) -> np.ndarray:
    """Input embeddings of a model's tokens, (vocabulary, width) float32.

    Raises:
        ModelError: Its weights name none.
    """
    from safetensors import safe_open

    for path in sorted(model.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                if name.endswith(_EMBEDDING):
                    found: np.ndarray = weights.get_tensor(name).float().numpy()
                    return found
    msg = f"{model}: no tensor named *{_EMBEDDING} in its weights; input drift needs it"
    raise ModelError(msg)
