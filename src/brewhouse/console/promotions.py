"""Promote runs that the console started, and what became of them."""

from __future__ import annotations

import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from brewhouse.release.running import submit_promotion
from brewhouse.release.settings import Settings
from brewhouse.release.versions import Version


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a promote run is.

    Attributes:
        state: `none`, `running`, `failed` or `submitted`.
        detail: What it said last, or the run's id.
    """

    state: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class _Started:
    order: int
    process: subprocess.Popen[bytes] | None
    log: Path | None
    run_id: str = ""


class Promotions:
    """Starts promote runs, each order's once while it runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._started: dict[str, _Started] = {}
        self._lock = threading.Lock()

    def start(self, version: Version) -> None:
        """Start the run that carries out a standing order; one that runs already is left alone.

        Raises:
            BrewhouseError: Kubeflow Pipelines did not take it.
        """
        order = version.entries[-1].number
        with self._lock:
            if self.status(version).state in ("running", "submitted"):
                return
            if self.settings.kfp_host:
                run_id = submit_promotion(self.settings, version)
                started = _Started(order=order, process=None, log=None, run_id=run_id)
            else:
                started = self._start_here(version.version, order)
            self._started[version.version] = started

    def _start_here(self, number: str, order: int) -> _Started:
        log = self.settings.home / "promotions" / f"{number}-order-{order}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        home = str(self.settings.home)
        with log.open("wb") as out:
            # A session of its own: stopping the console does not stop it halfway.
            process = subprocess.Popen(
                [sys.executable, "-m", "brewhouse.release.running", number, home],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return _Started(order=order, process=process, log=log)

    def status(self, version: Version) -> Status:
        """What became of the run of a version's newest order."""
        found = self._started.get(version.version)
        if found is None or found.order != version.entries[-1].number:
            return Status(state="none")
        if found.process is None:
            return Status(state="submitted", detail=found.run_id)
        code = found.process.poll()
        if code is None:
            return Status(state="running")
        return Status(state="failed", detail=_last_words(found.log, code))


def _last_words(log: Path | None, code: int) -> str:
    lines = log.read_text(errors="replace").splitlines() if log else []
    said = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return said[-1] if said else f"exit code {code}; the log is {log}"
