"""Finds what steps of a local run wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from brewhouse.errors import PipelineError


@dataclass(frozen=True)
class RunArtifacts:
    """A run folder of `brewhouse run` or `brewhouse demo`."""

    out: Path

    def newest(self, name: str) -> Path:
        """Newest artifact of a step, such as `train-ranker/model`.

        A step that was cached wrote its artifact in an earlier start of the run.

        Raises:
            PipelineError: No start of the run has written it.
        """
        found = [p for p in (self.out / "artifacts").glob(f"*/{name}") if p.exists()]
        if not found:
            msg = f"{self.out}: no {name} in it; give the folder of a run that has got so far"
            raise PipelineError(msg)
        return max(found, key=lambda p: (p.stat().st_mtime_ns, str(p)))
