"""Step 1: source (or a simulated world) -> snapshot, and the oracle kept apart from it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import parse_day
from brewhouse.domains.importer import import_source, read_oracle
from brewhouse.domains.loader import load_domain
from brewhouse.errors import ConfigError
from brewhouse.files import sha256_file
from brewhouse.stages.common import ORACLE, note_lineage, tell


def run(
    *,
    domain: str,
    source: str,
    preset: str,
    seed: int,
    snapshot_out: Path,
    oracle_out: Path,
    until: str = "",
    publish_to: str = "",
    workers: int = 2,
) -> Snapshot:
    """Import `source`, or simulate the domain's world of the size `preset`.

    `until` leaves out what the log learned later: a day or moment, ISO 8601, UTC.

    Raises:
        ConfigError: Neither or both of source and preset, or a domain without a simulator.
    """
    folder = load_domain(domain)
    if bool(source) == bool(preset):
        msg = "give either a source folder or a preset of a simulated domain, not both or neither"
        raise ConfigError(msg)
    with tempfile.TemporaryDirectory(prefix="brewhouse-raw-") as scratch:
        raw = Path(source)
        if preset:
            raw = Path(scratch) / "raw"
            _simulate(folder.domain.simulator, preset, seed, raw, workers)
        snapshot = import_source(
            folder.domain,
            raw,
            snapshot_out,
            seed=seed,
            until=parse_day(until) if until else None,
            progress=tell,
        )
        oracle_out.mkdir(parents=True, exist_ok=True)
        oracle = read_oracle(folder.domain, raw)
        if oracle is not None:
            pq.write_table(oracle, oracle_out / ORACLE, compression="zstd")
    rows = snapshot.manifest["rows"]
    tell(
        f"snapshot {snapshot.digest[:19]}: {rows['members']:,} member versions, "
        f"{rows['items']:,} item versions, {rows['interactions']:,} interactions"
    )
    note_lineage(
        publish_to,
        "import_data",
        {
            "domain": folder.digest,
            "snapshot": snapshot.digest,
            "source": snapshot.manifest["provenance"]["source"],
            "oracle": sha256_file(oracle_out / ORACLE) if oracle is not None else None,
        },
    )
    return snapshot


def _simulate(simulator: str | None, preset: str, seed: int, raw: Path, workers: int) -> None:
    if simulator != "linkedin":
        msg = f"preset '{preset}': this domain has no simulated world; pass --source"
        raise ConfigError(msg)
    from brewhouse.domains.linkedin.simulate import simulate
    from brewhouse.domains.linkedin.world import preset as world

    tell(f"simulating preset {preset}, seed {seed}")
    simulate(world(preset, seed=seed), raw, workers=workers)
