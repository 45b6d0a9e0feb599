"""Keeps checkpoints of a run over its ranks and machines: writes, finds, reads and copies them.

All ranks call every method together. Machines may share the folder or not; where they do, one of
them does what is to be done once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist

from brewhouse.errors import TrainingError
from brewhouse.training import checkpoints
from brewhouse.training.config import TrainConfig
from brewhouse.training.upload import Store, Uploader

_PATIENCE_S = 600.0
"""Seconds that the end of a run waits for copies that are under way."""


class Keeper:
    """Checkpoints of one run."""

    def __init__(self, config: TrainConfig) -> None:
        """Open the folder and, where the configuration names one, the store.

        Raises:
            ConfigError: The store's URI is wrong.
        """
        self.config = config
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.folder = config.out / "checkpoints"
        self.store = Store(config.upload) if config.upload else None
        self.uploader = self._uploader()
        self._saved = ""

    def found(self) -> tuple[str, dict[str, Any]] | None:
        """Newest complete checkpoint, the same on every rank, fetched from the store if need be.

        Raises:
            TrainingError: A machine has no way to it.
        """
        local = checkpoints.newest(self.folder)
        remote = None
        if self.store:
            remote = self.store.newest()
            if self.rank == 0:
                self.store.drop_unfinished()
        choice: list[Any] = [max(filter(None, (local, remote)), key=lambda f: f[0], default=None)]
        if self.world > 1:
            dist.broadcast_object_list(choice, src=0)
        found: tuple[str, dict[str, Any]] | None = choice[0]
        if found is None:
            return None
        tag, store = found[0], self.store
        if store:
            self._on_machines_without(
                lambda: tag in checkpoints.complete_tags(self.folder),
                lambda: store.fetch(tag, self.folder / tag),
            )
        if tag not in checkpoints.complete_tags(self.folder):
            msg = (
                f"rank {self.rank} has no checkpoint {tag} in {self.folder}; put `out` on storage "
                "that all machines share, or set `upload`"
            )
            raise TrainingError(msg)
        return found

    def resume(self, engine: Any, tag: str, *, reshard: bool) -> None:
        """Read a checkpoint into an engine.

        Args:
            engine: DeepSpeed engine.
            tag: Complete checkpoint, as `found` gives it.
            reshard: Whether another number of ranks wrote it.

        Raises:
            TrainingError: DeepSpeed cannot convert it for this number of ranks.
        """
        if reshard:
            self._on_machines_without(
                lambda: (self.folder / f"{checkpoints.UNIVERSAL}-{tag}").is_dir(),
                lambda: checkpoints.to_universal(self.folder, tag),
            )
            tag = f"{checkpoints.UNIVERSAL}-{tag}"
        decays = [group["weight_decay"] for group in engine.optimizer.param_groups]
        engine.load_checkpoint(
            str(self.folder), tag=tag, load_module_strict=self.config.lora is None
        )
        if reshard and self.config.zero_stage == 3:
            _mend_universal(engine, decays)
        if self.rank == 0:
            print(f"train: resumed from {tag}", flush=True)

    def save(self, engine: Any, state: dict[str, Any], losses: Sequence[float]) -> None:
        """Every rank writes its shard; the mark comes when all have; copying goes on behind.

        Args:
            engine: DeepSpeed engine.
            state: Where the run stands, `step` with it.
            losses: Of the steps since the last checkpoint; their mean tells the best one.
        """
        began = time.monotonic()
        tag = checkpoints.tag_of(state["step"])
        if tag == self._saved:
            # A stage ends where a checkpoint was due: only what it says changes.
            if self.rank == 0:
                checkpoints.tell_again(self.folder, tag, state)
            return
        self._on_first_rank(lambda: checkpoints.clear(self.folder, tag))
        engine.save_checkpoint(
            str(self.folder),
            tag=tag,
            save_latest=False,
            exclude_frozen_parameters=self.config.lora is not None,
        )
        dist.barrier()
        busy = self.uploader.busy if self.uploader else set()
        if self.rank == 0:
            checkpoints.mark_complete(
                self.folder,
                tag,
                state
                | {
                    "world": self.world,
                    "loss": sum(losses) / len(losses) if losses else None,
                    "seconds": round(time.monotonic() - began, 3),
                },
                keep=self.config.keep_checkpoints,
                busy=busy,
            )
        dist.barrier()
        self._saved = tag
        if self.uploader:
            self.uploader.put(
                self.folder / tag, lambda: set(checkpoints.complete_tags(self.folder))
            )

    def close(self) -> None:
        """Wait a bounded time for copies that are under way."""
        if self.uploader:
            self.uploader.give_up(_PATIENCE_S)

    def _uploader(self) -> Uploader | None:
        local = int(os.environ.get("LOCAL_RANK", "0"))
        if self.store is None or local:
            return None
        per_machine = int(os.environ.get("LOCAL_WORLD_SIZE", str(self.world)))
        return Uploader(
            self.store,
            rank=self.rank,
            ranks=per_machine,
            machine=self.rank // per_machine,
            machines=max(1, self.world // per_machine),
        )

    def _on_machines_without(self, there: Callable[[], bool], work: Callable[[], object]) -> None:
        """Do something once where machines share a disk, else once a machine.

        The first rank of all goes first; then the first rank of each machine that lacks it.
        """
        self._on_first_rank(lambda: there() or work(), everywhere=False)
        self._on_first_rank(lambda: there() or work())

    def _on_first_rank(self, work: Callable[[], object], *, everywhere: bool = True) -> None:
        """Let the first rank of each machine, or of all, work while all wait; failures stop all."""
        failed: list[str | None] = [None]
        own = self.rank if not everywhere else int(os.environ.get("LOCAL_RANK", "0"))
        if own == 0:
            try:
                work()
            except (TrainingError, OSError) as error:
                failed = [str(error)]
        told: list[Any] = [None] * self.world
        if self.world > 1:
            dist.all_gather_object(told, failed[0])
        else:
            told = failed
        for message in filter(None, told):
            raise TrainingError(message)


def _mend_universal(engine: Any, decays: list[float]) -> None:
    """Undo what DeepSpeed 0.19 does to AdamW when ZeRO-3 reads a universal checkpoint.

    It gives all groups the first one's settings, and all states one step counter, which then
    counts once for each of them.
    """
    optimizer = engine.optimizer.optimizer
    for group, decay in zip(optimizer.param_groups, decays, strict=True):
        group["weight_decay"] = decay
    for state in optimizer.state.values():
        if isinstance(state.get("step"), torch.Tensor):
            state["step"] = state["step"].clone()
