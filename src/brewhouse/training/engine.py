"""The training loop: one DeepSpeed engine for every scale, from a CPU process to many GPUs."""

from __future__ import annotations

import math
import os
import shutil
import signal
from collections import deque
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from brewhouse.errors import TrainingError
from brewhouse.files import atomic_dir, read_json, write_json
from brewhouse.model.batch import collate
from brewhouse.model.build import build_decoder, load_decoder
from brewhouse.model.plan import default_backend
from brewhouse.model.ranker import Ranker, load_balance_loss, router_load
from brewhouse.model.shipped import locate
from brewhouse.model.sizes import SIZES
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training import checkpoints
from brewhouse.training.config import Stage, TrainConfig
from brewhouse.training.primer import PrimerStream
from brewhouse.training.progress import Progress
from brewhouse.training.stream import TreeStream

_STEADY = 50
"""Steps over which a primer's loss must be low for it to grow harder."""
RETRY_EXIT_CODE = 75
"""EX_TEMPFAIL: stopped by a signal with a checkpoint written; start again to go on."""


class Preempted(Exception):  # noqa: N818 - a state, not a fault
    """The run was asked to stop and has written a checkpoint."""


class Trainer:
    """Runs the stages of a configuration and exports the model."""

    def __init__(self, config: TrainConfig) -> None:
        """Set up the process group, the model and the optimizer."""
        self.config = config
        self.manifest = ShardsManifest.read(config.data)
        self.tokenizer = PromptTokenizer.load(config.data / "tokenizer")
        self.device = _start_distributed()
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.engine = self._build_engine()
        self.state: dict[str, Any] = {
            "stage": 0,
            "groups": 0,
            "tokens": 0,
            "step": 0,
            "level": 0,
        }
        self._recent: deque[float] = deque(maxlen=_STEADY)
        self._stop = torch.zeros(1, device=self.device)
        signal.signal(signal.SIGTERM, lambda *_: self._stop.fill_(1))

    def run(self) -> Path:
        """Train all stages, resuming from the newest checkpoint; return the exported folder."""
        self._resume()
        progress = Progress(self.config.out / "metrics.jsonl") if self.rank == 0 else None
        try:
            for index, stage in enumerate(self.config.stages):
                if index >= self.state["stage"]:
                    self._run_stage(stage, progress)
                    self.state |= {"stage": index + 1, "groups": 0, "tokens": 0, "level": 0}
                    self._save()
        finally:
            if progress:
                progress.close()
        return self._export()

    def _build_engine(self) -> Any:
        import deepspeed

        config = self.config
        if config.model in SIZES:
            decoder = build_decoder(
                config.model,
                vocab_size=len(self.tokenizer),
                begin=self.tokenizer.begin,
                pad=self.tokenizer.pad,
                seed=config.seed,
            )
        else:
            decoder = load_decoder(locate(config.model))
        ranker = Ranker(decoder, self.manifest.answers)
        if config.zero_stage == 3:
            blocks = {type(layer.mlp) for layer in decoder.model.layers}
            deepspeed.utils.set_z3_leaf_modules(ranker, list(blocks))
        decay = [p for p in ranker.parameters() if p.ndim >= 2]
        plain = [p for p in ranker.parameters() if p.ndim < 2]
        optimizer = torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": config.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=config.stages[0].lr,
            betas=(0.9, 0.98),
        )
        engine, *_ = deepspeed.initialize(
            model=ranker,
            optimizer=optimizer,
            config=self._deepspeed_config(),
            dist_init_required=False,
        )
        if config.zero_stage == 3:
            deepspeed.zero.register_external_parameter(ranker, decoder.lm_head.weight)
        return engine

    def _deepspeed_config(self) -> dict[str, Any]:
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": self.config.clip,
            "zero_optimization": {"stage": self.config.zero_stage},
            "zero_allow_untested_optimizer": True,
            "bf16": {"enabled": self.config.precision == "bfloat16"},
            "steps_per_print": 1_000_000_000,
            "wall_clock_breakdown": False,
        }

    def _run_stage(self, stage: Stage, progress: Progress | None) -> None:
        stream = self._stream(stage)
        for trees, tokens in stream(skip=self.state["groups"]):
            share = self.state["tokens"] / stage.tokens
            if share >= 1:
                return
            lr = stage.lr * _schedule(share, stage.warmup, decay=stage.decay)
            for group in self.engine.optimizer.param_groups:
                group["lr"] = lr
            loss, targets, load = self._step(trees, stage)
            self.state["groups"] += 1
            self.state["tokens"] += tokens
            self.state["step"] += 1
            if progress:
                progress.step(
                    stage=stage.name,
                    step=self.state["step"],
                    share=self.state["tokens"] / stage.tokens,
                    loss=loss,
                    tokens=tokens,
                    targets=targets * self.world,
                    lr=lr,
                    extra=load,
                    last=self.state["tokens"] >= stage.tokens,
                )
            if self._asked_to_stop():
                self._save()
                raise Preempted
            if isinstance(stream, PrimerStream) and self._primed(stream, loss):
                return
            if self.state["step"] % self.config.checkpoint_steps == 0:
                self._save()

    def _stream(self, stage: Stage) -> TreeStream | PrimerStream:
        options = {
            "batch_tokens": self.config.batch_tokens,
            "seed": self.config.seed,
            "rank": self.rank,
            "world": self.world,
        }
        if stage.primer is not None:
            manifest = self.manifest
            self._recent.clear()
            stream = PrimerStream(
                stage.primer,
                self.tokenizer,
                manifest.book,
                manifest.answers,
                surfaces=manifest.surfaces,
                shards=self.config.data / "cpt",
                **options,
            )
            stream.level = self.state["level"]
            return stream
        folder = self.config.data / stage.shards
        return TreeStream(folder, max_trunk=stage.max_trunk, **options)

    def _step(self, trees: list[Any], stage: Stage) -> tuple[float, int, dict[str, float]]:
        batch = collate(trees, backend=default_backend(self.device)).to(self.device)
        loss, count, router = self.engine(batch, stage.loss, self.config.token_loss_weight)
        if not torch.isfinite(loss):
            msg = (
                f"loss is {float(loss)} at step {self.state['step']} of stage {stage.name}; "
                f"lower lr ({stage.lr}) or raise warmup ({stage.warmup})"
            )
            raise TrainingError(msg)
        total, extra = loss, {}
        model = self.engine.module.decoder.config
        if router:
            kwargs = {"top_k": model.num_experts_per_tok}
            aux = load_balance_loss(router, experts=model.num_local_experts, **kwargs)
            total = loss + self.config.router_aux * aux
            share = router_load([r.detach() for r in router], **kwargs)
            extra = {
                "router_aux": round(float(aux.detach()), 4),
                "router_max_load": round(float(share.max()) * share.shape[1], 3),
            }
        self.engine.backward(total)
        self.engine.step()
        return float(loss.detach()), int(count), extra

    def _primed(self, stream: PrimerStream, loss: float) -> bool:
        """Make the primer harder when its loss has been low; whether it can grow no more."""
        self._recent.append(self._mean_over_ranks(loss))
        mean = sum(self._recent) / len(self._recent)
        if len(self._recent) < _STEADY or mean >= stream.spec.grow_below:
            return False
        self._recent.clear()
        if stream.grown:
            return True
        stream.level += 1
        self.state["level"] = stream.level
        if self.rank == 0:
            print(
                f"train: loss {mean:.3f}, so histories of {stream.level + 2} keys from here",
                flush=True,
            )
        return False

    def _mean_over_ranks(self, loss: float) -> float:
        if self.world == 1:
            return loss
        mean = torch.tensor(loss, device=self.device)
        dist.all_reduce(mean, op=dist.ReduceOp.SUM)
        return float(mean) / self.world

    def _asked_to_stop(self) -> bool:
        flag = self._stop.clone()
        if self.world > 1:
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())

    def _save(self) -> None:
        folder = self.config.out / "checkpoints"
        tag = checkpoints.tag_of(self.state["step"])
        self.engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        dist.barrier()
        if self.rank == 0:
            checkpoints.mark_complete(
                folder, tag, self.state | {"world": self.world}, keep=self.config.keep_checkpoints
            )
        dist.barrier()

    def _resume(self) -> None:
        found = checkpoints.newest(self.config.out / "checkpoints")
        if found is None:
            return
        tag, state = found
        if state["world"] != self.world:
            msg = (
                f"checkpoint {tag} was written by {state['world']} ranks and this run has "
                f"{self.world}; start as many, or a fresh --out"
            )
            raise TrainingError(msg)
        self.engine.load_checkpoint(str(self.config.out / "checkpoints"), tag=tag)
        self.state = {k: state[k] for k in self.state}
        if self.rank == 0:
            print(f"train: resumed from {tag}", flush=True)

    def _export(self) -> Path:
        """Write the decoder and tokenizer in Hugging Face layout, safetensors, float32."""
        target = self.config.out / "model"
        weights = self._full_weights()
        if self.rank == 0:
            with atomic_dir(target) as scratch:
                self.engine.module.decoder.save_pretrained(str(scratch), state_dict=weights)
                self.tokenizer.save(scratch)
                shutil.copy(self.config.data / ShardsManifest.FILE, scratch / "prompts.json")
                write_json(
                    scratch / "training.json",
                    {
                        "config": self.config.model_dump(mode="json", exclude={"data", "out"}),
                        "parameters": sum(v.numel() for v in weights.values()),
                        "steps": self.state["step"],
                        "world_size": self.world,
                        "prompts_digest": read_json(self.config.data / ShardsManifest.FILE)[
                            "digest"
                        ],
                    },
                )
        dist.barrier()
        return target

    def _full_weights(self) -> dict[str, torch.Tensor]:
        if self.config.zero_stage == 3:
            state = self.engine._zero3_consolidated_16bit_state_dict() or {}
        else:
            state = self.engine.module.state_dict()
        prefix = "decoder."
        return {
            k.removeprefix(prefix): v.detach().float().cpu().contiguous()
            for k, v in state.items()
            if k.startswith(prefix)
        }


def _schedule(share: float, warmup: float, *, decay: bool) -> float:
    """Linear warm-up, then cosine decay to a twentieth, or none."""
    if share < warmup:
        return max(share / warmup, 0.02)
    if not decay:
        return 1.0
    done = (share - warmup) / max(1 - warmup, 1e-9)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _start_distributed() -> torch.device:
    """Join the process group that torchrun describes; a plain process is a group of one."""
    import deepspeed

    for name, value in (
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_RANK", "0"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", "29517"),
    ):
        os.environ.setdefault(name, value)
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # The shared-memory collective needs a C++ compiler at run time; gloo does not.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo", verbose=False)
    if not on_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device
