"""What several steps share: the split of a run, publishing evidence, telling progress."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import brewhouse
from brewhouse.data.splits import TemporalSplit, parse_day
from brewhouse.domains.spec import Domain
from brewhouse.errors import ConfigError
from brewhouse.files import digest_tree, read_json, sha256_json, write_json

ORACLE = "oracle.parquet"
ROWS = "rows.parquet"
SCORES, COLD_SCORES = "scores.parquet", "cold.parquet"
SUMMARY = "summary.json"
TOLD = "brewhouse: "
"""Marks progress lines, so that a runner can tell them from a library's chatter."""


def tell(line: str) -> None:
    """Progress for people, on stderr."""
    print(f"{TOLD}{line}", file=sys.stderr, flush=True)


@lru_cache(maxsize=1)
def code_version() -> str:
    """Version and digest of the installed package: what a result depends on besides its inputs."""
    root = Path(__file__).parents[1]
    parts = [digest_tree(root, pattern=f"**/*.{kind}") for kind in ("py", "yaml", "html")]
    return f"{brewhouse.__version__}+{sha256_json(parts)[:12]}"


def run_key(arguments: dict[str, Any], inputs: list[Path]) -> str:
    """What a run depends on: arguments, code, and the files that arguments only name.

    Source files count by name, size and time of change; reading gigabytes to look for a cached step
    would cost more than the step.
    """
    files = []
    for path in inputs:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix != ".pyc":
                stat = file.stat()
                files.append([str(file), stat.st_size, stat.st_mtime_ns])
    return sha256_json([arguments, code_version(), files])[:16]


def make_split(
    domain: Domain, train_end: str, *, last_event: datetime | None = None
) -> TemporalSplit:
    """The split of a run from the domain's defaults.

    Args:
        domain: Gives lengths of windows.
        train_end: `YYYY-MM-DD`, or empty for the domain's own; a domain without one ends training
            so that gap, tests and all horizons fit before the last event.
        last_event: Newest event of the snapshot.

    Raises:
        ConfigError: There is no way to know when training ends.
    """
    d = domain.defaults
    text = train_end or d.train_end or ""
    if text:
        end = parse_day(text)
    elif last_event is not None:
        after = timedelta(days=d.gap_days + d.test_days, weeks=max(d.horizons_weeks))
        day = (last_event - after).astimezone(UTC)
        end = day.replace(hour=0, minute=0, second=0, microsecond=0)
    else:
        msg = f"domain {domain.name} has no default train_end; pass --train-end YYYY-MM-DD"
        raise ConfigError(msg)
    return TemporalSplit(
        train_start=end - timedelta(days=d.train_days),
        train_end=end,
        gap_days=d.gap_days,
        test_days=d.test_days,
        horizons_weeks=tuple(d.horizons_weeks),
    )


def publish(paths: dict[str, Path], to: str) -> None:
    """Copy evidence to a folder or fsspec URI under the given names; nothing if `to` is empty."""
    if not to:
        return
    import fsspec

    for name, path in paths.items():
        with (
            path.open("rb") as source,
            fsspec.open(f"{to.rstrip('/')}/{name}", "wb", auto_mkdir=True) as sink,
        ):
            sink.write(source.read())


def note_lineage(to: str, step: str, entry: dict[str, Any]) -> None:
    """Add a step to `lineage.json` of a run: what it read and wrote, by digest. Local folders only.

    The ledger is ours, not the metadata store's, so that it outlives a cluster.
    """
    if not to or "://" in to:
        return
    path = Path(to) / "lineage.json"
    ledger: dict[str, Any] = (
        read_json(path) if path.exists() else {"schema_version": 1, "steps": {}}
    )
    at = datetime.now(UTC).isoformat(timespec="seconds")
    ledger["steps"][step] = entry | {"code": code_version(), "at": at}
    write_json(path, ledger)
