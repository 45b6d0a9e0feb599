"""`brewhouse gc`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from brewhouse.cli.console import emit, table
from brewhouse.cli.data import Json
from brewhouse.cli.release import Home


def gc(
    workspace: Annotated[Path, typer.Option(help="Folder with runs/ and observations/")],
    older_than: Annotated[
        float, typer.Option(min=0, help="Days in which nothing changed in a folder")
    ] = 30,
    delete: Annotated[bool, typer.Option("--delete", help="Remove; listed only otherwise")] = False,
    home: Home = "",
    as_json: Json = False,
) -> None:
    """List what nobody needs any more: old runs' checkpoints, days of versions out of use."""
    from brewhouse.release.housekeeping import remove, waste
    from brewhouse.release.settings import Settings

    found = waste(workspace, Settings.read(home), days=older_than, now=datetime.now(UTC))
    for one in found if delete else []:
        remove(one)
    size = sum(one.bytes for one in found)
    value = {
        "deleted": delete,
        "bytes": size,
        "folders": [
            asdict(one) | {"path": str(one.path), "changed": one.changed.isoformat()}
            for one in found
        ],
    }

    def show() -> None:
        rows = [
            [str(one.path), f"{one.bytes / 2**30:.2f}", f"{one.changed:%Y-%m-%d}", one.why]
            for one in found
        ]
        table("gc", ["folder", "GiB", "changed", "why"], rows, 4)
        done = "removed" if delete else "may go; --delete removes them"
        typer.echo(f"{len(found)} folders, {size / 2**30:.2f} GiB: {done}")

    emit(value, as_json, show)
