"""Training on a GPU in every way that one GPU can: losses are those of the plain way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brewhouse.files import read_json
from tests.training.runs import OPTIONS, configure, finish, losses

SHORT: dict[str, Any] = {
    "model": "tiny",
    "report_s": 0,
    "checkpoint_steps": 1000,
    "stages": [OPTIONS["stages"][1] | {"tokens": 12_000}],
}
WAYS: dict[str, dict[str, Any]] = {
    "zero-1": {"zero_stage": 1},
    "zero-2-offload": {"zero_stage": 2, "offload": "optimizer"},
    "zero-3": {"zero_stage": 3},
    "zero-3-offload": {"zero_stage": 3, "offload": "parameters"},
    "recomputed": {"activation_checkpointing": True},
    "compiled": {"compile": True},
    "lora": {"lora": {"rank": 4}},
    "micro": {"model": "micro"},
}


@pytest.fixture(scope="module")
def plain(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of the plain way, on the same device."""
    folder = tmp_path_factory.mktemp("plain")
    return losses(finish(configure(shards, folder / "run", **SHORT), ranks=1))


@pytest.mark.gpu
@pytest.mark.parametrize("way", WAYS)
def test_every_way_trains_on_a_gpu(
    shards: Path, tmp_path: Path, way: str, request: pytest.FixtureRequest
) -> None:
    out = finish(configure(shards, tmp_path / way, **(SHORT | WAYS[way])), ranks=1)
    found = losses(out)
    assert found[max(found)] < found[1]
    taken = read_json(out / "model" / "training.json")["actual"]
    assert taken["peak_gpu_gib"] > 0
    if way not in ("lora", "micro"):
        plain = request.getfixturevalue("plain")
        assert found.keys() == plain.keys()
        assert max(abs(found[s] - plain[s]) for s in plain) < 1e-3


@pytest.mark.gpu
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_bfloat16_stays_near(
    shards: Path, tmp_path: Path, zero_stage: int, plain: dict[int, float]
) -> None:
    half = {"precision": "bfloat16", "zero_stage": zero_stage}
    found = losses(finish(configure(shards, tmp_path / "half", **(SHORT | half)), ranks=1))
    assert found.keys() == plain.keys()
    last = max(plain)
    assert abs(found[1] - plain[1]) < 0.02
    assert abs(found[last] - plain[last]) < 0.1
