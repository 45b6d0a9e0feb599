"""Many ranks: the same losses as one, nothing lost when killed, resumed by another number."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from brewhouse.training.checkpoints import MARK, best, complete_tags, newest
from brewhouse.training.upload import Store
from tests.training.runs import OPTIONS, configure, finish, losses, start, weights

FINETUNE = OPTIONS["stages"][1]
SHORT = {"stages": [FINETUNE | {"tokens": 45_000}], "micro_batches": 2, "report_s": 0}


@pytest.fixture(scope="module")
def one_rank(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all others are held against: one rank, two micro-batches a step."""
    return finish(configure(shards, tmp_path_factory.mktemp("one"), **SHORT), ranks=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"zero_stage": 3},
        {"zero_stage": 2, "offload": "optimizer"},
        {"zero_stage": 3, "offload": "parameters", "activation_checkpointing": True},
        {"zero_stage": 1, "expert_parallel": 2},
    ],
    ids=lambda o: "-".join(str(v) for v in o.values()),
)
def test_two_ranks_reach_the_losses_of_one(
    shards: Path, one_rank: Path, tmp_path: Path, options: dict
) -> None:
    two = finish(configure(shards, tmp_path / "two", **SHORT, **options), ranks=2)
    ours, theirs = losses(two), losses(one_rank)
    assert ours.keys() == theirs.keys()
    assert len(ours) >= 50
    worst = max(abs(ours[step] - theirs[step]) / theirs[step] for step in ours)
    assert worst < 1e-3
    found, asked = weights(two / "model"), weights(one_rank / "model")
    assert found.keys() == asked.keys()
    assert max(float((found[k] - asked[k]).abs().max()) for k in asked) < 2e-2


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"zero_stage": 1}, {"zero_stage": 3}], ids=str)
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_another_number_of_ranks_goes_on(
    shards: Path, one_rank: Path, tmp_path: Path, options: dict, before: int, after: int
) -> None:
    out = tmp_path / "run"
    config = configure(shards, out, **SHORT, **options, checkpoint_steps=20)
    process = start(config, ranks=before)
    wait_for(lambda: len(complete_tags(out / "checkpoints")) > 0)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    tag = newest(out / "checkpoints")[0]
    finish(config, ranks=after)
    read = f"universal-{tag}" if options else tag
    assert f"resumed from {read}" in (out / "train.log").read_text()
    ours, theirs = last_losses(out), losses(one_rank)
    assert ours.keys() == theirs.keys()
    assert max(abs(ours[s] - theirs[s]) / theirs[s] for s in ours) < 1e-3


@pytest.mark.slow
def test_killed_at_random_nothing_is_lost(shards: Path, tmp_path: Path) -> None:
    """SIGTERM and SIGKILL at random moments: losses and weights are the same to the last bit.

    `BREWHOUSE_KILLS` sets how many; the figure in the README is of 20.
    """
    kills = int(os.environ.get("BREWHOUSE_KILLS", "3"))
    stages = [FINETUNE | {"tokens": 25_000 * kills}]
    options = {**SHORT, "stages": stages, "zero_stage": 1, "checkpoint_steps": 3}
    calm = finish(configure(shards, tmp_path / "calm", **options), ranks=2)
    out = tmp_path / "killed"
    config = configure(shards, out, **options)
    draw = random.Random(7)
    for number in range(kills):
        process = start(config, ranks=2)
        lines = steps_told(out)
        wait_for(lambda lines=lines: steps_told(out) > lines, process)
        time.sleep(draw.random() * 0.6)
        assert process.poll() is None, f"the run was over after {number} of {kills} kills"
        term = number % 2 == 0
        before = newest(out / "checkpoints")
        if term:
            os.kill(process.pid, signal.SIGTERM)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(60)
        assert code == (75 if term else -signal.SIGKILL)
        after = newest(out / "checkpoints")
        if before is not None:
            assert after is not None
            assert after[1]["step"] >= before[1]["step"]
        if term and after is not None:
            assert "checkpoint written" in (out / "train.log").read_text()
    finish(config, ranks=2)
    assert losses(out) == losses(calm)
    ours, theirs = weights(out / "model"), weights(calm / "model")
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


@pytest.mark.slow
def test_killed_while_saving_the_one_before_is_used(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = configure(shards, out, **SHORT, zero_stage=1, checkpoint_steps=15)
    process = start(config, ranks=2)
    wait_for(lambda: len(complete_tags(out / "checkpoints")) > 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = complete_tags(out / "checkpoints")
    # As a kill between the shards and the mark leaves it, and one that cut a shard short.
    (out / "checkpoints" / kept[-1] / MARK).unlink()
    shard = next((out / "checkpoints" / kept[-1]).glob("*optim_states.pt"))
    shard.write_bytes(shard.read_bytes()[:100])
    finish(config, ranks=2)
    assert f"resumed from {kept[-2]}" in (out / "train.log").read_text()
    losses(out)


@pytest.mark.slow
def test_checkpoints_come_back_from_a_store(shards: Path, tmp_path: Path, s3: str) -> None:
    """The machine is lost with its disk; what was copied out is fetched and gone on from."""
    out, store = tmp_path / "run", Store(f"{s3}/runs/one")
    options = {**SHORT, "zero_stage": 1, "checkpoint_steps": 20, "upload": store.uri}
    config = configure(shards, out, **options)
    process = start(config, ranks=2)
    wait_for(lambda: store.newest() is not None, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    told = losses(out)
    other = tmp_path / "other"
    finish(configure(shards, other, **options), ranks=2)
    assert "resumed from step-" in (other / "train.log").read_text()
    again = losses(other)
    assert min(again) > 1
    assert all(again[step] == told[step] for step in again if step in told)
    newest_here, newest_there = newest(other / "checkpoints"), store.newest()
    assert newest_here is not None
    assert newest_there == newest_here
    kept = {mark.split("/")[-2] for mark in store.fs.glob(store.path("step-*", MARK))}
    assert kept == {*complete_tags(other / "checkpoints")}
    marks = {tag: json.loads(store.fs.cat_file(store.path(tag, MARK))) for tag in kept}
    ranked = sorted(kept, key=lambda tag: (-marks[tag]["stage"], marks[tag]["loss"], tag))
    assert best(other / "checkpoints") == ranked[0]


def steps_told(out: Path) -> int:
    path = out / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def last_losses(out: Path) -> dict[int, float]:
    """Loss of each step as it was last run: ranks sum in another order than one alone."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss"] for row in rows}


def wait_for(done: object, process: object = None, *, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not done():  # type: ignore[operator]
        if process is not None and process.poll() is not None:  # type: ignore[attr-defined]
            return
        assert time.monotonic() < deadline, "nothing happened in time"
        time.sleep(0.02)
