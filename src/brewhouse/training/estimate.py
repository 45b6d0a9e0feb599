"""What a training run will need, before it is paid for: memory, GPU-hours, whether it fits.

Memory follows ZeRO (arXiv:1910.02054, section 3): parameters, gradients and the optimizer's state
are divided by the ranks that share them. Work follows the usual 6 operations a parameter and token
(arXiv:2001.08361, section 2.1), of the parameters that a token passes through. Both are estimates;
what was measured is recorded beside them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from brewhouse.errors import ConfigError
from brewhouse.model.sizes import SIZES, mixtral_config

GIB = 2**30
_OVERHEAD_GIB = 4.0
"""CUDA context, NCCL buffers and fragmentation."""
_PROCESS_GIB = 2.5
"""A rank's process beside its model: Python, PyTorch and CUDA's host side; set from one run."""
_STATE_BYTES = 12
"""AdamW in float32: master weights and two moments."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Parameters of a mixture-of-experts decoder.

    Attributes:
        total: All of them.
        active: Those that one token passes through.
        experts: Those in experts.
        largest_block: Those of one layer's experts, which ZeRO-3 gathers at once.
        layers, width: Decoder layers, and values of a token between them.
        routed: Hidden values of all experts that one token passes through in a layer.
        chosen: Experts that one token passes through in a layer.
        drawn: Whether weights are drawn anew, in float32, and not read in the run's precision.
    """

    total: int
    active: int
    experts: int
    largest_block: int
    layers: int
    width: int
    routed: int
    chosen: int
    drawn: bool = False

    @classmethod
    def of(cls, model: str, *, vocabulary: int = 32_000) -> Shape:
        """Of a named size, or of a model folder or hub id already on disk.

        Raises:
            ConfigError: Its configuration cannot be read, or it has no experts.
        """
        if model in SIZES:
            config: Any = mixtral_config(model, vocab_size=vocabulary, begin=1, pad=0)
        else:
            from transformers import AutoConfig

            try:
                config = AutoConfig.from_pretrained(model, trust_remote_code=False)
            except (OSError, ValueError) as error:
                msg = f"no configuration of a model at {model}: {error}"
                raise ConfigError(msg) from error
        if not getattr(config, "num_local_experts", 0):
            msg = f"{model} has no experts (num_local_experts); estimates are for Mixtral models"
            raise ConfigError(msg)
        width, layers = config.hidden_size, config.num_hidden_layers
        head = getattr(config, "head_dim", None) or width // config.num_attention_heads
        heads, shared = config.num_attention_heads, config.num_key_value_heads
        attention = width * head * (2 * heads + 2 * shared)
        expert = 3 * width * config.intermediate_size
        router = width * config.num_local_experts
        norms = 2 * width
        block = expert * config.num_local_experts
        rest = layers * (attention + router + norms) + 2 * config.vocab_size * width + width
        return cls(
            total=rest + layers * block,
            active=rest + layers * expert * config.num_experts_per_tok,
            experts=layers * block,
            largest_block=block,
            layers=layers,
            width=width,
            routed=config.intermediate_size * config.num_experts_per_tok,
            chosen=config.num_experts_per_tok,
            drawn=model in SIZES,
        )

    def activations(self, precision_bytes: int, *, recomputed: bool) -> float:
        """Bytes a token that the backward pass needs: of all layers, or of one and all inputs.

        Counted off a layer: ten values of the width around attention and its norms; the inputs,
        outputs and weighted outputs of the chosen experts; and of their hidden values the two
        projections, the gate's activation and the product.
        """
        layer = (10 + 3 * self.chosen) * self.width + 4 * self.routed
        kept = self.layers * (self.width if recomputed else layer)
        return float(precision_bytes * (kept + (layer if recomputed else 0)))


@dataclass(frozen=True, kw_only=True)
class Pool:
    """GPUs of one kind.

    Attributes:
        nodes, gpus_per_node: How many.
        gpu_gib: Memory of one.
        host_gib: Memory of a node's CPUs.
        tflops: Dense bfloat16 operations a second of one at its best, in 1e12.
    """

    nodes: int
    gpus_per_node: int = 8
    gpu_gib: float = 80.0
    host_gib: float = 1024.0
    tflops: float = 989.0

    @property
    def gpus(self) -> int:
        """All of them."""
        return self.nodes * self.gpus_per_node


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a run needs of each GPU and node, in GiB, and how long it takes."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    activations: float
    overhead: float
    per_gpu: float
    host: float
    gpu_gib: float
    fits: bool
    gpu_hours: float
    hours: float
    assumptions: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people."""
        parts = ("weights", "gradients", "optimizer", "gathered", "activations", "overhead")
        told = ", ".join(f"{name} {getattr(self, name):.1f}" for name in parts)
        verdict = "fits" if self.fits else "DOES NOT FIT"
        return [
            f"memory a GPU: {self.per_gpu:.1f} of {self.gpu_gib:g} GiB, {verdict} ({told})",
            f"memory a node's CPUs: {self.host:.0f} GiB",
            f"{self.gpu_hours:,.0f} GPU-hours, {self.hours:,.1f} hours on the pool",
            *(f"assumed: {a}" for a in self.assumptions),
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def estimate(
    shape: Shape,
    pool: Pool,
    *,
    tokens: int,
    zero_stage: Literal[0, 1, 2, 3] = 3,
    offload: Literal["none", "optimizer", "parameters"] = "none",
    expert_parallel: int = 1,
    batch_tokens: int = 8192,
    activation_checkpointing: bool = True,
    precision: Literal["float32", "bfloat16"] = "bfloat16",
    trained_share: float = 1.0,
    mfu: float | None = None,
) -> Estimate:
    """Estimate a run.

    Args:
        shape: Model.
        pool: GPUs.
        tokens: Tokens to train on, over all ranks.
        zero_stage: ZeRO stage.
        offload: What is kept in CPU memory.
        expert_parallel: Ranks that share a layer's experts.
        batch_tokens: Tokens of a micro-batch.
        activation_checkpointing: Whether layers are recomputed.
        precision: Of weights and activations.
        trained_share: Share of parameters with gradients and optimizer state (adapters: little).
        mfu: Part of the GPUs' best that training reaches; 0.3, or 0.2 with offload, if None.

    Raises:
        ConfigError: More ranks share the experts than there are.
    """
    if expert_parallel > pool.gpus:
        msg = f"expert_parallel: {expert_parallel} is more than the pool's {pool.gpus} GPUs"
        raise ConfigError(msg)
    size = 2 if precision == "bfloat16" else 4
    dense = shape.total - shape.experts
    held = dense + shape.experts / expert_parallel
    ranks = pool.gpus
    # Replicas of an expert share its state among themselves only.
    shared = dense / ranks + shape.experts / expert_parallel / max(1, ranks // expert_parallel)
    weights = size * (held / ranks if zero_stage == 3 else held)
    gradients = 4 * trained_share * (held if zero_stage < 2 else shared)
    state = _STATE_BYTES * trained_share * (held if zero_stage == 0 else shared)
    gathered = 2 * size * shape.largest_block if zero_stage == 3 else 0.0
    activations = batch_tokens * shape.activations(size, recomputed=activation_checkpointing)
    host = 0.0
    if offload != "none":
        # ZeRO keeps the gradients beside the state that they update.
        host += (state + gradients) * pool.gpus_per_node
        state = 0.0
        if zero_stage >= 2:
            gradients = 0.0
    if offload == "parameters":
        host += weights * pool.gpus_per_node
        weights = 0.0
    # The first rank reads and exports the model whole; without ZeRO-3 every rank reads it whole.
    whole = (4 if shape.drawn else size) * shape.total
    host = host + whole if zero_stage == 3 else max(host + whole, whole * pool.gpus_per_node)
    host += _PROCESS_GIB * GIB * pool.gpus_per_node
    found = {
        "weights": weights / GIB,
        "gradients": gradients / GIB,
        "optimizer": state / GIB,
        "gathered": gathered / GIB,
        "activations": activations / GIB,
        "overhead": _OVERHEAD_GIB,
    }
    per_gpu = sum(found.values())
    reach = mfu if mfu is not None else (0.3 if offload == "none" else 0.2)
    passes = 8 if activation_checkpointing else 6
    seconds = passes * shape.active * tokens / (pool.tflops * 1e12 * reach)
    return Estimate(
        **found,
        per_gpu=per_gpu,
        host=host / GIB,
        gpu_gib=pool.gpu_gib,
        fits=per_gpu <= 0.95 * pool.gpu_gib and host / GIB <= 0.9 * pool.host_gib,
        gpu_hours=seconds / 3600,
        hours=seconds / 3600 / ranks,
        assumptions=(
            f"{shape.total / 1e9:.1f}B parameters, {shape.active / 1e9:.1f}B active a token",
            f"{passes} operations a parameter and token"
            + (" (6, and 2 to recompute)" if passes == 8 else ""),
            f"{pool.tflops:g} TFLOP/s a GPU at best, {reach:.0%} of it reached"
            + ("" if mfu is not None else " (a guess: measure and give --mfu)"),
            f"gradients in float32, AdamW with {_STATE_BYTES} bytes of state a parameter",
            f"micro-batches of {batch_tokens:,} tokens, activations "
            + ("recomputed" if activation_checkpointing else "kept"),
            f"{_PROCESS_GIB:g} GiB of the host for a rank's process; weights "
            + ("drawn anew in float32" if shape.drawn else f"read in {precision}")
            + " by the first rank",
            f"{_OVERHEAD_GIB:g} GiB for CUDA, NCCL and fragmentation; 5 % of a GPU left free",
        ),
    )
