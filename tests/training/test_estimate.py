"""Estimates: published parameter counts, ZeRO's arithmetic, what the plan says of real pools."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from brewhouse.errors import ConfigError
from brewhouse.files import read_json
from brewhouse.model.build import build_decoder
from brewhouse.model.sizes import SIZES
from brewhouse.training.estimate import GIB, Pool, Shape, estimate
from tests.conftest import ROOT


@pytest.mark.parametrize(
    ("model", "total", "active"), [("mixtral-8x7b", 46.7, 12.9), ("mixtral-8x22b", 140.6, 39.1)]
)
def test_parameters_are_those_published(model: str, total: float, active: float) -> None:
    shape = Shape.of(model)
    assert shape.total / 1e9 == pytest.approx(total, abs=0.1)
    assert shape.active / 1e9 == pytest.approx(active, abs=0.1)


def test_parameters_are_those_of_the_built_model() -> None:
    decoder = build_decoder("micro", vocab_size=500, begin=1, pad=0, seed=0)
    assert Shape.of("micro", vocabulary=500).total == sum(p.numel() for p in decoder.parameters())
    assert isinstance(decoder, torch.nn.Module)


def test_zero_divides_what_it_says() -> None:
    shape, pool = Shape.of("mixtral-8x7b"), Pool(nodes=1)
    plain, three = (estimate(shape, pool, tokens=1, zero_stage=z) for z in (0, 3))
    assert plain.optimizer == pytest.approx(12 * shape.total / GIB)
    assert three.optimizer == pytest.approx(12 * shape.total / GIB / 8)
    assert three.weights == pytest.approx(plain.weights / 8)
    spread = estimate(shape, pool, tokens=1, zero_stage=1, expert_parallel=8)
    assert spread.weights < plain.weights / 6
    with pytest.raises(ConfigError, match="expert_parallel: 16 is more than the pool's 8 GPUs"):
        estimate(shape, pool, tokens=1, zero_stage=1, expert_parallel=16)


def test_memory_is_that_measured_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two layers of Mixtral 8x7B on an H200: `benchmarks/results/gpu_engine.json`."""
    results = read_json(ROOT / "benchmarks" / "results" / "gpu_engine.json")
    took = next(r for r in results if r["name"].endswith("ZeRO-1"))
    monkeypatch.setitem(SIZES, "two-layers", SIZES["mixtral-8x7b"] | {"num_hidden_layers": 2})
    shape = Shape.of("two-layers", vocabulary=2048)
    options = {"tokens": 1, "zero_stage": 1, "batch_tokens": 4 * 4048}
    pool = Pool(nodes=1, gpus_per_node=1, gpu_gib=139)
    kept = estimate(shape, pool, activation_checkpointing=False, **options)
    assert kept.per_gpu - kept.overhead == pytest.approx(took["detail"]["peak_gib"], rel=0.02)
    assert kept.host == pytest.approx(took["detail"]["host_gib"], rel=0.02)
    recomputed = estimate(shape, pool, **options)
    # One layer's values and the inputs of both.
    assert recomputed.activations == pytest.approx(kept.activations / 2, rel=0.1)
    loaded = estimate(replace(shape, drawn=False), pool, **options)
    assert kept.host - loaded.host == pytest.approx(2 * shape.total / GIB)


def test_the_plans_of_the_paper_s_models() -> None:
    """Both need the optimizer's state on the CPUs, and then fit; adapters fit without."""
    for model, nodes in (("mixtral-8x7b", 1), ("mixtral-8x22b", 4)):
        shape, pool = replace(Shape.of(model), drawn=False), Pool(nodes=nodes)
        assert not estimate(shape, pool, tokens=10**9).fits
        told = estimate(shape, pool, tokens=10**9, offload="optimizer")
        assert told.fits
        assert 50 < told.gpu_hours < 1000
        assert any("fits" in line for line in told.lines())
        assert estimate(shape, pool, tokens=10**9, trained_share=0.01).fits
    half = estimate(shape, pool, tokens=10**9, mfu=0.4).gpu_hours
    assert half == pytest.approx(estimate(shape, pool, tokens=2 * 10**9, mfu=0.8).gpu_hours)


def test_models_that_cannot_be_estimated_are_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no configuration of a model at"):
        Shape.of(str(tmp_path))
