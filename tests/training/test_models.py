"""Models from elsewhere, adapters and precision: they load, train a step, export and load again."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import torch
from torch import nn

from brewhouse.errors import ConfigError, ModelError
from brewhouse.model.build import build_decoder, load_decoder
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.training.config import Lora, parse_train_config
from brewhouse.training.decoder import adapt, moe_blocks
from tests.training.runs import OPTIONS, configure, finish, losses, start_alone, weights

STEPS = {"stages": [OPTIONS["stages"][1] | {"tokens": 2500, "lr": 1e-3}], "micro_batches": 2}


@pytest.fixture(scope="module")
def elsewhere(tokenizer: PromptTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mixtral written by transformers alone, in bfloat16 and in several files."""
    from transformers import MixtralConfig, MixtralForCausalLM

    torch.manual_seed(5)
    config = MixtralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    folder = tmp_path_factory.mktemp("elsewhere")
    model = MixtralForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(str(folder), max_shard_size="60KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder), trust_remote_code=False, dtype=torch.float32
    )
    with torch.inference_mode():
        return model(torch.arange(3, 40)[None]).logits


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"zero_stage": 3, "precision": "bfloat16"},
        {"zero_stage": 1, "expert_parallel": 2},
        {"zero_stage": 3, "lora": {"rank": 4, "experts": True}},
    ],
    ids=["zero3-bf16", "expert-parallel", "lora"],
)
def test_a_checkpoint_from_elsewhere_trains_and_goes_back(
    elsewhere: Path, shards: Path, tmp_path: Path, options: dict
) -> None:
    config = configure(shards, tmp_path / "run", model=str(elsewhere), **STEPS, **options)
    out = finish(config, ranks=2)
    exported = logits(out / "model")
    assert not torch.equal(exported, logits(elsewhere))
    # Ours and transformers' own reading of the folder are the same model.
    decoder = load_decoder(out / "model")
    with torch.inference_mode():
        ours = decoder(torch.arange(3, 40)[None]).logits
    assert torch.allclose(ours, exported, atol=1e-5)
    # Written again, it is the same to the last bit.
    decoder.save_pretrained(str(tmp_path / "again"))
    assert torch.equal(logits(tmp_path / "again"), exported)
    names = set(weights(out / "model"))
    assert not {n for n in names if "lora" in n or "base_layer" in n}


@pytest.mark.slow
def test_only_the_first_rank_reads_the_weights(
    elsewhere: Path, shards: Path, tmp_path: Path
) -> None:
    options = {**STEPS, "zero_stage": 3, "model": "base"}
    config = configure(shards, tmp_path / "run", **options)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank, kept in enumerate(["*", "config.json"]):
        cwd = tmp_path / str(rank)
        (cwd / "base").mkdir(parents=True)
        for path in elsewhere.glob(kept):
            shutil.copy(path, cwd / "base")
        ranks.append(start_alone(config, rank=rank, ranks=2, port=port, cwd=cwd))
    assert [rank.wait(200) for rank in ranks] == [0, 0], (tmp_path / "1/train.log").read_text()
    config = configure(shards, tmp_path / "whole", **options | {"model": str(elsewhere)})
    whole = weights(finish(config, ranks=2) / "model")
    assert all(torch.equal(w, whole[n]) for n, w in weights(tmp_path / "run/model").items())


@pytest.mark.slow
def test_compiled_layers_reach_the_losses_of_plain_ones(shards: Path, tmp_path: Path) -> None:
    options = {**STEPS, "report_s": 0}
    plain = losses(finish(configure(shards, tmp_path / "plain", **options), ranks=1))
    options["compile"] = True
    compiled = losses(finish(configure(shards, tmp_path / "compiled", **options), ranks=1))
    assert plain
    assert compiled == pytest.approx(plain, rel=1e-5)


@pytest.mark.slow
def test_adapters_change_the_projections_alone_and_resume(
    elsewhere: Path, shards: Path, tmp_path: Path
) -> None:
    options = {**STEPS, "lora": {"rank": 4}, "zero_stage": 1, "checkpoint_steps": 1}
    out = finish(configure(shards, tmp_path / "run", model=str(elsewhere), **options), ranks=1)
    before, after = load_decoder(elsewhere).state_dict(), load_decoder(out / "model").state_dict()
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed
    assert all(n.split(".")[-2] in ("q_proj", "k_proj", "v_proj", "o_proj") for n in changed)
    saved = sum(p.stat().st_size for p in (out / "checkpoints").rglob("*.pt"))
    whole = sum(p.stat().st_size for p in elsewhere.glob("*.safetensors"))
    assert saved / 2 < whole
    (out / "model" / "config.json").unlink()
    again = finish(configure(shards, tmp_path / "run", model=str(elsewhere), **options), ranks=1)
    assert "resumed from" in (again / "train.log").read_text()
    resumed = load_decoder(again / "model").state_dict()
    assert all(torch.equal(resumed[n], after[n]) for n in after)


def test_an_unknown_block_of_experts_is_told() -> None:
    class Strange(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList([nn.Linear(2, 2)])

    decoder = build_decoder("micro", vocab_size=400, begin=1, pad=0, seed=0)
    assert [kind.__name__ for kind in moe_blocks(decoder)] == ["MixtralSparseMoeBlock"]
    for layer in decoder.model.layers:
        layer.mlp = Strange()
    with pytest.raises(ModelError, match="2 experts a layer, but none .* found: .*Strange"):
        moe_blocks(decoder)


def test_adapters_for_layers_that_are_not_there_are_told() -> None:
    decoder = build_decoder("micro", vocab_size=400, begin=1, pad=0, seed=0)
    with pytest.raises(
        ConfigError, match=r"lora.targets: \['query'\].*linear layers here: .*q_proj"
    ):
        adapt(decoder, Lora(targets=["query"]), seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "optimizer"}, "test: offload: 'optimizer' needs zero_stage 1, 2 or 3"),
        ({"offload": "parameters", "zero_stage": 2}, "'parameters' needs zero_stage 3"),
        ({"expert_parallel": 2, "zero_stage": 3}, "expert_parallel: 2 goes with zero_stage 1"),
        ({"expert_parallel": 2, "zero_stage": 1, "lora": {}}, "does not go with lora"),
    ],
)
def test_modes_that_do_not_go_together_are_told(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_train_config(OPTIONS | {"data": "d", "out": "o"} | options, where="test")
