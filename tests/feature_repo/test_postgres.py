"""Feast's offline store in Postgres gives what files give, row by row."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sqlalchemy.engine import make_url

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import DataError
from brewhouse.platform import warehouse
from brewhouse.platform.feast_store import FeastStore
from brewhouse.stages import features, publishing

NOW = "2024-03-10"


@pytest.fixture(scope="module")
def connection(postgres: str) -> Iterator[dict[str, Any]]:
    """A server, named as a deployment names it."""
    url = make_url(postgres)
    named = {
        "BREWHOUSE_FEAST_ENV": "postgres",
        "BREWHOUSE_FEAST_PG_HOST": str(url.host),
        "BREWHOUSE_FEAST_PG_PORT": str(url.port),
        "BREWHOUSE_FEAST_PG_DATABASE": str(url.database),
        "BREWHOUSE_FEAST_PG_USER": str(url.username),
        "BREWHOUSE_FEAST_PG_PASSWORD": "trusted",
        "BREWHOUSE_FEAST_PG_SSLMODE": "disable",
    }
    before = dict(os.environ)
    os.environ.update(named)
    yield {"host": url.host, "port": url.port, "dbname": url.database, "user": url.username}
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def filled(
    tiny: Snapshot, connection: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("features")
    # Asked for without histories, it has them: the schema is written once, for whoever comes.
    features.run(domain="linkedin", snapshot=tiny.path, features_out=out, now=NOW)
    features.run(domain="linkedin", snapshot=tiny.path, features_out=out, now=NOW, histories=True)
    return out


def _store(data: Path, linkedin: DomainFolder, state: Path, env: str) -> FeastStore:
    store = FeastStore(data, domain=linkedin.domain, domain_path="linkedin", env=env, state=state)
    store.apply()
    return store


def test_the_log_and_the_joins_are_those_of_files(
    tiny: Snapshot, filled: Path, linkedin: DomainFolder, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    there = _store(filled, linkedin, tmp_path / "there", "postgres")
    assert not list(filled.glob("*.parquet"))
    for month in tiny.months():
        start = datetime.fromisoformat(f"{month}-01").replace(tzinfo=UTC)
        through = there.interactions(start, (start + timedelta(days=32)).replace(day=1))
        straight = tiny.read("interactions", months=[month])
        key = [("interaction_id", "ascending")]
        assert through.sort_by(key).equals(straight.sort_by(key)), month
    frame = tiny.read("members").to_pandas()
    moments = frame.valid_from.astype("datetime64[us, UTC]").astype("int64").to_numpy() + 1
    wanted = frame.sort_values(["member_id", "valid_from"])
    at = there.profiles_at(frame.member_id.tolist(), moments)
    merged = at.assign(valid=moments).sort_values(["member_id", "valid"])
    assert merged.role.tolist() == wanted.role.tolist()
    before = there.profiles_at(frame.member_id.tolist(), moments - 1)
    assert (before.role.to_numpy() != at.role.to_numpy()).any()


def test_online_rows_are_those_of_files(
    tiny: Snapshot, filled: Path, linkedin: DomainFolder, tmp_path: Path
) -> None:
    features.run(
        domain="linkedin",
        snapshot=tiny.path,
        features_out=tmp_path / "files",
        now=NOW,
        env="local",
        histories=True,
    )
    members = sorted(set(tiny.read("members").column("member_id").to_pylist()))[:40]
    rows = []
    for data, env in ((tmp_path / "files", "local"), (filled, "postgres")):
        store = publishing.run(domain="linkedin", features=data, out=tmp_path / env, env=env)
        rows.append(
            store.store.get_online_features(
                features=store.store.get_feature_service("ranker_v1"),
                entity_rows=[{"member_id": member} for member in members],
            ).to_dict()
        )
    assert rows[0] == rows[1]
    assert any(rows[0]["items"])


def test_a_snapshot_is_loaded_once_and_whole(
    tiny: Snapshot, filled: Path, connection: dict[str, Any]
) -> None:
    schema = warehouse.schema_of(tiny.digest)
    assert warehouse.load(connection, schema, {"members": [pa.table({"x": [1]})]}) is False

    def breaks() -> Iterator[pa.Table]:
        yield pa.table({"x": [1, 2]})
        msg = "the log ends here"
        raise RuntimeError(msg)

    with pytest.raises(RuntimeError):
        warehouse.load(connection, "snapshot_half", {"a": breaks()})
    # Nothing of the first try is in the way of the second.
    good = pa.table(
        {"x": pa.array([[1, 2], None, []], pa.list_(pa.int64())), "y": ["a\tb", "c\\d", None]}
    )
    assert warehouse.load(connection, "snapshot_half", {"a": [good]}) is True
    import psycopg

    with psycopg.connect(**connection) as link:
        found = link.execute("SELECT x, y FROM snapshot_half.a").fetchall()
    assert found == [([1, 2], "a\tb"), (None, "c\\d"), ([], None)]
    with pytest.raises(DataError, match="column z has type"):
        warehouse.load(connection, "snapshot_odd", {"a": [pa.table({"z": pa.array([b"1"])})]})


def test_a_server_that_is_not_there_is_told() -> None:
    away = {"host": "127.0.0.1", "port": 1, "dbname": "x", "user": "u", "password": "hidden"}
    with pytest.raises(
        DataError, match="the warehouse at 127.0.0.1 did not take snapshot_x"
    ) as found:
        warehouse.load(away, "snapshot_x", {})
    assert "hidden" not in str(found.value)
