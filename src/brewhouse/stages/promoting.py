"""The promote run: an order that a person gave, carried out after everything was verified."""

from __future__ import annotations

from pathlib import Path

from brewhouse.files import write_json
from brewhouse.release.service import Release
from brewhouse.release.settings import CHAMPION, Settings
from brewhouse.release.versions import Version
from brewhouse.stages.common import tell


def run(*, version: str, home: str, promoted_out: Path) -> Version:
    """Promote a version.

    Args:
        version: With a standing order.
        home: Folder of registry, ledger and keys, where the environment does not name them.
        promoted_out: JSON of the version as it then stands.

    Raises:
        LifecycleError: Nobody ordered it, or it has expired.
        TamperError: Something is not what was signed.
    """
    release = Release(Settings.read(home))
    promoted = release.promote(version)
    write_json(promoted_out, promoted.public())
    tell(f"{promoted.model} version {version} is {promoted.state.value} (alias {CHAMPION})")
    return promoted
