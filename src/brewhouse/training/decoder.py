"""The decoder that a run trains: built, loaded, adapted, and dealt out over ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from brewhouse.errors import ConfigError, ModelError
from brewhouse.model.build import build_decoder, load_decoder, without_memory
from brewhouse.model.shipped import locate
from brewhouse.model.sizes import SIZES
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training.config import Lora, TrainConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def new_decoder(
    config: TrainConfig, tokenizer: PromptTokenizer, *, empty: bool = False
) -> PreTrainedModel:
    """The decoder that training starts from, with adapters if the configuration asks for them.

    Args:
        config: Run.
        tokenizer: Tokenizer.
        empty: Whether parameters have shapes alone, on the device `meta`; no weights are read.

    Raises:
        ModelError: No such model.
        ConfigError: Adapters are asked for on layers that it does not have.
    """
    if config.model in SIZES:
        decoder = build_decoder(
            config.model,
            vocab_size=len(tokenizer),
            begin=tokenizer.begin,
            pad=tokenizer.pad,
            seed=config.seed,
            empty=empty,
        )
    else:
        decoder = load_decoder(locate(config.model), dtype=config.precision, empty=empty)
    if config.lora is not None:
        with without_memory(on=empty):
            adapt(decoder, config.lora, seed=config.seed)
    return decoder


def partitioned_decoder(
    config: TrainConfig, tokenizer: PromptTokenizer, settings: dict[str, Any]
) -> PreTrainedModel:
    """The same decoder, its parameters already spread over the ranks as ZeRO-3 holds them.

    Only rank 0 reads or draws the weights, into its host's memory, and hands them on a module at a
    time: no device ever holds more than its share and that module, and no other machine needs the
    weights on its disk. All ranks call it.

    Args:
        config: Run.
        tokenizer: Tokenizer.
        settings: DeepSpeed's configuration.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.zero import Init

    decoder = new_decoder(config, tokenizer, empty=True)
    whole: dict[str, torch.Tensor] = {}
    if dist.get_rank() == 0:
        whole = dict(new_decoder(config, tokenizer).named_parameters())
    device = get_accelerator().current_device_name()
    held: dict[int, torch.nn.Parameter] = {}
    for prefix, module in decoder.named_modules():
        for name, shape in list(module.named_parameters(recurse=False)):
            full = f"{prefix}.{name}" if prefix else name
            if id(shape) not in held:
                kind = getattr(torch, config.precision) if shape.is_floating_point() else None
                value = torch.empty(shape.shape, dtype=kind or shape.dtype, device=device)
                if whole:
                    value.copy_(whole.pop(full).detach())
                held[id(shape)] = torch.nn.Parameter(value, requires_grad=shape.requires_grad)
            module._parameters[name] = held[id(shape)]
        if next(module.parameters(recurse=False), None) is not None:
            # Partitions the parameters of this module, for those of its children wait their turn.
            Init(module=_Own(module), config_dict_or_path=settings)
    return decoder


class _Own(torch.nn.Module):
    """The parameters of one module without those of its children."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        for name, parameter in module.named_parameters(recurse=False):
            self.register_parameter(name, parameter)


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
