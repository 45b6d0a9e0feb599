"""Process group, optimizer and DeepSpeed engine of a training configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from brewhouse.model.ranker import Ranker
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training.config import TrainConfig
from brewhouse.training.decoder import moe_blocks, new_decoder, partitioned_decoder

_BETAS = (0.9, 0.98)


def start_distributed() -> torch.device:
    """Join the process group that torchrun describes; a plain process is a group of one."""
    import deepspeed

    if "RANK" not in os.environ:
        os.environ |= {
            "RANK": "0",
            "WORLD_SIZE": "1",
            "LOCAL_RANK": "0",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
        }
    on_gpu = torch.cuda.is_available()
    if not on_gpu:
        # The shared-memory collective needs a C++ compiler at run time; gloo does not.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    # Longer than one rank may take to fetch, convert or export a large model while others wait.
    deepspeed.init_distributed(
        dist_backend="nccl" if on_gpu else "gloo", verbose=False, timeout=timedelta(hours=6)
    )
    if not on_gpu:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    return device


def leave_distributed() -> None:
    """Leave the process group once all ranks are done."""
    dist.barrier()
    dist.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def build_engine(
    config: TrainConfig,
    tokenizer: PromptTokenizer,
    answers: Sequence[Sequence[int]],
    *,
    accumulate: int,
    universal: bool = False,
) -> Any:
    """Make the ranker and hand it to DeepSpeed; all ranks call it.

    Args:
        config: Run.
        tokenizer: Tokenizer.
        answers: First token of every answer of every question.
        accumulate: Micro-batches a rank takes in a step.
        universal: Whether a universal checkpoint will be loaded.

    Raises:
        ModelError: The decoder's experts cannot be gathered as one.
    """
    import deepspeed

    settings = deepspeed_config(config, accumulate=accumulate, universal=universal)
    if config.zero_stage == 3:
        decoder = partitioned_decoder(config, tokenizer, settings)
    else:
        decoder = new_decoder(config, tokenizer)
    if config.activation_checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
        decoder.enable_input_require_grads()
    ranker = Ranker(decoder, answers)
    if config.zero_stage == 3:
        move_buffers(ranker, deepspeed.accelerator.get_accelerator().current_device_name())
        blocks = moe_blocks(decoder)
        if blocks:
            deepspeed.utils.set_z3_leaf_modules(ranker, blocks)
    engine, *_ = deepspeed.initialize(
        model=ranker,
        optimizer=lambda _: _optimizer(config, ranker),
        config=settings,
        dist_init_required=False,
    )
    if config.zero_stage == 3:
        deepspeed.zero.register_external_parameter(ranker, decoder.lm_head.weight)
    if config.expert_parallel > 1:
        _watch_routers(ranker)
    if config.compile:
        for layer in decoder.model.layers:
            layer.compile(dynamic=True)
    return engine


def move_buffers(module: torch.nn.Module, device: str) -> None:
    """Put what is no parameter where the parameters will be gathered; DeepSpeed leaves it alone."""
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            part._buffers[name] = buffer.to(device)


def _optimizer(config: TrainConfig, ranker: Ranker) -> torch.optim.Optimizer:
    """AdamW without decay of vectors; called once DeepSpeed has put its own layers in place."""
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    trained = [p for p in ranker.parameters() if p.requires_grad]
    matrices = [p for p in trained if len(_shape(p)) >= 2]
    vectors = [p for p in trained if len(_shape(p)) < 2]
    groups = [
        {"name": "matrices", "params": matrices, "weight_decay": config.weight_decay},
        {"name": "vectors", "params": vectors, "weight_decay": 0.0},
    ]
    if config.expert_parallel > 1:
        groups = split_params_into_different_moe_groups_for_optimizer(groups)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.stages[0].lr,
        betas=_BETAS,
        fused=torch.cuda.is_available() or config.offload != "none" or None,
    )


def _shape(parameter: torch.nn.Parameter) -> torch.Size:
    """Its shape as a whole: in parts, as ZeRO-3 holds it, a parameter is flat or empty."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def _watch_routers(ranker: Ranker) -> None:
    """Hand the ranker the logits of DeepSpeed's own routers, which transformers does not see."""
    from deepspeed.moe.ep_router import TokenChoiceTopKRouter

    for module in ranker.modules():
        if isinstance(module, TokenChoiceTopKRouter):
            module.gate.register_forward_hook(lambda _m, _i, logits: ranker.routed.append(logits))


def deepspeed_config(config: TrainConfig, *, accumulate: int, universal: bool) -> dict[str, Any]:
    """DeepSpeed's own configuration, complete: no file is read."""
    zero: dict[str, Any] = {
        "stage": config.zero_stage,
        "stage3_gather_16bit_weights_on_model_save": config.zero_stage == 3,
    }
    on_cpu = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload != "none":
        zero["offload_optimizer"] = on_cpu
    if config.offload == "parameters":
        zero["offload_param"] = on_cpu
    found: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": config.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": config.precision == "bfloat16"},
        "checkpoint": {"load_universal": universal},
        "steps_per_print": 1_000_000_000,
        "wall_clock_breakdown": False,
    }
    if config.expert_parallel > 1:
        found["expert_parallel"] = {
            "enabled": True,
            "autoep_size": config.expert_parallel,
            "preset_model": "mixtral",
            "moe_layer_pattern": r"decoder\.model\.layers\.\d+\.mlp",
        }
    return found


def sum_over_ranks(value: torch.Tensor) -> torch.Tensor:
    """Sum of a tensor over all ranks, as a new tensor; itself where there is one rank."""
    if dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total, op=dist.ReduceOp.SUM)
    return total
