"""Maps a source folder onto the canonical tables by the SQL of its `domain.yaml`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.queries import connect
from brewhouse.data.schema import (
    TIMESTAMP,
    conform,
    interactions_schema,
    items_schema,
    members_schema,
    oracle_schema,
)
from brewhouse.data.snapshot import Snapshot, write_snapshot
from brewhouse.domains.negatives import sample_negatives
from brewhouse.domains.spec import Domain
from brewhouse.errors import ConfigError, DataError
from brewhouse.files import sha256_file

Progress = Callable[[str], None]


def import_source(
    domain: Domain,
    source: Path,
    target: Path,
    *,
    seed: int = 0,
    until: datetime | None = None,
    progress: Progress = lambda _: None,
) -> Snapshot:
    """Import a source folder into a snapshot at `target`.

    Args:
        domain: Says which files there are and how they map.
        source: Folder with those files.
        target: Snapshot folder to write; nothing is written if anything fails.
        seed: Seed of negative sampling.
        until: Leave out what the log learned later; aware.
        progress: Called with a line at the start of each step.

    Raises:
        ConfigError: A file is absent or a mapping query is wrong.
        DataError: A table does not have the canonical types.
    """
    files = _find_files(domain, source)
    tables = _map_tables(domain, files, progress)
    if until is not None:
        tables["interactions"] = _known_by(tables["interactions"], until)
    policies: list[dict[str, Any]] = []
    for number, policy in enumerate(domain.source.negatives):
        progress(f"drawing negatives for {policy.surface}")
        drawn, record = sample_negatives(
            policy,
            interactions=tables["interactions"],
            items=tables["items"],
            separator=domain.items.multi.get(policy.same or "", None),
            seed=seed + number,
        )
        tables["interactions"] = pa.concat_tables([tables["interactions"], drawn])
        policies.append(record)
    progress("writing the snapshot")
    provenance = {
        "source": {
            name: [{"file": p.name, "sha256": sha256_file(p)} for p in paths]
            for name, paths in files.items()
        },
        "domain_version": domain.version,
        "negatives": policies,
        "seed": seed,
        "until": until.isoformat() if until else "",
    }
    if domain.source.oracle and any(source.glob(domain.source.oracle)):
        # Whoever has the true probabilities has made the world up: its time is not ours.
        provenance["simulated"] = True
    return write_snapshot(target, tables, domain=domain.name, provenance=provenance)


def read_oracle(domain: Domain, source: Path) -> pa.Table | None:
    """Read the true probabilities of a simulated source, or None; only evaluation may call this."""
    if domain.source.oracle is None:
        return None
    paths = sorted(source.glob(domain.source.oracle))
    if not paths:
        return None
    table = pa.concat_tables([pq.read_table(path) for path in paths])
    return conform(table, oracle_schema(), name="oracle")


def _known_by(log: pa.Table, until: datetime) -> pa.Table:
    known = pc.less_equal(log.column("created_at"), pa.scalar(until, TIMESTAMP))
    found = log.filter(known)
    if not len(found):
        msg = f"the log knows nothing by {until:%Y-%m-%d %H:%M}; give a later `until`"
        raise DataError(msg)
    return found


def _find_files(domain: Domain, source: Path) -> dict[str, list[Path]]:
    if not source.is_dir():
        msg = f"source folder {source} does not exist; give the folder with {domain.name}'s files"
        raise ConfigError(msg)
    found = {}
    for name, pattern in domain.source.files.items():
        found[name] = sorted(source.glob(pattern))
        if not found[name]:
            msg = f"source {source}: no file '{pattern}' for table '{name}'; see source.files"
            raise ConfigError(msg)
    return found


def _map_tables(
    domain: Domain, files: dict[str, list[Path]], progress: Progress
) -> dict[str, pa.Table]:
    schemas = {
        "members": members_schema({n: c.type for n, c in domain.members.columns.items()}),
        "items": items_schema({n: c.type for n, c in domain.items.columns.items()}),
        "interactions": interactions_schema(),
    }
    mapped = {}
    with connect() as connection:
        for name, paths in files.items():
            progress(f"reading {name} ({len(paths)} file{'s' if len(paths) > 1 else ''})")
            _load(connection, name, paths)
        # The mapping queries see the loaded tables and nothing else of the machine.
        connection.execute("SET enable_external_access = false")
        for name, query in domain.source.views.items():
            with _told(domain, f"views.{name}"):
                connection.execute(f'CREATE TABLE "{name}" AS {query}')
        for name, schema in schemas.items():
            progress(f"mapping {name}")
            with _told(domain, name):
                table = connection.sql(getattr(domain.source, name)).to_arrow_table()
            mapped[name] = conform(_utc(table), schema, name=name)
    return mapped


@contextmanager
def _told(domain: Domain, name: str) -> Iterator[None]:
    """A failing query is told with the place where it stands."""
    try:
        yield
    except duckdb.Error as error:
        msg = f"domain {domain.name}: source.{name}: {error}"
        raise ConfigError(msg) from error


def _load(connection: duckdb.DuckDBPyConnection, name: str, paths: list[Path]) -> None:
    reader = {".parquet": "read_parquet", ".csv": "read_csv", ".gz": "read_csv"}.get(
        paths[0].suffix
    )
    if reader is None:
        msg = f"{paths[0]}: unknown file type; use .parquet, .csv or .csv.gz"
        raise ConfigError(msg)
    options = ", header = true, sample_size = -1" if reader == "read_csv" else ""
    try:
        connection.execute(
            f'CREATE TABLE "{name}" AS SELECT * FROM {reader}(?{options})',
            [[str(p) for p in paths]],
        )
    except duckdb.Error as error:
        msg = f"{paths[0]}: cannot be read: {error}"
        raise DataError(msg) from error


def _utc(table: pa.Table) -> pa.Table:
    """Read timestamps without a zone as UTC."""
    for index, field in enumerate(table.schema):
        if pa.types.is_timestamp(field.type) and field.type.tz is None:
            column = pc.assume_timezone(table.column(index), "UTC")
            table = table.set_column(index, field.name, column)
    return table
