"""Builds a decoder from scratch or loads one; safetensors only, no remote code."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse.errors import ModelError
from brewhouse.model.sizes import mixtral_config

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def experts_kernel() -> str:
    """Name of transformers' way to run experts on this machine.

    Where there is a GPU of compute capability 8 it is one product over all experts. Which way is
    faster on CPUs depends on the number of threads; the loop over experts is used there.
    """
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return "grouped_mm" if on_gpu else "eager"


def without_memory(*, on: bool) -> AbstractContextManager[Any]:
    """A context in which modules are made with shapes alone, on the device `meta`."""
    from accelerate import init_empty_weights

    # Buffers are small and computed, not loaded.
    return init_empty_weights(include_buffers=False) if on else nullcontext()


def build_decoder(
    size: str, *, vocab_size: int, begin: int, pad: int, seed: int, empty: bool = False
) -> PreTrainedModel:
    """Create a Mixtral of a named size with fresh weights, float32, the same for the same seed.

    `empty` leaves the weights out.
    """
    import torch
    from transformers import MixtralForCausalLM

    config = mixtral_config(size, vocab_size=vocab_size, begin=begin, pad=pad)
    with torch.random.fork_rng(devices=[]), without_memory(on=empty):
        torch.manual_seed(seed)
        return MixtralForCausalLM._from_config(
            config,
            attn_implementation="sdpa",
            dtype=torch.float32,
            experts_implementation=experts_kernel(),
        )


def load_decoder(
    path: Path | str, *, dtype: str = "float32", empty: bool = False
) -> PreTrainedModel:
    """Load a decoder from a local folder or hub id.

    Args:
        path: Folder or hub id.
        dtype: Kind of its weights in memory.
        empty: Whether to read its configuration alone; its weights need not be there.

    Raises:
        ModelError: No model there, or one that is not stored as safetensors.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    options: dict[str, Any] = {"attn_implementation": "sdpa", "dtype": getattr(torch, dtype)}
    if experts_kernel() == "eager":  # Else transformers' own choice, by the kind of model.
        options["experts_implementation"] = "eager"
    kind = AutoModelForCausalLM
    try:
        if empty:
            config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
            with without_memory(on=True):
                return kind.from_config(config, trust_remote_code=False, **options)
        model: Any = kind.from_pretrained(
            str(path), trust_remote_code=False, use_safetensors=True, **options
        )
    except (OSError, ValueError) as error:
        msg = f"no model at {path}: {error}; give a folder with config.json and *.safetensors"
        raise ModelError(msg) from error
    return model


def export_half(model: Path, target: Path) -> None:
    """Copy an exported model with its weights in bfloat16.

    Args:
        model: Folder written by training.
        target: Folder to fill; what is not weights is copied as it is.
    """
    import shutil

    import torch

    for path in sorted(model.iterdir()):
        if path.suffix != ".safetensors" and path.name not in ("config.json", "metrics.jsonl"):
            shutil.copy(path, target)
    load_decoder(model).to(torch.bfloat16).save_pretrained(str(target))
