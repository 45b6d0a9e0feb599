"""Immutable, content-addressed cuts of the canonical tables; partial reads are cheap.

Layout of a snapshot folder, `manifest.json` written last as the mark of completeness:

    members/shard=SS/part.parquet
    items/month=YYYY-MM/part.parquet                (month of valid_from)
    interactions/month=YYYY-MM/shard=SS/part.parquet   (month of event_at, shard of member)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.errors import DataError
from brewhouse.files import atomic_dir, read_json, sha256_file, sha256_json, write_json

MANIFEST = "manifest.json"
TABLES = ("members", "items", "interactions")
DEFAULT_SHARDS = 8
_SORT = {
    "members": ("member_id", "valid_from"),
    "items": ("item_id", "valid_from"),
    "interactions": ("member_id", "event_at", "shown_at", "interaction_id"),
}


def shard_of(member_id: str, shards: int) -> int:
    """Return the shard of a member: stable across processes, machines and versions."""
    return int.from_bytes(hashlib.blake2b(member_id.encode(), digest_size=4).digest()) % shards


def _shard_column(ids: pa.ChunkedArray, shards: int) -> np.ndarray:
    encoded = pc.dictionary_encode(ids.combine_chunks())
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    per_value = np.array([shard_of(v, shards) for v in encoded.dictionary.to_pylist()], np.int64)
    return per_value[encoded.indices.to_numpy()] if len(per_value) else np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A snapshot on disk. `digest` is the content address: same rows, same digest."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def open(cls, path: Path) -> Snapshot:
        """Open a finished snapshot.

        Raises:
            DataError: The folder is no snapshot or was left unfinished.
        """
        if not (path / MANIFEST).is_file():
            msg = (
                f"snapshot {path}: no {MANIFEST}, so it is unfinished or no snapshot; import again"
            )
            raise DataError(msg)
        return cls(path=path, manifest=read_json(path / MANIFEST))

    @property
    def digest(self) -> str:
        """Content address, `sha256:...`."""
        return str(self.manifest["digest"])

    @property
    def shards(self) -> int:
        """Number of member shards."""
        return int(self.manifest["shards"])

    def verify(self) -> None:
        """Recompute every file digest.

        Raises:
            DataError: A file was changed, added or removed since the snapshot was written.
        """
        listed = self.manifest["files"]
        found = {p.relative_to(self.path).as_posix() for p in self.path.glob("*/**/*.parquet")}
        if changed := sorted(found ^ set(listed)):
            msg = f"snapshot {self.path}: files added or removed: {changed[:3]}; import again"
            raise DataError(msg)
        for name, entry in listed.items():
            if sha256_file(self.path / name) != entry["sha256"]:
                msg = f"snapshot {self.path}: {name} was changed after it was written; import again"
                raise DataError(msg)

    def files(
        self,
        table: str,
        *,
        months: Iterable[str] | None = None,
        shards: Iterable[int] | None = None,
    ) -> list[Path]:
        """List the Parquet files that hold the given months and member shards, and no others."""
        want_months = None if months is None else {f"month={m}" for m in months}
        want_shards = None if shards is None else {f"shard={s:02d}" for s in shards}
        chosen = []
        for name in sorted(self.manifest["files"]):
            parts = set(name.split("/"))
            if not name.startswith(f"{table}/"):
                continue
            if want_months is not None and "month=" in name and not parts & want_months:
                continue
            if want_shards is not None and "shard=" in name and not parts & want_shards:
                continue
            chosen.append(self.path / name)
        return chosen

    def read(
        self,
        table: str,
        *,
        columns: Sequence[str] | None = None,
        months: Iterable[str] | None = None,
        shards: Iterable[int] | None = None,
    ) -> pa.Table:
        """Read one table, or only some of its months and member shards."""
        files = self.files(table, months=months, shards=shards)
        names = None if columns is None else list(columns)
        if not files:
            schema = pq.read_schema(self.files(table)[0])
            empty = schema.empty_table()
            return empty if names is None else empty.select(names)
        parts = [pq.ParquetFile(path).read(columns=names) for path in files]
        return pa.concat_tables(parts)

    def months(self) -> list[str]:
        """Months that the interaction log covers, oldest first."""
        names = (n.split("/") for n in self.manifest["files"] if n.startswith("interactions/"))
        return sorted({parts[1].removeprefix("month=") for parts in names})

    def end(self) -> datetime:
        """The first moment at which all of the log is known."""
        newest = [
            pc.max(column).as_py()
            for month in self.months()
            for column in self.read(
                "interactions", columns=["event_at", "created_at"], months=[month]
            ).columns
        ]
        return max(newest) + timedelta(microseconds=1)

    def now(self) -> datetime:
        """The wall clock; where the world is simulated, the moment at which its log ends."""
        if self.manifest["provenance"].get("simulated"):
            return self.end()
        return datetime.now(UTC)


def write_snapshot(
    target: Path,
    tables: dict[str, pa.Table],
    *,
    domain: str,
    provenance: dict[str, Any],
    shards: int = DEFAULT_SHARDS,
) -> Snapshot:
    """Write a snapshot atomically and return it.

    Args:
        target: Folder to create; replaced if it exists.
        tables: `members`, `items` and `interactions`, already in canonical schema.
        domain: Name of the domain.
        provenance: What went in (digests of source files, sampling policy, counts); part of the
            manifest but not of the digest, which covers the rows alone.
        shards: Number of member shards.
    """
    with atomic_dir(target) as scratch:
        files: dict[str, Any] = {}
        for name in TABLES:
            for relative, part in _partitions(name, tables[name], shards):
                path = scratch / name / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                pq.write_table(part, path, compression="zstd")
                files[f"{name}/{relative}"] = {"rows": part.num_rows, "sha256": sha256_file(path)}
        manifest = {
            "schema_version": 1,
            "domain": domain,
            "shards": shards,
            "rows": {name: tables[name].num_rows for name in TABLES},
            "files": files,
            "digest": "sha256:" + sha256_json({"domain": domain, "shards": shards, "files": files}),
            "provenance": provenance,
        }
        write_json(scratch / MANIFEST, manifest)
    return Snapshot.open(target)


def _partitions(name: str, table: pa.Table, shards: int) -> Iterable[tuple[str, pa.Table]]:
    keys: list[str] = []
    if name in ("items", "interactions"):
        when = table.column("valid_from" if name == "items" else "event_at")
        table = table.append_column("month", pc.strftime(when, format="%Y-%m"))
        keys.append("month")
    if name in ("members", "interactions"):
        shard = _shard_column(table.column("member_id"), shards)
        table = table.append_column("shard", pa.array(shard))
        keys.append("shard")
    table = table.sort_by([(k, "ascending") for k in (*keys, *_SORT[name])]).combine_chunks()
    columns = [table.column(k).to_numpy(zero_copy_only=False) for k in keys]
    if table.num_rows == 0:
        return
    changed = np.zeros(table.num_rows, bool)
    for column in columns:
        changed[1:] |= column[1:] != column[:-1]
    starts = np.concatenate([[0], np.flatnonzero(changed), [table.num_rows]])
    body = table.drop_columns(keys)
    for begin, end in zip(starts[:-1], starts[1:], strict=True):
        labels = [
            f"shard={column[begin]:02d}" if key == "shard" else f"month={column[begin]}"
            for key, column in zip(keys, columns, strict=True)
        ]
        yield "/".join([*labels, "part.parquet"]), body.slice(begin, end - begin)
