"""Histories told by workers of Ray are those that one machine tells, file by file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.errors import ConfigError, DataError
from brewhouse.files import read_json
from brewhouse.stages import features, verbalizing
from brewhouse.stages.telling import TellingPlan

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def filled(tiny: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filled") / "features"
    features.run(domain="linkedin", snapshot=tiny.path, features_out=out)
    return out


def _tell(tiny: Snapshot, filled: Path, out: Path, **plan: Any) -> dict[str, Any]:
    verbalizing.run(
        domain="linkedin",
        snapshot=tiny.path,
        features=filled,
        train_end="2024-02-19",
        shards_out=out,
        vocab_size=1024,
        max_test_sessions=300,
        plan=TellingPlan(**plan),
    )
    return dict(read_json(out / "manifest.json"))


def test_ray_tells_what_processes_tell(tiny: Snapshot, filled: Path, tmp_path: Path) -> None:
    """With more shards than the snapshot has, and with a folder that workers share."""
    plan = {"rows_per_shard": 1500}
    here = _tell(tiny, filled, tmp_path / "here", **plan)
    shared = tmp_path / "shared"
    there = _tell(tiny, filled, tmp_path / "there", engine="ray", shared=str(shared), **plan)
    assert there["digest"] == here["digest"]
    names = sorted(p.name for p in (tmp_path / "there" / "train").iterdir())
    assert len(names) > tiny.shards
    assert names == sorted(p.name for p in (tmp_path / "here" / "train").iterdir())
    # Nothing is left where workers met.
    assert list(shared.iterdir()) == []


def test_a_mistake_is_told_and_leaves_nothing(
    tiny: Snapshot, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        msg = "no interactions of allowed members"
        raise DataError(msg)

    monkeypatch.setattr(verbalizing, "pull_log", broken)
    with pytest.raises(DataError, match="no interactions"):
        _tell(tiny, filled, tmp_path / "out", engine="ray", shared=str(tmp_path / "shared"))
    assert not (tmp_path / "out").exists()
    assert list((tmp_path / "shared").iterdir()) == []
    with pytest.raises(ConfigError, match="verbalization.*rows_per_shard"):
        TellingPlan.of({"rows_per_shard": 3})
