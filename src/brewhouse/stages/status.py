"""Last step: say how the run ended, whatever happened before."""

from __future__ import annotations

import tempfile
from pathlib import Path

from brewhouse.files import write_json
from brewhouse.stages.common import publish, tell


def run(*, publish_to: str, state: str, error: str = "") -> None:
    """Write status.json to the run folder."""
    tell(f"pipeline {state}" + (f": {error}" if error else ""))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "status.json"
        write_json(path, {"schema_version": 1, "state": state, "error": error})
        publish({"status.json": path}, publish_to)
