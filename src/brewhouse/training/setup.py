"""Process group, decoder, optimizer and DeepSpeed engine of a training configuration."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from brewhouse.errors import ConfigError, ModelError
from brewhouse.model.build import build_decoder, load_decoder
from brewhouse.model.ranker import Ranker
from brewhouse.model.shipped import locate
from brewhouse.model.sizes import SIZES
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training.config import Lora, TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


def new_decoder(config: TrainConfig, tokenizer: PromptTokenizer) -> PreTrainedModel:
    """The decoder that training starts from, with adapters if the configuration asks for them."""
    if config.model in SIZES:
        decoder = build_decoder(
            config.model,
            vocab_size=len(tokenizer),
            begin=tokenizer.begin,
            pad=tokenizer.pad,
            seed=config.seed,
        )
    else:
        decoder = load_decoder(locate(config.model))
    if config.lora is not None:
        adapt(decoder, config.lora, seed=config.seed)
    return decoder


def adapt(decoder: PreTrainedModel, lora: Lora, *, seed: int) -> Any:
    """Put adapters into a decoder, in place, and freeze the rest; returns peft's wrapper.

    Raises:
        ConfigError: No layer has one of the names.
    """
    from peft import LoraConfig, get_peft_model

    experts = ["experts.gate_up_proj", "experts.down_proj"] if lora.experts else None
    options = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=list(lora.targets),
        target_parameters=experts,
        task_type="CAUSAL_LM",
    )
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return get_peft_model(decoder, options)
    except ValueError as error:
        names = sorted(
            {n.rsplit(".", 1)[-1] for n, m in decoder.named_modules() if type(m) is torch.nn.Linear}
        )
        msg = f"lora.targets: {lora.targets}: {error}; linear layers here: {', '.join(names)}"
        raise ConfigError(msg) from error


def moe_blocks(decoder: torch.nn.Module) -> list[type[torch.nn.Module]]:
    """Classes of the mixture-of-experts blocks: modules with `experts` and a router beside them.

    ZeRO-3 must gather such a block as a whole. Ranks route to different experts, and one that
    gathered only the experts its own tokens need would wait forever for the others.

    Raises:
        ModelError: The configuration speaks of experts, and no block looks like one.
    """
    found = {
        type(module)
        for module in decoder.modules()
        if hasattr(module, "experts") and (hasattr(module, "gate") or hasattr(module, "router"))
    }
    settings = getattr(decoder, "config", None)
    experts = getattr(settings, "num_local_experts", None) or getattr(settings, "num_experts", 0)
    if experts and experts > 1 and not found:
        classes = sorted({type(m).__name__ for m in decoder.modules() if list(m.children())})
        msg = (
            f"the model has {experts} experts a layer, but none of its modules holds `experts` "
            f"beside a `gate` or `router`, so ZeRO-3 cannot gather them as one; classes found: "
            f"{', '.join(classes)}; train it with zero_stage 1 or 2"
        )
        raise ModelError(msg)
    return sorted(found, key=lambda kind: kind.__name__)


def build_engine(
    config: TrainConfig,
    decoder: PreTrainedModel,
    answers: Sequence[Sequence[int]],
    *,
    accumulate: int,
    universal: bool = False,
) -> Any:
    """Hand the ranker to DeepSpeed.

    Args:
        config: Run.
        decoder: Decoder, adapters included.
        answers: First token of every answer of every question.
        accumulate: Micro-batches a rank takes in a step.
        universal: Whether a universal checkpoint will be loaded.

    Raises:
        ModelError: The decoder's experts cannot be gathered as one.
    """
    import deepspeed

    if config.activation_checkpointing:
        decoder.gradient_checkpointing_enable({"use_reentrant": False})
        decoder.enable_input_require_grads()
    ranker = Ranker(decoder, answers)
    if config.zero_stage == 3:
        blocks = moe_blocks(decoder)
        if blocks:
            deepspeed.utils.set_z3_leaf_modules(ranker, blocks)
    engine, *_ = deepspeed.initialize(
        model=ranker,
        optimizer=lambda _: _optimizer(config, ranker),
        config=deepspeed_config(config, accumulate=accumulate, universal=universal),
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


def _optimizer(config: TrainConfig, ranker: Ranker) -> torch.optim.Optimizer:
    """AdamW without decay of vectors; called once DeepSpeed has put its own layers in place."""
    from deepspeed.moe.utils import split_params_into_different_moe_groups_for_optimizer

    trained = [p for p in ranker.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2]
    vectors = [p for p in trained if p.ndim < 2]
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
