"""Writes what was trained in Hugging Face layout: safetensors that transformers and vLLM load."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from brewhouse.errors import TrainingError
from brewhouse.files import atomic_dir, read_json, write_json
from brewhouse.model.build import without_memory
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training.config import TrainConfig
from brewhouse.training.decoder import adapt, new_decoder

_PREFIX = "decoder."


def export(
    engine: Any,
    config: TrainConfig,
    tokenizer: PromptTokenizer,
    *,
    steps: int,
    world: int,
    actual: dict[str, float],
) -> Path:
    """Write decoder, tokenizer, questions and configuration to `<out>/model`; all ranks call it.

    Args:
        engine: DeepSpeed engine.
        config: Run.
        tokenizer: Tokenizer.
        steps: Steps taken.
        world: Ranks.
        actual: What the run took.
    """
    target = config.out / "model"
    weights = _full_weights(engine, config)
    if dist.get_rank() == 0:
        with atomic_dir(target) as scratch:
            decoder = _filled(config, tokenizer, weights)
            decoder.save_pretrained(str(scratch))
            tokenizer.save(scratch)
            shutil.copy(config.data / ShardsManifest.FILE, scratch / "prompts.json")
            write_json(
                scratch / "training.json",
                {
                    "config": config.model_dump(mode="json", exclude={"data", "out"}),
                    "parameters": sum(p.numel() for p in decoder.parameters()),
                    "steps": steps,
                    "world_size": world,
                    "actual": actual,
                    "prompts_digest": read_json(config.data / ShardsManifest.FILE)["digest"],
                },
            )
    dist.barrier()
    return target


def _filled(
    config: TrainConfig, tokenizer: PromptTokenizer, weights: dict[str, torch.Tensor]
) -> Any:
    """The decoder around the gathered weights, adapters merged; nothing is held twice."""
    plain = config.model_copy(update={"lora": None})
    decoder: Any = new_decoder(plain, tokenizer, empty=True)
    adapted = None
    if config.lora is not None:
        with without_memory(on=True):
            adapted = adapt(decoder, config.lora, seed=config.seed)
    missing, unexpected = decoder.load_state_dict(weights, strict=False, assign=True)
    if unexpected or missing:
        msg = (
            f"the gathered weights do not fit the decoder: missing {missing[:3]}, unexpected "
            f"{list(unexpected)[:3]}; the checkpoints are whole, so export again after mending"
        )
        raise TrainingError(msg)
    return adapted.merge_and_unload() if adapted is not None else decoder


def _full_weights(engine: Any, config: TrainConfig) -> dict[str, torch.Tensor]:
    """All parameters of the decoder in its precision, on the CPU; complete on rank 0 only."""
    kind = getattr(torch, config.precision)
    if config.zero_stage == 3:
        state = engine._zero3_consolidated_16bit_state_dict() or {}
    else:
        state = engine.module.state_dict()
    if config.expert_parallel > 1:
        state = _gather_experts(engine, state)
    return {
        k.removeprefix(_PREFIX): v.detach().to(kind).cpu().contiguous()
        for k, v in state.items()
        if k.startswith(_PREFIX)
    }


def _gather_experts(engine: Any, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Turn DeepSpeed's layers of local experts into the decoder's own names, all experts each.

    A rank holds its experts as `w1`, `w3` (experts, intermediate, hidden) and `w2` (experts,
    hidden, intermediate); the decoder holds `w1` and `w3` as one, and `w2` as `down_proj`.
    """
    from deepspeed.module_inject.auto_ep_layer import AutoEPMoELayer
    from deepspeed.utils import groups

    found = dict(state)
    for name, layer in engine.module.named_modules():
        if not isinstance(layer, AutoEPMoELayer):
            continue
        group = groups._get_expert_parallel_group(layer.ep_group_name)
        full = {}
        for part in ("w1", "w2", "w3"):
            own = getattr(layer.experts, part).detach().contiguous()
            parts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
            dist.all_gather(parts, own, group=group)
            full[part] = torch.cat(parts)
        for key in [k for k in found if k.startswith(f"{name}.")]:
            del found[key]
        found[f"{name}.gate.weight"] = layer.router.gate.weight
        found[f"{name}.experts.gate_up_proj"] = torch.cat([full["w1"], full["w3"]], dim=1)
        found[f"{name}.experts.down_proj"] = full["w2"]
    return found
