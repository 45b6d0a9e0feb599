"""Named model sizes, all of the Mixtral architecture (decoder-only, sparse mixture of experts)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from brewhouse.errors import ModelError

if TYPE_CHECKING:
    from transformers import MixtralConfig

# From scratch: rope_theta 1e4 and an initialisation near 1/sqrt(width), for at width 64 the
# library's default of 0.02 does not learn within a thousand steps.
SIZES: dict[str, dict[str, Any]] = {
    "micro": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 2,
        "initializer_range": 0.16,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_local_experts": 4,
        "initializer_range": 0.12,
    },
    # As wide as `tiny`, with heads twice as wide that turn slowly. To find a word again 500 tokens
    # back a head needs dimensions that the rotation has hardly turned by then: four of sixteen at
    # base 1e4, twenty of thirty-two here.
    "mini": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "num_local_experts": 4,
        "rope_theta": 1e8,
        "initializer_range": 0.12,
    },
    "small": {
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "num_local_experts": 8,
        "initializer_range": 0.07,
    },
    "mixtral-8x7b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rope_theta": 1e6,
        "initializer_range": 0.02,
    },
    "mixtral-8x22b": {
        "hidden_size": 6144,
        "intermediate_size": 16384,
        "num_hidden_layers": 56,
        "num_attention_heads": 48,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "rope_theta": 1e6,
        "initializer_range": 0.02,
    },
}
# Dense models with as many parameters active a token as their namesakes: what experts bring.
for _name in ("micro", "tiny", "small"):
    _width = 2 * SIZES[_name]["intermediate_size"]
    SIZES[f"{_name}-dense"] = SIZES[_name] | {"intermediate_size": _width, "num_local_experts": 1}
FROM_SCRATCH = tuple(name for name in SIZES if not name.startswith("mixtral"))


def mixtral_config(
    size: str, *, vocab_size: int, begin: int, pad: int, max_positions: int = 4096
) -> MixtralConfig:
    """Configuration of a named size.

    Raises:
        ModelError: Unknown size.
    """
    from transformers import MixtralConfig

    if size not in SIZES:
        msg = f"unknown model size '{size}'; choose one of {', '.join(SIZES)} or give a path"
        raise ModelError(msg)
    spec = dict(SIZES[size])
    theta = spec.pop("rope_theta", 1e4)
    return MixtralConfig(
        vocab_size=vocab_size,
        num_experts_per_tok=min(2, spec["num_local_experts"]),
        max_position_embeddings=max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": theta},
        router_aux_loss_coef=0.01,
        bos_token_id=begin,
        eos_token_id=None,
        pad_token_id=pad,
        tie_word_embeddings=False,
        **spec,
    )
