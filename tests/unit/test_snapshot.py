"""Snapshots: same rows same address, cheap partial reads, no half-written output."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from brewhouse.data.schema import conform, interactions_schema, items_schema
from brewhouse.data.snapshot import Snapshot, shard_of, write_snapshot
from brewhouse.domains.importer import import_source
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import ConfigError, DataError
from tests.conftest import log_table


def test_same_rows_same_digest(
    tiny: Snapshot, tiny_raw: Path, linkedin: DomainFolder, tmp_path: Path
) -> None:
    again = import_source(linkedin.domain, tiny_raw, tmp_path / "again")
    assert again.digest == tiny.digest
    again.verify()


def test_a_changed_file_is_noticed(tiny_raw: Path, linkedin: DomainFolder, tmp_path: Path) -> None:
    snapshot = import_source(linkedin.domain, tiny_raw, tmp_path / "s")
    victim = snapshot.files("interactions")[0]
    table = pq.ParquetFile(victim).read()
    pq.write_table(table.slice(1), victim)
    with pytest.raises(DataError, match="was changed after it was written"):
        snapshot.verify()


def test_partial_reads_open_only_their_files(tiny: Snapshot) -> None:
    month = tiny.months()[1]
    files = tiny.files("interactions", months=[month], shards=[3])
    assert [f.relative_to(tiny.path).as_posix() for f in files] == [
        f"interactions/month={month}/shard=03/part.parquet"
    ]
    part = tiny.read("interactions", months=[month], shards=[3])
    assert {shard_of(m, tiny.shards) for m in part.column("member_id").to_pylist()} == {3}
    assert {t.strftime("%Y-%m") for t in part.column("event_at").to_pylist()} == {month}
    total = sum(tiny.read("interactions", shards=[s]).num_rows for s in range(tiny.shards))
    assert total == tiny.manifest["rows"]["interactions"]


def test_an_unfinished_folder_is_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="unfinished or no snapshot; import again"):
        Snapshot.open(tmp_path)


def test_a_failed_write_leaves_nothing(tiny: Snapshot, tmp_path: Path) -> None:
    only_members = {"members": tiny.read("members")}
    with pytest.raises(KeyError, match="items"):
        write_snapshot(tmp_path / "s", only_members, domain="x", provenance={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("weight", pa.array(["heavy"]), "column 'weight' is string"),
        ("shown_at", pa.array(["soon"]), "cannot be read as timestamp"),
        ("action", pa.array([3]), "column 'action' is int64"),
        ("member_id", pa.array([None], pa.string()), "has 1 empty values of 1"),
    ],
)
def test_wrong_types_name_column_and_value(column: str, value: pa.Array, message: str) -> None:
    table = log_table([{"shown": 1}])
    index = table.schema.get_field_index(column)
    broken = table.set_column(index, column, value)
    with pytest.raises(DataError, match=message):
        conform(broken, interactions_schema(), name="interactions")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(DataError, match="items: column 'kind' is missing"):
        conform(
            pa.table(
                {
                    "item_id": ["i"],
                    "valid_from": pa.array([0]).cast(pa.timestamp("us")),
                    "created_at": pa.array([0]).cast(pa.timestamp("us")),
                }
            ),
            items_schema({}),
            name="items",
        )


def test_missing_source_files_are_named(linkedin: DomainFolder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        import_source(linkedin.domain, tmp_path / "nowhere", tmp_path / "s")
    with pytest.raises(ConfigError, match="no file 'members/\\*.parquet' for table 'members'"):
        import_source(linkedin.domain, tmp_path, tmp_path / "s")
    assert not (tmp_path / "s").exists()
