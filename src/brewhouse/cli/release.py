"""`brewhouse candidates`, `show`, `approve`, `reject`, `waive`, `promote`, `rollback`, `ledger`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from brewhouse.cli.console import emit, table
from brewhouse.cli.data import Json

if TYPE_CHECKING:
    from brewhouse.release.service import Release
    from brewhouse.release.versions import Version

Number = Annotated[str, typer.Argument(help="Version, as `brewhouse candidates` lists them")]
Home = Annotated[
    str,
    typer.Option(
        help="Folder with registry, ledger and keys; BREWHOUSE_HOME or runs/demo if empty"
    ),
]
Reason = Annotated[str, typer.Option(help="Why; someone will ask in a year")]
app = typer.Typer(no_args_is_help=True, help="The signed, hash-chained record of decisions.")


def _open(home: str) -> Release:
    from brewhouse.release.service import Release
    from brewhouse.release.settings import Settings

    return Release(Settings.read(home))


def candidates(home: Home = "", as_json: Json = False) -> None:
    """List versions with their states, newest first."""
    found = _open(home).versions()
    rows = [
        [
            v.version,
            v.state.value,
            v.tags.get("brewhouse.verdict", ""),
            v.tags.get("brewhouse.domain", ""),
            v.author,
            v.entries[0].at[:16],
        ]
        for v in found
    ]
    emit(
        [v.public() for v in found],
        as_json,
        lambda: table(
            "versions", ["version", "state", "verdict", "domain", "author", "at"], rows, left=6
        ),
    )


def show(version: Number, home: Home = "", as_json: Json = False) -> None:
    """Tell a version's state, evidence and history, and what may be decided about it."""
    found = _open(home).version(version)
    emit(found.public(), as_json, lambda: _show(found))


def _show(found: Version) -> None:
    typer.echo(f"{found.model} version {found.version}  {found.state.value}")
    if found.expiry:
        typer.echo(f"expired   {found.expiry}")
    typer.echo(f"verdict   {found.tags.get('brewhouse.verdict')} by {_tag(found, 'policy')}")
    typer.echo(f"author    {found.author}")
    typer.echo(f"weights   {_tag(found, 'model')}")
    typer.echo(f"dossier   {found.source}/dossier/index.html")
    typer.echo(f"open      {', '.join(found.acts) or 'nothing'}")
    for e in found.entries:
        until = f" until {e.until}" if e.until else ""
        said = f": {e.reason}" if e.reason else ""
        typer.echo(f"  {e.at[:19]}  {e.act:<9} {e.after:<17} {e.actor} ({e.role}){until}{said}")


def _tag(found: Version, name: str) -> str:
    return found.tags.get(f"brewhouse.{name}", "")


def _decide(act: str, version: str, home: str, reason: str, as_json: bool, until: str = "") -> None:
    from brewhouse.registry.approvals import Actor
    from brewhouse.registry.lifecycle import Act
    from brewhouse.release.settings import whoami

    actor = Actor(name=whoami(), via="cli")
    found = _open(home).decide(Act(act), version, actor, reason=reason, until=until)
    emit(found.public(), as_json, lambda: _show(found))


def approve(version: Number, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Approve a version that waits for it."""
    _decide("approve", version, home, reason, as_json)


def reject(version: Number, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Reject a version; final."""
    _decide("reject", version, home, reason, as_json)


def waive(
    version: Number,
    reason: Reason,
    until: Annotated[str, typer.Option(help="Last day of the waiver, YYYY-MM-DD")],
    home: Home = "",
    as_json: Json = False,
) -> None:
    """Let a version without a PASS be judged by a person all the same."""
    _decide("waive", version, home, reason, as_json, until)


def promote(version: Number, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Order the promotion of an approved version, and run the promote pipeline on this machine."""
    _order(version, home, reason, as_json, wanted="APPROVED")


def rollback(version: Number, reason: Reason, home: Home = "", as_json: Json = False) -> None:
    """Order the return of a version that was champion before, and run the promote pipeline."""
    _order(version, home, reason, as_json, wanted="RETIRED")


def _order(version: str, home: str, reason: str, as_json: bool, *, wanted: str) -> None:
    from brewhouse.errors import LifecycleError
    from brewhouse.registry.approvals import Actor
    from brewhouse.registry.lifecycle import Act
    from brewhouse.release.running import run_promotion, submit_promotion
    from brewhouse.release.settings import whoami

    release = _open(home)
    now = release.version(version)
    # A run that died between ledger and alias is finished; nothing new is decided.
    if now.state.value != "CHAMPION":
        if now.state.value != wanted:
            other = "rollback" if wanted == "APPROVED" else "promote"
            msg = f"version {version} is {now.state.value}, not {wanted}; see `brewhouse {other}`"
            raise LifecycleError(msg)
        now = release.decide(Act.ORDER, version, Actor(name=whoami(), via="cli"), reason=reason)
        if release.settings.kfp_host:
            run = submit_promotion(release.settings, now)
            typer.echo(f"run {run} of {release.settings.kfp_host} carries the order out", err=True)
            emit(now.public(), as_json, lambda: _show(now))
            return
    run_promotion(release.settings, version)
    found = release.version(version)
    emit(found.public(), as_json, lambda: _show(found))


@app.command("verify")
def verify(home: Home = "", as_json: Json = False) -> None:
    """Check chain, signatures, moves, evidence and weights; exit code 13 if anything is wrong."""
    from brewhouse.errors import TamperError

    release = _open(home)
    found = release.verify()
    entries = len(release.ledger.entries())
    value: dict[str, Any] = {"entries": entries, "findings": found}
    emit(value, as_json, lambda: typer.echo("\n".join(found) or f"{entries} entries, all whole"))
    if found:
        msg = f"{len(found)} findings"
        raise TamperError(msg)


@app.command("export")
def export(out: Annotated[Path, typer.Argument(help="JSON file")], home: Home = "") -> None:
    """Write all entries, refusals and public keys, enough to verify them elsewhere."""
    from dataclasses import asdict

    from brewhouse.files import write_json

    release = _open(home)
    keys = sorted(release.settings.trusted_keys.glob("*.pub"))
    entries = release.ledger.entries()
    value = {
        "schema_version": 1,
        "entries": [asdict(e) for e in entries],
        "refusals": [dict(r) for r in release.ledger.refusals()],
        "keys": {k.stem: k.read_text() for k in keys},
    }
    write_json(out, value)
    typer.echo(f"{len(entries)} entries written to {out}")


@app.command("key")
def key(path: Annotated[Path, typer.Argument(help="Private key to write, PEM")]) -> None:
    """Make a signing key; the public key is written beside it, in `trusted/`."""
    from brewhouse.errors import ConfigError
    from brewhouse.registry.entries import Signer

    if path.exists():
        msg = f"{path} exists; a key is never replaced, write a new one elsewhere"
        raise ConfigError(msg)
    signer = Signer.load(path, create=True)
    public = path.parent / "trusted" / f"{signer.fingerprint}.pub"
    public.parent.mkdir(parents=True, exist_ok=True)
    public.write_bytes(signer.public_pem())
    typer.echo(f"key {signer.fingerprint}: {path} and {public}")
