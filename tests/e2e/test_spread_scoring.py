"""Scoring spread over workers by Ray Data gives what one process gives."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brewhouse.errors import ConfigError, DataError, ModelError, PipelineError
from brewhouse.model.shipped import locate
from brewhouse.platform.ray_data import RayPlan, spread
from brewhouse.prompts.shards import read_trees, sample_trees, write_trees
from brewhouse.stages.scoring import ScoringPlan, score_folder

MODEL = Path(locate("linkedin-tiny"))
FILES = 5


@pytest.fixture(scope="module")
def asked(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards with several files of test trees, the last of them empty."""
    folder = tmp_path_factory.mktemp("asked")
    trees = list(read_trees(shards / "train" / "shard-0000.parquet"))[:200]
    for number in range(FILES):
        part = trees[number :: FILES - 1] if number < FILES - 1 else []
        write_trees(folder / "test" / f"shard-{number:04d}.parquet", part, batch=13)
    shutil.copy(shards / "manifest.json", folder)
    return folder


def test_a_cluster_that_is_not_there_is_named() -> None:
    plan = RayPlan(address="127.0.0.1:1")
    with pytest.raises(PipelineError, match=r"no Ray cluster at '127\.0\.0\.1:1'"):
        list(spread(_Fails, {"error": ""}, [{"number": 0}], plan))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A Ray that is there already; its address."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**28)
    yield "auto"
    ray.shutdown()


@pytest.mark.slow
def test_ray_and_one_process_give_equal_scores(asked: Path) -> None:
    one = score_folder(asked, "test", MODEL, ScoringPlan())
    many = score_folder(asked, "test", MODEL, ScoringPlan(engine="ray", workers=2))
    assert one.leaves.rows_N.tolist() == many.leaves.rows_N.tolist()
    np.testing.assert_array_equal(one.leaves.question_N, many.leaves.question_N)
    np.testing.assert_array_equal(one.leaves.logits_NA, many.leaves.logits_NA)
    np.testing.assert_array_equal(one.leaves.load_LE, many.leaves.load_LE)
    assert one.needed == many.needed == one.leaves.tokens == many.leaves.tokens


@pytest.mark.slow
def test_a_shared_folder_keeps_what_was_scored(
    asked: Path, cluster: str, tmp_path: Path, capsys: Any
) -> None:
    plan = ScoringPlan(engine="ray", address=cluster, workers=1, shared=str(tmp_path))
    first = score_folder(asked, "test", MODEL, plan)
    (home,) = tmp_path.iterdir()
    kept = sorted((home / "scores" / "test").iterdir())
    assert len(kept) == FILES
    kept[1].unlink()
    before = kept[0].stat().st_mtime_ns
    again = score_folder(asked, "test", MODEL, plan)
    assert "4 of 5 files were scored before" in capsys.readouterr().err
    assert kept[0].stat().st_mtime_ns == before
    np.testing.assert_array_equal(first.leaves.logits_NA, again.leaves.logits_NA)


class _Fails:
    def __init__(self, *, error: str) -> None:
        self.error = error

    def __call__(self, job: dict[str, Any]) -> dict[str, Any]:
        if job["number"] == 1:
            if self.error == "ours":
                msg = "job 1: this cannot be scored; try another"
                raise ModelError(msg)
            msg = "a bug"
            raise KeyError(msg)
        return job


@pytest.mark.slow
def test_what_a_worker_raises_arrives_as_it_was(cluster: str) -> None:
    plan = RayPlan(address=cluster, workers=1)
    jobs = [{"number": n} for n in range(3)]
    with pytest.raises(ModelError, match=r"^job 1: this cannot be scored; try another$"):
        list(spread(_Fails, {"error": "ours"}, jobs, plan))
    with pytest.raises(PipelineError, match="a worker of Ray failed: KeyError: 'a bug'"):
        list(spread(_Fails, {"error": "bug"}, jobs, plan))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engin": "ray"}, "scoring: engin: .*fields are address, workers"),
        ({"engine": "spark"}, "scoring: engine: .*'process' or 'ray'.*'spark'"),
        ({"workers": 0}, "scoring: workers: .*greater than or equal to 1 .*got 0"),
    ],
)
def test_mistakes_in_a_plan_are_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        ScoringPlan.of(given)


def test_no_trees_are_an_error(tmp_path: Path, shards: Path) -> None:
    shutil.copy(shards / "manifest.json", tmp_path)
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="are there test trees"):
        score_folder(tmp_path, "test", MODEL, ScoringPlan())


def test_a_sample_of_trees_is_spread_evenly(asked: Path) -> None:
    every = [t for f in sorted((asked / "test").iterdir()) for t in read_trees(f)]
    found = sample_trees(asked / "test", 24)
    assert [t.member for t in found] == [t.member for t in every[:: 200 // 24]][:24]
