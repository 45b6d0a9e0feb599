"""Finds a model by what people call it: the champion, a version, a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from brewhouse.errors import ConfigError, RegistryError, TamperError
from brewhouse.files import digest_tree
from brewhouse.model.shipped import locate
from brewhouse.platform.tracking import Registry
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.store import VersionFolder


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A model on this machine's disk.

    Attributes:
        path: Exported model.
        name: What to call it, such as `ranker version 3`.
        digest: Of its weights.
        source: Where it is kept: a folder, or a URI.
    """

    path: Path
    name: str
    digest: str
    source: str


@contextmanager
def chosen_model(wanted: str, settings: Settings) -> Iterator[Chosen]:
    """A model's folder, for as long as the context lasts.

    Args:
        wanted: `champion`, a version's number, a folder, or a model that comes with the project.
        settings: Which registry.

    Raises:
        RegistryError: There is no such version, or no champion.
        TamperError: Its weights are not those that were registered.
        ConfigError: There is no such folder.
    """
    if wanted != CHAMPION and not wanted.isdecimal():
        path = Path(locate(wanted))
        if not path.is_dir():
            msg = f"no model '{wanted}'; give {CHAMPION}, a version's number, or a model's folder"
            raise ConfigError(msg)
        yield Chosen(path=path, name=wanted, digest=_digest(path), source=str(path))
        return
    registry, name = Registry(settings.tracking_uri), settings.model_name
    number = registry.alias(name, CHAMPION) if wanted == CHAMPION else wanted
    if not number:
        msg = f"{name} has no champion; promote a version, or name a version or a folder"
        raise RegistryError(msg)
    found = registry.version(name, number)
    with VersionFolder(found.source, tracking_uri=settings.tracking_uri).local("model") as path:
        digest, registered = _digest(path), found.tags.get("brewhouse.model", "")
        if digest != registered:
            msg = f"{found.source}: weights are {digest}, version {number} was registered with "
            msg += f"{registered or 'none'}; see `brewhouse ledger verify`"
            raise TamperError(msg)
        yield Chosen(
            path=path,
            name=f"{name} version {number}",
            digest=digest,
            source=f"{found.source}/model",
        )


def _digest(path: Path) -> str:
    return "sha256:" + digest_tree(path, pattern="*.safetensors")
