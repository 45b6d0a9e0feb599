"""The training loop: one DeepSpeed engine for every scale, from a CPU process to many GPUs."""

from __future__ import annotations

import math
import signal
import sys
import time
from collections import defaultdict, deque
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from brewhouse.errors import TrainingError
from brewhouse.model.batch import TreeBatch, collate
from brewhouse.model.plan import default_backend
from brewhouse.model.routing import RouterHealth, expert_counts, load_balance_loss
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training.config import Stage, TrainConfig
from brewhouse.training.export import export
from brewhouse.training.keeper import Keeper
from brewhouse.training.primer import PrimerStream
from brewhouse.training.progress import Progress
from brewhouse.training.setup import build_engine, start_distributed, sum_over_ranks
from brewhouse.training.stream import Batch, TreeStream, shares
from brewhouse.training.tastes import TasteStream

_STEADY = 50
"""Steps over which a primer's loss must be low for it to grow harder."""


class Preempted(Exception):  # noqa: N818 - a state, not a fault
    """The run was asked to stop and has written a checkpoint."""


class Trainer:
    """Runs the stages of a configuration and exports the model."""

    def __init__(self, config: TrainConfig) -> None:
        """Set up the process group, the model and the optimizer.

        Raises:
            TrainingError: Micro-batches cannot be dealt out to the ranks.
            ModelError: The model's experts cannot be gathered as one.
        """
        self.config = config
        self.manifest = ShardsManifest.read(config.data)
        self.tokenizer = PromptTokenizer.load(config.data / "tokenizer")
        self.device = start_distributed()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.keeper = Keeper(config)
        found = self.keeper.found()
        self.state: dict[str, Any] = {
            "stage": 0,
            "groups": 0,
            "tokens": 0,
            "step": 0,
            "levels": {},
            "spent_s": 0.0,
            "trained": 0,
            "micro_batches": config.micro_batches or self.world,
        }
        if found is not None:
            # A checkpoint of an earlier release knows nothing of `levels`: its primer begins anew.
            self.state = {k: found[1].get(k, self.state[k]) for k in self.state}
        self.size = int(self.state["micro_batches"])
        if self.size % self.world:
            msg = (
                f"{self.size} micro-batches a step cannot be dealt out evenly to {self.world} "
                f"ranks; start a number of ranks that divides {self.size}"
            )
            raise TrainingError(msg)
        if self.world % config.expert_parallel:
            msg = (
                f"expert_parallel: {config.expert_parallel} does not divide {self.world} ranks; "
                "lower it or start more ranks"
            )
            raise TrainingError(msg)
        # Without ZeRO every rank holds all state, and any number can read it as it is.
        reshard = found is not None and found[1]["world"] != self.world and config.zero_stage > 0
        self.engine = build_engine(
            config,
            self.tokenizer,
            self.manifest.answers,
            accumulate=self.size // self.world,
            universal=reshard,
        )
        self._recent: dict[str, deque[float]] = defaultdict(partial(deque, maxlen=_STEADY))
        self._since_save: list[float] = []
        self._load: torch.Tensor | None = None
        self._warned: set[str] = set()
        self._stop = torch.zeros(1, device=self.device)
        signal.signal(signal.SIGTERM, lambda *_: self._stop.fill_(1))
        if found is not None:
            self.keeper.resume(self.engine, found[0], reshard=reshard)
            # DeepSpeed counts micro-batches within a step; a checkpoint stands between steps.
            self.engine.micro_steps = self.state["step"] * (self.size // self.world)

    def run(self) -> Path:
        """Train all stages and export; return the exported folder.

        Raises:
            Preempted: A signal asked to stop; a checkpoint is written.
        """
        metrics, every_s = self.config.out / "metrics.jsonl", self.config.report_s
        progress = Progress(metrics, every_s=every_s) if self.rank == 0 else None
        try:
            for index, stage in enumerate(self.config.stages):
                if index >= self.state["stage"]:
                    self.train(stage, progress)
                    self.state |= {"stage": index + 1, "groups": 0, "tokens": 0, "levels": {}}
                    self._save()
        except BaseException:
            self.keeper.close()
            raise
        finally:
            if progress:
                progress.close()
        model = export(
            self.engine,
            self.config,
            self.tokenizer,
            steps=self.state["step"],
            world=self.world,
            actual=self._actual(),
        )
        self.keeper.close()
        return model

    def _actual(self) -> dict[str, float]:
        """What the run took, over all its restarts."""
        gpus = self.world if self.device.type == "cuda" else 0
        found = {
            "tokens": self.state["trained"],
            "seconds": round(self.state["spent_s"], 1),
            "tokens_per_s": round(self.state["trained"] / max(self.state["spent_s"], 1e-9), 1),
            "ranks": self.world,
            "gpu_hours": round(gpus * self.state["spent_s"] / 3600, 4),
        }
        if gpus:
            found["peak_gpu_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return found

    def train(self, stage: Stage, progress: Progress | None = None) -> None:
        """Train what is left of a stage; its end is not saved.

        Args:
            stage: Stage that `state` stands in.
            progress: Told of every step.

        Raises:
            Preempted: A signal asked to stop; a checkpoint is written.
            TrainingError: The loss is no number.
        """
        source = self._source(stage)
        steps = shares(
            source,
            size=self.size,
            rank=self.rank,
            world=self.world,
            skip=self.state["groups"],
        )
        for batches, tokens in steps:
            share = self.state["tokens"] / stage.tokens
            if share >= 1:
                return
            lr = stage.lr * _schedule(share, stage.warmup, decay=stage.decay)
            for group in self.engine.optimizer.param_groups:
                group["lr"] = lr
            began = time.monotonic()
            asked = source.loss if isinstance(source, PrimerStream) else stage.loss
            loss, targets, aux = self._step(batches, stage, asked)
            self.state["spent_s"] += time.monotonic() - began
            self.state["trained"] += tokens
            self.state["groups"] += 1
            self.state["tokens"] += tokens
            self.state["step"] += 1
            self._since_save.append(loss)
            if progress:
                progress.step(
                    stage=stage.name,
                    step=self.state["step"],
                    share=self.state["tokens"] / stage.tokens,
                    loss=loss,
                    tokens=tokens,
                    targets=targets,
                    lr=lr,
                    extra=partial(self._routing, aux),
                    last=self.state["tokens"] >= stage.tokens,
                )
            if self._asked_to_stop():
                self._save()
                raise Preempted
            if isinstance(source, PrimerStream) and self._primed(source, loss):
                return
            if self.state["step"] % self.config.checkpoint_steps == 0:
                self._save()

    def _source(self, stage: Stage) -> TreeStream | PrimerStream | TasteStream:
        options = {"batch_tokens": self.config.batch_tokens, "seed": self.config.seed}
        if stage.primer is not None:
            manifest = self.manifest
            source = PrimerStream(
                stage.primer,
                self.tokenizer,
                manifest.book,
                manifest.answers,
                surfaces=manifest.surfaces,
                shards=self.config.data / "cpt",
                size=self.size,
                **options,
            )
            source.levels |= self.state["levels"]
            self._recent.clear()
            return source
        if stage.tastes is not None:
            return TasteStream(
                stage.tastes,
                self.tokenizer,
                self.manifest.book,
                self.manifest.answers,
                data=self.config.data,
                max_events=self.manifest.history["max_events"],
                max_tokens=self.manifest.history["max_tokens"],
                **options,
            )
        if stage.word_dropout and self.tokenizer.markup.name != "tagged":
            msg = (
                f"stage {stage.name}: word_dropout cannot tell words from marks in markup "
                f"'{self.tokenizer.markup.name}' of a borrowed tokenizer; set it to 0"
            )
            raise TrainingError(msg)
        return TreeStream(
            self.config.data / stage.shards,
            max_trunk=stage.max_trunk,
            history_dropout=stage.history_dropout,
            word_dropout=stage.word_dropout,
            kept={*self.tokenizer.marks, *chain.from_iterable(self.manifest.answers)},
            blot=self.tokenizer.pad,
            **options,
        )

    def _step(self, batches: list[Batch], stage: Stage, asked: str) -> tuple[float, int, float]:
        """One optimizer step: loss over the micro-batches of all ranks, targets, balancing loss.

        `asked` is the kind of loss, as of `Ranker.forward`.

        Every loss is a sum over this rank's part divided by the whole step's weight, so that how
        micro-batches fall to ranks changes nothing.
        """
        # Nothing of a model is random here but what adapters may do; tied to the step, so that a
        # resumed run draws the same.
        torch.manual_seed((self.config.seed << 32) ^ self.state["step"] ^ (self.rank << 24))
        module = self.engine.module
        backend = default_backend(self.device, module.head_dim)
        rows = [collate(b, backend=backend).to(self.device) for b in batches]
        own = sum((module.totals(row, asked) for row in rows), torch.zeros(2).double())
        totals = sum_over_ranks(own.to(self.device)).cpu()
        done = torch.zeros(3, dtype=torch.float64, device=self.device)
        for row in rows:
            done += self._micro_step(row, asked, totals)
        loss, targets, aux = sum_over_ranks(done).tolist()
        if not math.isfinite(loss):
            msg = (
                f"loss is {loss} at step {self.state['step']} of stage {stage.name}; "
                f"lower lr ({stage.lr}) or raise warmup ({stage.warmup})"
            )
            raise TrainingError(msg)
        return loss, int(targets), aux / self.size

    def _micro_step(self, row: TreeBatch, asked: str, totals: torch.Tensor) -> torch.Tensor:
        loss, count, router = self.engine(row, asked, self.config.token_loss_weight, totals)
        # DeepSpeed takes the mean over ranks and micro-batches, and this is a part of a sum.
        total, aux = loss * self.size, torch.zeros((), device=self.device)
        if router:
            settings = self.engine.module.decoder.config
            top_k = settings.num_experts_per_tok
            aux = load_balance_loss(
                router, experts=settings.num_local_experts, top_k=top_k, reduce=sum_over_ranks
            )
            total = total + self.config.router_aux * aux
            counts = expert_counts(router, top_k=top_k)
            self._load = counts if self._load is None else self._load + counts
        self.engine.backward(total)
        self.engine.step()
        return torch.stack(
            [loss.detach().double(), count.to(loss.device).double(), aux.detach().double()]
        )

    def _routing(self, aux: float) -> dict[str, float]:
        """Load of the experts since the last report, on this rank; warns where it is uneven."""
        if self._load is None:
            return {}
        health = RouterHealth.of(self._load)
        self._load = None
        for warning in health.warnings(max_cv=self.config.router_max_cv):
            where = warning.split(":")[0]
            if where not in self._warned:
                self._warned.add(where)
                print(f"train: warning: {warning}", file=sys.stderr, flush=True)
        return {"router_aux": round(aux, 4), **health.metrics()}

    def _primed(self, source: PrimerStream, loss: float) -> bool:
        """Make the primer harder when its loss has been low; whether it can grow no more."""
        recent = self._recent[source.kind]
        recent.append(loss)
        mean = sum(recent) / len(recent)
        if len(recent) < _STEADY or mean >= source.grow_below:
            return False
        recent.clear()
        if source.grow() and self.rank == 0:
            keys = source.levels[source.kind] + 2
            now = "are learned" if source.learned(source.kind) else f"of {keys} keys from here"
            print(f"train: loss {mean:.3f}, so histories of {source.kind} {now}", flush=True)
        self.state["levels"] = dict(source.levels)
        return source.done

    def _save(self) -> None:
        self.keeper.save(self.engine, self.state, self._since_save)
        self._since_save = []

    def _asked_to_stop(self) -> bool:
        flag = self._stop.clone()
        if self.world > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())


def _schedule(share: float, warmup: float, *, decay: bool) -> float:
    """Linear warm-up, then cosine decay to a twentieth, or none."""
    if share < warmup:
        return max(share / warmup, 0.02)
    if not decay:
        return 1.0
    done = (share - warmup) / max(1 - warmup, 1e-9)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
