"""Copies checkpoints to an object store while training goes on, and fetches them to resume.

Each machine copies the files that its own ranks wrote and then says so by a small object; the first
machine writes the mark of completeness when all have. So a store never shows a checkpoint as
complete that is not, and no collective runs beside those of training.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from brewhouse.errors import ConfigError
from brewhouse.training.checkpoints import MARK

_DONE = "machine-{}.json"
_RANK = re.compile(r"zero_pp_rank_(\d+)_")
_POLL_S = 2.0


class Store:
    """A folder of checkpoints under an fsspec URI."""

    def __init__(self, uri: str) -> None:
        """Open it.

        Raises:
            ConfigError: No file system for the URI is installed, or it cannot be reached.
        """
        from fsspec.core import url_to_fs

        self.uri = uri.rstrip("/")
        try:
            # Other machines write there too: what was listed before is no answer.
            self.fs, self.root = url_to_fs(self.uri, use_listings_cache=False)
            self.fs.makedirs(self.root, exist_ok=True)
        except (ImportError, ValueError) as error:
            msg = (
                f"upload: cannot open {uri}: {error}; check the URI and install its fsspec package"
            )
            raise ConfigError(msg) from error

    def path(self, *parts: str) -> str:
        """Path of an object."""
        return "/".join((self.root, *parts))

    def newest(self) -> tuple[str, dict[str, Any]] | None:
        """Newest complete checkpoint and the state its mark holds."""
        marks = sorted(self.fs.glob(self.path("step-*", MARK)))
        if not marks:
            return None
        with self.fs.open(marks[-1], "rb") as file:
            return marks[-1].split("/")[-2], json.load(file)

    def fetch(self, tag: str, target: Path) -> None:
        """Copy a checkpoint here; its mark comes last."""
        target.mkdir(parents=True, exist_ok=True)
        prefix = self.path(tag) + "/"
        names = [p[len(prefix) :] for p in self.fs.find(self.path(tag))]
        own = [n for n in names if n != MARK and not n.startswith("machine-")]
        (target / MARK).unlink(missing_ok=True)
        for number, name in enumerate([*own, MARK]):
            print(f"train: fetching {tag}, file {number + 1} of {len(own) + 1}", flush=True)
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            self.fs.get_file(self.path(tag, name), str(target / name))

    def drop_unfinished(self) -> None:
        """Remove what was being copied when a run ended: its marks would pass for new ones."""
        marked = {m.split("/")[-2] for m in self.fs.glob(self.path("step-*", MARK))}
        for found in self.fs.glob(self.path("step-*")):
            if found.rstrip("/").split("/")[-1] not in marked:
                self.fs.rm(found, recursive=True)

    def drop(self, keep: set[str]) -> None:
        """Remove complete checkpoints that are not to be kept, marks first."""
        for mark in sorted(self.fs.glob(self.path("step-*", MARK))):
            tag = mark.split("/")[-2]
            if tag not in keep:
                self.fs.rm_file(mark)
                self.fs.rm(self.path(tag), recursive=True)


class Uploader:
    """Copies this machine's part of checkpoints in one background thread, in order."""

    def __init__(
        self,
        store: Store,
        *,
        rank: int = 0,
        ranks: int = 1,
        machine: int,
        machines: int,
        timeout_s: float = 3600.0,
    ) -> None:
        """Start the thread.

        Args:
            store: Where to.
            rank: First rank of this machine.
            ranks: Ranks of this machine.
            machine: Number of this machine.
            machines: How many take part.
            timeout_s: How long the first machine waits for the others to finish a checkpoint.
        """
        self.store, self.machine, self.machines = store, machine, machines
        self.own = range(rank, rank + ranks)
        self.timeout_s = timeout_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="upload")
        self._pending: dict[str, Future[None]] = {}

    @property
    def busy(self) -> set[str]:
        """Tags that are being copied or wait for it."""
        return {tag for tag, job in self._pending.items() if not job.done()}

    def put(self, folder: Path, keep: Callable[[], set[str]]) -> None:
        """Copy a finished checkpoint's folder; failures are told and do not stop training.

        Args:
            folder: Local folder, named by its tag, its mark written where this is machine 0.
            keep: Tags to keep in the store afterwards.
        """
        self._pending[folder.name] = self._pool.submit(self._copy, folder, keep)

    def give_up(self, patience_s: float) -> None:
        """Wait for copies that are under way, then leave them; what was not copied is told."""
        wait(self._pending.values(), timeout=patience_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        for tag, job in self._pending.items():
            if not job.done() or job.cancelled():
                print(f"train: checkpoint {tag} not copied in time", file=sys.stderr, flush=True)

    def _copy(self, folder: Path, keep: Callable[[], set[str]]) -> None:
        tag = folder.name
        try:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                name = path.relative_to(folder).as_posix()
                if name != MARK and self._is_own(path.name):
                    self._put_file(path, self.store.path(tag, name))
            self.store.fs.pipe_file(self.store.path(tag, _DONE.format(self.machine)), b"{}")
            if self.machine == 0:
                self._wait_for_all(tag)
                self._put_file(folder / MARK, self.store.path(tag, MARK))
                self.store.drop(keep() | {tag})
        except Exception as error:
            print(f"train: checkpoint {tag} not copied: {error}", file=sys.stderr, flush=True)
            raise

    def _is_own(self, name: str) -> bool:
        """Whether this machine copies a file: shards are named by rank, the rest is shared."""
        found = _RANK.search(name)
        return int(found[1]) in self.own if found else self.machine == 0

    def _put_file(self, path: Path, target: str) -> None:
        self.store.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        self.store.fs.put_file(str(path), target)

    def _wait_for_all(self, tag: str) -> None:
        deadline = time.monotonic() + self.timeout_s
        names = [self.store.path(tag, _DONE.format(m)) for m in range(self.machines)]
        while True:
            absent = [n for n in names if not self.store.fs.exists(n)]
            if not absent:
                return
            if time.monotonic() > deadline:
                msg = f"{len(absent)} of {self.machines} machines did not copy their part of {tag}"
                raise TimeoutError(msg)
            time.sleep(_POLL_S)
