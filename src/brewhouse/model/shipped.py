"""Models that come with the project: small, made by us, rebuilt by one command."""

from __future__ import annotations

from importlib import resources
from pathlib import Path


def shipped_models() -> list[str]:
    """Names of the models in the package."""
    root = Path(str(resources.files("brewhouse.models")))
    return sorted(path.parent.name for path in root.glob("*/config.json"))


def locate(model: str) -> str:
    """Folder of a shipped model; any other folder or hub id as it is."""
    if model in shipped_models():
        return str(Path(str(resources.files("brewhouse.models"))) / model)
    return model
