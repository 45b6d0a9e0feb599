"""Router health: even load is quiet, collapse is told, in training and in scoring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from brewhouse.model.build import load_decoder
from brewhouse.model.routing import LayerLoad, RouterHealth, expert_counts, load_balance_loss
from brewhouse.prompts.shards import read_trees
from brewhouse.scoring.scorer import Scorer
from tests.training.runs import OPTIONS, configure, finish, train


def test_measures_of_load() -> None:
    even = LayerLoad.of([10, 10, 10, 10])
    assert (even.cv, even.entropy, even.dead) == (0.0, 1.0, ())
    one = LayerLoad.of([40, 0, 0, 0])
    assert one.cv == pytest.approx(3**0.5, abs=1e-3)
    assert (one.entropy, one.dead) == (0.0, (1, 2, 3))
    skewed = LayerLoad.of([70, 10, 10, 10])
    assert skewed.dead == ()
    assert RouterHealth(layers=(even, skewed)).warnings(max_cv=1.0) != []
    assert RouterHealth(layers=(even, skewed)).warnings(max_cv=1.5) == []
    assert RouterHealth(layers=(one,)).metrics()["router_dead"] == 3


def test_the_balancing_loss_of_two_ranks_is_that_of_their_tokens_together() -> None:
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn(n, 4, generator=generator, requires_grad=True) for n in (30, 50)]
    whole = torch.cat([p.detach() for p in parts]).requires_grad_()
    asked = load_balance_loss([whole], experts=4, top_k=2)
    asked.backward()
    counts = [expert_counts([p], top_k=2) for p in parts]

    def reduce(value: torch.Tensor) -> torch.Tensor:
        if value.ndim == 2:
            return counts[0] + counts[1]
        return value + 1.0 if float(value) == 1.0 else torch.tensor(80.0)

    found = [load_balance_loss([p], experts=4, top_k=2, reduce=reduce) for p in parts]
    (sum(found) / 2).backward()
    assert float(sum(found) / 2) == pytest.approx(float(asked), rel=1e-6)
    assert torch.allclose(torch.cat([p.grad for p in parts]), whole.grad, atol=1e-7)


@pytest.mark.slow
def test_a_collapsed_router_is_told_in_training_and_scoring(shards: Path, tmp_path: Path) -> None:
    healthy = train(shards, tmp_path / "healthy")
    scorer = Scorer.load(healthy)
    trees = list(read_trees(shards / "train" / "shard-0000.parquet"))[:50]
    routing = scorer.score(trees).routing
    assert routing is not None
    assert len(routing.layers) == 2

    # Sizes made here choose two of two experts, which cannot collapse: one of two, and always it.
    decoder = load_decoder(healthy)
    decoder.config.num_experts_per_tok = 1
    for layer in decoder.model.layers:
        with torch.no_grad():
            layer.mlp.gate.weight[0] = 0.0
            layer.mlp.gate.weight[1] = 0.0
    collapsed = tmp_path / "collapsed"
    decoder.save_pretrained(str(collapsed))
    for name in ("tokenizer.json", "tokenizer_config.json", "prompts.json", "training.json"):
        (collapsed / name).write_bytes((healthy / name).read_bytes())
    warnings = Scorer.load(collapsed).score(trees).routing.warnings(max_cv=1.0)
    assert len(warnings) == 2
    assert "takes next to no tokens" in warnings[0]

    stage = OPTIONS["stages"][1] | {"tokens": 8000, "lr": 1e-6}
    options = {"model": str(collapsed), "stages": [stage], "report_s": 0, "router_aux": 0.0}
    out = finish(configure(shards, tmp_path / "run", **options), ranks=1)
    log = (out / "train.log").read_text()
    assert "train: warning: router of layer 0: expert 1 takes next to no tokens" in log
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["router_dead_layer0"] == 1
    assert rows[-1]["router_entropy_min"] < 0.1
