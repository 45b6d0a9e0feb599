"""The version that is watched, with what was bound to it when it was registered."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from brewhouse.drift.reference import Reference
from brewhouse.errors import RegistryError, StoreError
from brewhouse.files import read_json
from brewhouse.platform.tracking import STATE_TAG, Registry
from brewhouse.registry.lifecycle import State
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.store import VersionFolder

REFERENCE = "reference.json"
_WAITING = (State.PENDING_APPROVAL, State.APPROVED)


@dataclass(frozen=True, kw_only=True)
class WatchedVersion:
    """A registered version on this machine's disk.

    Attributes:
        name: Of the registered model.
        number: Version.
        model: Exported model.
        folder: What was bound to it: `reference.json`, inputs and projection.
        reference: None where nothing that can be read was bound to it.
        missing: Why not.
        waiting: A newer version that waits for a person; empty if none does.
        trained: Day on which its training data ended; None where it does not say.
        champion: Whether it is in use.
    """

    name: str
    number: str
    model: Path
    folder: Path
    reference: Reference | None
    missing: str
    waiting: str
    trained: date | None
    champion: bool = True


def watched_number(settings: Settings, wanted: str = CHAMPION) -> str:
    """Number of the champion, or of the version named.

    Raises:
        RegistryError: There is none.
    """
    registry, name = Registry(settings.tracking_uri), settings.model_name
    number = registry.alias(name, CHAMPION) if wanted == CHAMPION else wanted
    if not number:
        msg = f"{name} has no champion to watch; promote a version, or name one with --version"
        raise RegistryError(msg)
    known = registry.versions(name)
    if number not in known:
        told = ", ".join(sorted(known, key=int)) or "none"
        msg = f"{name} has no version {number}; it has {told}"
        raise RegistryError(msg)
    return number


@contextmanager
def watched_version(settings: Settings, wanted: str = CHAMPION) -> Iterator[WatchedVersion]:
    """The champion, or a version by its number.

    Raises:
        RegistryError: There is none.
    """
    number = watched_number(settings, wanted)
    registry = Registry(settings.tracking_uri)
    known = registry.versions(settings.model_name)
    waiting = [
        other
        for other, found in known.items()
        if int(other) > int(number) and found.tags.get(STATE_TAG) in _WAITING
    ]
    kept = VersionFolder(known[number].source, tracking_uri=settings.tracking_uri)
    with TemporaryDirectory(prefix="brewhouse-watched-") as scratch, kept.local("model") as model:
        folder = Path(scratch) / "reference"
        reference, missing = _bound(kept, folder)
        yield WatchedVersion(
            name=settings.model_name,
            number=number,
            model=model,
            folder=folder,
            reference=reference,
            missing=missing,
            waiting=max(waiting, key=int, default=""),
            trained=trained_until(kept),
            champion=registry.alias(settings.model_name, CHAMPION) == number,
        )


def _bound(kept: VersionFolder, folder: Path) -> tuple[Reference | None, str]:
    if f"dossier/reference/{REFERENCE}" not in kept.names():
        return None, f"{kept.uri} holds no dossier/reference; evaluate and register it again"
    with kept.local("dossier") as dossier:
        shutil.copytree(dossier / "reference", folder)
    try:
        return Reference.model_validate(read_json(folder / REFERENCE)), ""
    except (ValidationError, ValueError) as error:
        return None, f"{kept.uri}: its reference cannot be read: {str(error).splitlines()[0]}"


def trained_until(kept: VersionFolder) -> date | None:
    """Day on which a version's training data ended."""
    try:
        split = kept.read_json("dossier/results.json")["split"]
        return datetime.fromisoformat(split["train_end"]).date()
    except StoreError:
        raise
    except (RegistryError, KeyError, TypeError, ValueError):
        return None
