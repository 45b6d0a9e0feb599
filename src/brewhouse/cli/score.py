"""`brewhouse score`."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brewhouse.cli.console import emit
from brewhouse.cli.data import Domain, Json
from brewhouse.cli.release import Home

if TYPE_CHECKING:
    import pyarrow as pa


def score(
    domain: Domain,
    snapshot: Annotated[Path, typer.Option(help="Snapshot folder: profiles, items and the log")],
    out: Annotated[Path, typer.Option(help="Parquet file to write")],
    requests: Annotated[
        Path | None,
        typer.Option(
            help="Parquet or CSV, one row a candidate: member_id, item_id; surface, at, request_id"
        ),
    ] = None,
    members: Annotated[
        Path | None, typer.Option(help="In place of requests: a file with a column member_id")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(help="With members: item_id; every member is asked about all")
    ] = None,
    surface: Annotated[str, typer.Option(help="Surface of all rows that name none")] = "",
    at: Annotated[
        str,
        typer.Option(
            help="Moment of all rows that name none, ISO 8601 in UTC; just after the newest entry "
            "of the log if empty"
        ),
    ] = "",
    model: Annotated[
        str, typer.Option(help="champion, a version's number, or a model's folder")
    ] = "champion",
    tasks: Annotated[str, typer.Option(help="Names separated by commas; all if empty")] = "",
    features: Annotated[
        Path | None, typer.Option(help="Feature folder of the snapshot; filled anew if empty")
    ] = None,
    scoring: Annotated[
        Path | None, typer.Option(help="YAML file with how trees are scored, such as engine: ray")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that tell histories")] = 1,
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Score candidates of members with the champion, ranked within each request."""
    from brewhouse.domains.loader import read_yaml
    from brewhouse.release.choosing import chosen_model
    from brewhouse.release.settings import Settings
    from brewhouse.stages import requesting
    from brewhouse.stages.scoring import ScoringPlan

    plan = ScoringPlan.of(read_yaml(scoring)[0] if scoring else None)
    asked = _asked(requests, members, items, surface=surface, moment=_moment(at, snapshot))
    # Libraries talk on stdout, which is for the result alone.
    with chosen_model(model, Settings.read(home)) as chosen, redirect_stdout(sys.stderr):
        found = requesting.run(
            domain=domain,
            snapshot=snapshot,
            requests=asked,
            model=chosen.path,
            out=out,
            features=features,
            tasks=tasks,
            scoring=plan,
            workers=workers,
            model_name=f"{chosen.name} {chosen.digest}",
        )
    emit(found | {"out": str(out)}, as_json, lambda: _show(found, out))


def _moment(at: str, snapshot: Path) -> datetime:
    from brewhouse.data.snapshot import Snapshot
    from brewhouse.errors import ConfigError

    if not at:
        return Snapshot.open(snapshot).end()
    try:
        found = datetime.fromisoformat(at)
    except ValueError as error:
        msg = f"--at {at!r} is no moment; give YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS"
        raise ConfigError(msg) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _asked(
    requests: Path | None,
    members: Path | None,
    items: Path | None,
    *,
    surface: str,
    moment: datetime,
) -> pa.Table:
    from brewhouse.data.requests import cross, read_requests
    from brewhouse.errors import ConfigError

    if requests is not None and members is None and items is None:
        return read_requests(requests, surface=surface, at=moment)
    if requests is None and members is not None and items is not None:
        if not surface:
            msg = "members x items need --surface: where would they be shown?"
            raise ConfigError(msg)
        return cross(members, items, surface=surface, at=moment)
    msg = "give --requests, or --members with --items"
    raise ConfigError(msg)


def _show(found: dict[str, Any], out: Path) -> None:
    tokens = found["tokens"] / found["candidates"]
    typer.echo(f"model     {found['model']}")
    typer.echo(f"tasks     {', '.join(found['tasks'])}")
    typer.echo(
        f"scored    {found['candidates']:,} candidates of {found['requests']:,} requests in "
        f"{found['seconds']:.1f} s, {tokens:.1f} tokens a candidate"
    )
    typer.echo(f"scores    {out}")
