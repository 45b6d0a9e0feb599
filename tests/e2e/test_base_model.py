"""Starting from a model: its tokenizer, its weights, and what it was trained on come along."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brewhouse.errors import LeakError
from brewhouse.files import read_json, sha256_json, write_json
from brewhouse.model.shipped import locate, shipped_models
from brewhouse.prompts.shards import read_folder
from brewhouse.scoring.scorer import Scorer
from brewhouse.stages import features, importing, pretraining, verbalizing

MAX_BYTES = 5_000_000
BASE = "linkedin-tiny"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of the verbalize step on a tiny world."""
    root = tmp_path_factory.mktemp("base")
    importing.run(
        domain="linkedin",
        source="",
        preset="tiny",
        seed=21,
        snapshot_out=root / "snapshot",
        oracle_out=root / "oracle",
    )
    features.run(domain="linkedin", snapshot=root / "snapshot", features_out=root / "features")
    return {
        "domain": "linkedin",
        "snapshot": root / "snapshot",
        "features": root / "features",
        "train_end": "",
        "max_test_sessions": 200,
    }


@pytest.mark.slow
def test_a_shipped_model_brings_its_words_and_its_past(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    manifest = verbalizing.run(**ready, model=BASE, shards_out=tmp_path / "shards")
    known = read_json(Path(locate(BASE)) / "prompts.json")
    assert manifest.base == known["snapshot"]
    assert set(known["surfaces"]) <= set(manifest.surfaces)
    assert manifest.answers == known["answers"]
    found = Scorer.load(Path(locate(BASE))).score(read_folder(tmp_path / "shards" / "test"))
    assert np.isfinite(found.logits_NA).any(1).all()


@pytest.mark.slow
def test_a_base_that_saw_a_held_out_surface_is_a_leak(
    ready: dict[str, Any], tmp_path: Path
) -> None:
    forged = tmp_path / "model"
    shutil.copytree(locate(BASE), forged)
    value = read_json(forged / "prompts.json")
    value.pop("digest")
    value["surfaces"].append("learning")
    write_json(forged / "prompts.json", value | {"digest": "sha256:" + sha256_json(value)})
    with pytest.raises(LeakError, match="'learning' occurs in the training shards"):
        verbalizing.run(**ready, model=str(forged), shards_out=tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_shipped_models_are_small_safe_and_have_a_recipe() -> None:
    assert BASE in shipped_models()
    for name in shipped_models():
        folder = Path(locate(name))
        files = [path for path in folder.iterdir() if path.is_file()]
        assert sum(path.stat().st_size for path in files) <= MAX_BYTES
        assert {p.suffix for p in files} <= {".json", ".md", ".safetensors"}
        recipe = pretraining.load_recipe(name)
        stages = read_json(folder / "training.json")["config"]["stages"]
        assert [s["name"] for s in stages] == [s["name"] for s in recipe.options["stages"]]
        assert [s["tokens"] for s in stages] == [s["tokens"] for s in recipe.options["stages"]]
