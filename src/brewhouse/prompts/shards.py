"""Token shards: trees as Parquet, and the manifest that says what went into them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brewhouse.prompts.tree import TokenTree

SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("tokens", pa.list_(pa.int32())),
        ("trunk", pa.int32()),
        ("leaf_start", pa.list_(pa.int32())),
        ("branch", pa.list_(pa.int32())),
        ("question", pa.list_(pa.int16())),
        ("label", pa.list_(pa.int16())),
        ("weight", pa.list_(pa.float32())),
        ("row", pa.list_(pa.string())),
    ]
)


def write_trees(path: Path, trees: Iterable[TokenTree], *, batch: int = 2_000) -> dict[str, int]:
    """Write trees to one Parquet file; return counts of trees, leaves and tokens."""
    return write_tables(path, _tables(trees, batch))


def _tables(trees: Iterable[TokenTree], batch: int) -> Iterator[pa.Table]:
    rows: list[dict[str, object]] = []
    for tree in trees:
        rows.append(
            {
                "member": tree.member,
                "tokens": tree.tokens_T,
                "trunk": tree.trunk,
                "leaf_start": tree.leaf_start_N,
                "branch": tree.branch_N,
                "question": tree.question_N,
                "label": tree.label_N,
                "weight": tree.weight_N,
                "row": list(tree.row_N),
            }
        )
        if len(rows) == batch:
            yield pa.Table.from_pylist(rows, schema=SCHEMA)
            rows = []
    yield pa.Table.from_pylist(rows, schema=SCHEMA)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> dict[str, int]:
    """Write tables of trees as they come, a row group each; return the same counts."""
    counts = {"trees": 0, "leaves": 0, "tokens": 0}
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
            counts["trees"] += table.num_rows
            for kind, column in (("leaves", "label"), ("tokens", "tokens")):
                counts[kind] += sum(len(chunk.flatten()) for chunk in table.column(column).chunks)
    return counts


def read_trees(path: Path) -> Iterator[TokenTree]:
    """Read trees back, one row group at a time."""
    file = pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        yield from trees_of(file.read_row_group(group))


def read_folder(folder: Path) -> list[TokenTree]:
    """All trees of a folder of shards, in order."""
    return [tree for path in sorted(folder.glob("*.parquet")) for tree in read_trees(path)]


def sample_trees(folder: Path, count: int) -> list[TokenTree]:
    """At most `count` trees of a folder, evenly spaced; only their row groups are read."""
    files = [pq.ParquetFile(path) for path in sorted(folder.glob("*.parquet"))]
    total = sum(file.metadata.num_rows for file in files)
    wanted = list(range(0, total, max(1, total // count)))[:count]
    found, start = [], 0
    for file in files:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            inside = [at - start for at in wanted if start <= at < start + rows]
            if inside:
                found += list(trees_of(file.read_row_group(group).take(inside)))
            start += rows
    return found


def trees_of(table: pa.Table) -> Iterator[TokenTree]:
    """Decode a table of trees."""
    lists = {}
    for name in ("tokens", "leaf_start", "branch", "question", "label", "weight"):
        column = table.column(name).combine_chunks()
        lists[name] = (column.offsets.to_numpy(), column.values.to_numpy())
    members, trunks = table.column("member").to_pylist(), table.column("trunk").to_numpy()
    rows = table.column("row").to_pylist()
    for i in range(table.num_rows):
        part = {
            name: values[offsets[i] : offsets[i + 1]] for name, (offsets, values) in lists.items()
        }
        yield TokenTree(
            member=members[i],
            tokens_T=part["tokens"],
            trunk=int(trunks[i]),
            leaf_start_N=part["leaf_start"].astype(np.int64),
            branch_N=part["branch"].astype(np.int64),
            question_N=part["question"].astype(np.int64),
            label_N=part["label"].astype(np.int64),
            weight_N=part["weight"],
            row_N=tuple(rows[i]),
        )
