"""What may be thrown away: checkpoints of runs that ended long ago, days of versions out of use.

Versions are never looked at: the ledger vouches for them, and the model store keeps them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from brewhouse.errors import ConfigError, RegistryError
from brewhouse.platform.tracking import STATE_TAG, Registry
from brewhouse.registry.lifecycle import State
from brewhouse.release.settings import CHAMPION, Settings

RUNS, OBSERVATIONS, MODEL = "runs", "observations", "model"
_WAITING = (State.PENDING_APPROVAL, State.APPROVED)


@dataclass(frozen=True, kw_only=True)
class Waste:
    """A folder that nobody needs any more.

    Attributes:
        keeps: Folder inside that stays: a trained model, for nothing says here that it was
            registered; empty for none.
        bytes: Of what goes.
        changed: When anything in it last changed.
        why: In words.
    """

    path: Path
    keeps: str
    bytes: int
    changed: datetime
    why: str


def waste(workspace: Path, settings: Settings, *, days: float, now: datetime) -> list[Waste]:
    """Folders of a workspace that may go, the largest first.

    Args:
        workspace: Folder with `runs` (checkpoints) and `observations` (days that were scored).
        settings: Registry and its model: what the champion and whatever waits for a person need
            stays, and so do days of other models.
        days: Folders in which something changed since stay.
        now: Aware.

    Raises:
        ConfigError: There is no such folder, or it holds neither.
        RegistryError: The registry is not reached, or names no champion; nothing is told then.
    """
    if not any((workspace / name).is_dir() for name in (RUNS, OBSERVATIONS)):
        msg = f"{workspace} holds neither {RUNS}/ nor {OBSERVATIONS}/; name the workspace of runs"
        raise ConfigError(msg)
    needed = _needed(settings)
    limit = now - timedelta(days=days)
    observed = workspace / OBSERVATIONS / settings.model_name
    found = [*_runs(workspace / RUNS, limit), *_observations(observed, needed, limit)]
    return sorted(found, key=lambda one: (-one.bytes, str(one.path)))


def remove(found: Waste) -> None:
    """Remove a folder, but for what it keeps."""
    for path in list(found.path.iterdir()):
        if path.name == found.keeps:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if not any(found.path.iterdir()):
        found.path.rmdir()


def _needed(settings: Settings) -> set[str]:
    """Versions in use, or waiting for a person."""
    registry, model = Registry(settings.tracking_uri), settings.model_name
    waiting = {
        number
        for number, version in registry.versions(model).items()
        if version.tags.get(STATE_TAG) in _WAITING
    }
    champion = registry.alias(model, CHAMPION)
    if not champion:
        msg = (
            f"{model} has no champion at {settings.tracking_uri}, so nothing says what is in use; "
            "check BREWHOUSE_TRACKING_URI and BREWHOUSE_MODEL_NAME"
        )
        raise RegistryError(msg)
    return waiting | {champion}


def _runs(folder: Path, limit: datetime) -> Iterator[Waste]:
    for path in _folders(folder):
        size, changed = _measured(path)
        size -= _measured(path / MODEL)[0] if (path / MODEL).is_dir() else 0
        if changed < limit and size:
            why = "data and checkpoints of a run in which nothing happens; its model stays"
            yield Waste(path=path, keeps=MODEL, bytes=size, changed=changed, why=why)


def _observations(folder: Path, needed: set[str], limit: datetime) -> Iterator[Waste]:
    for path in _folders(folder):
        size, changed = _measured(path)
        if path.name not in needed and changed < limit:
            why = f"days of version {path.name}, which is not in use and waits for nobody"
            yield Waste(path=path, keeps="", bytes=size, changed=changed, why=why)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _measured(folder: Path) -> tuple[int, datetime]:
    """Bytes, and the newest change of anything inside; what vanishes meanwhile is left out."""
    size, newest = 0, folder.stat().st_mtime
    for path in folder.rglob("*"):
        try:
            told = path.lstat()
        except FileNotFoundError:
            continue
        size, newest = size + told.st_size, max(newest, told.st_mtime)
    return size, datetime.fromtimestamp(newest, UTC)
