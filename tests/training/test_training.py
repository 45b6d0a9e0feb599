"""Training: ranks agree, a stopped run resumes exactly, the export reloads to the same scores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from brewhouse.errors import ConfigError, TrainingError
from brewhouse.files import read_json, write_json
from brewhouse.prompts.shards import read_trees, write_trees
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.scoring.scorer import Scorer
from brewhouse.stages import training
from brewhouse.training.checkpoints import MARK, mark_complete, newest
from brewhouse.training.config import parse_train_config
from brewhouse.training.engine import Trainer
from brewhouse.training.stream import TreeStream, shares
from tests.training.runs import OPTIONS, train, weights


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory) -> Path:
    return train(shards, tmp_path_factory.mktemp("one"))


def test_it_learns_and_the_export_scores(trained: Path, shards: Path) -> None:
    scorer = Scorer.load(trained)
    trees = list(read_trees(shards / "train" / "shard-0000.parquet"))[:100]
    scores = scorer.score(trees)
    labels = np.concatenate([t.label_N for t in trees])
    assert (scores.logits_NA[:, :2].argmax(1) == labels).mean() > 0.95
    names = {p.name for p in trained.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "prompts.json"} <= names
    assert not {n for n in names if n.endswith((".bin", ".pt", ".pkl"))}


def test_transformers_loads_the_export_as_it_is(trained: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(trained, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(trained, trust_remote_code=False)
    ids = tokenizer("kafka remote", return_tensors="pt").input_ids
    assert model(ids).logits.shape[-1] == len(tokenizer)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_zero_stages_agree_with_plain_data_parallel(
    shards: Path, tmp_path: Path, zero_stage: int
) -> None:
    short = {"stages": [OPTIONS["stages"][1] | {"tokens": 12000}]}
    plain = weights(train(shards, tmp_path / "plain", processes=2, **short))
    sharded = weights(train(shards, tmp_path / "zero", processes=2, zero_stage=zero_stage, **short))
    assert plain.keys() == sharded.keys()
    assert max(float((plain[k] - sharded[k]).abs().max()) for k in plain) < 1e-3


@pytest.mark.slow
def test_a_stopped_run_resumes_to_the_same_weights(
    shards: Path, trained: Path, tmp_path: Path
) -> None:
    out = tmp_path / "work"
    config = parse_train_config(OPTIONS | {"data": str(shards), "out": str(out)}, where="test")
    out.mkdir()
    write_json(out / "train.json", config.model_dump(mode="json"))
    command = [sys.executable, "-m", "brewhouse.training", "--config", str(out / "train.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while newest(out / "checkpoints") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    tag, state = newest(out / "checkpoints")
    assert state["step"] > 0
    # An earlier release's checkpoints lack what primers note now.
    mark = out / "checkpoints" / tag / MARK
    write_json(mark, {k: v for k, v in read_json(mark).items() if k != "levels"})
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"resumed from {tag}" in done.stdout
    ours, theirs = weights(out / "model"), weights(trained)
    assert all(torch.equal(ours[k], theirs[k]) for k in theirs)


def test_steps_are_the_same_for_any_number_of_ranks(shards: Path) -> None:
    def rows(*, rank: int = 0, world: int = 1, skip: int = 0) -> list[list[str]]:
        stream = TreeStream(shards / "train", batch_tokens=512, seed=1)
        steps = shares(stream, size=4, rank=rank, world=world, skip=skip)
        return [
            [",".join(t.row_N[0] for t in batch) for batch in batches]
            for batches, _ in (next(steps) for _ in range(8))
        ]

    whole = rows()
    assert rows(skip=3)[:5] == whole[3:]
    assert rows() == whole
    for world in (2, 4):
        parts = [rows(rank=r, world=world) for r in range(world)]
        assert all(len(step) == 4 // world for part in parts for step in part)
        dealt = [sum((part[step] for part in parts), []) for step in range(8)]
        assert [sorted(step) for step in dealt] == [sorted(step) for step in whole]
    stream = TreeStream(shards / "train", batch_tokens=512, seed=1)
    with pytest.raises(TrainingError, match="4 micro-batches a step cannot .* to 3 ranks"):
        next(shares(stream, size=4, rank=0, world=3))


def test_an_epoch_shows_every_tree_once(shards: Path) -> None:
    stream = TreeStream(shards / "train", batch_tokens=512, seed=1)()
    seen: list[str] = []
    while len(seen) < 600:
        batch = next(stream)
        assert len(batch) * max(len(t) for t in batch) <= 512
        seen += [t.member for t in batch]
    assert sorted(seen) == sorted({f"m{i}" for i in range(600)})


def test_history_dropout_asks_where_the_first_question_hangs(shards: Path, tmp_path: Path) -> None:
    """The same questions and answers; what is told is a part of what was told."""
    rng = np.random.default_rng(0)
    trees = list(read_trees(shards / "train" / "shard-0000.parquet"))
    trees = [
        replace(t, branch_N=np.sort(rng.integers(1, t.trunk + 1, len(t.branch_N)))) for t in trees
    ]
    write_trees(tmp_path / "shard-0000.parquet", trees)
    whole = {t.member: t for t in trees}

    def cut(share: float) -> int:
        stream = TreeStream(tmp_path, batch_tokens=512, seed=1, history_dropout=share)()
        epoch: list[TokenTree] = []
        while len(epoch) < len(whole):
            epoch += next(stream)
        changed = 0
        for tree in epoch:
            told = whole[tree.member]
            first = int(told.branch_N.min())
            assert tree.row_N == told.row_N
            assert np.array_equal(tree.label_N, told.label_N)
            if tree.trunk == told.trunk:
                assert np.array_equal(tree.branch_N, told.branch_N)
                continue
            assert tree.trunk == first
            assert (tree.branch_N == first).all()
            assert np.array_equal(tree.tokens_T[:first], told.tokens_T[:first])
            assert np.array_equal(tree.tokens_T[first:], told.tokens_T[told.trunk :])
            changed += 1
        return changed

    several = sum(int(t.branch_N.min()) < t.trunk for t in trees)
    assert several > 100
    assert (cut(0.0), cut(1.0)) == (0, several)
    assert 0.3 * several < cut(0.5) < 0.7 * several


def test_word_dropout_blots_out_words_alone_and_anew_each_epoch(shards: Path) -> None:
    whole = {t.member: t for t in read_trees(shards / "train" / "shard-0000.parquet")}
    kept = {400, 401, *range(300, 320)}
    stream = TreeStream(
        shards / "train", batch_tokens=512, seed=1, word_dropout=0.3, kept=kept, blot=1
    )()
    seen: list[TokenTree] = []
    while len(seen) < 2 * len(whole):
        seen += next(stream)
    epochs = [{t.member: t for t in part} for part in (seen[:600], seen[600:])]
    gone = words = 0
    for epoch in epochs:
        assert epoch.keys() == whole.keys()
        for member, tree in epoch.items():
            told = whole[member].tokens_T
            changed = tree.tokens_T != told
            assert (tree.tokens_T[changed] == 1).all()
            assert not np.isin(told[changed], list(kept)).any()
            gone += int(changed.sum())
            words += int((~np.isin(told, list(kept))).sum())
    assert gone / words == pytest.approx(0.3, abs=0.02)
    first, second = ([t.tokens_T.tolist() for _, t in sorted(e.items())] for e in epochs)
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 500


def test_word_dropout_needs_marks_that_are_tokens_of_their_own(shards: Path) -> None:
    stage = {"name": "tune", "shards": "train", "loss": "both", "tokens": 9, "lr": 1e-3}
    config = parse_train_config(
        OPTIONS | {"data": str(shards), "out": "o", "stages": [stage | {"word_dropout": 0.1}]},
        where="test",
    )
    trainer = Trainer.__new__(Trainer)
    trainer.config, trainer.tokenizer = config, PromptTokenizer.load(shards / "tokenizer")
    trainer.manifest = ShardsManifest.read(shards)
    assert isinstance(trainer._source(config.stages[0]), TreeStream)
    trainer.tokenizer = PromptTokenizer.load(shards / "tokenizer", markup="plain")
    with pytest.raises(TrainingError, match="cannot tell words from marks in markup 'plain'"):
        trainer._source(config.stages[0])


def test_unfinished_checkpoints_are_ignored_and_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / f"step-{step:09d}").mkdir()
    mark_complete(tmp_path, "step-000000001", {"step": 1}, keep=2)
    assert newest(tmp_path) == ("step-000000001", {"step": 1})
    mark_complete(tmp_path, "step-000000003", {"step": 3}, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000001", "step-000000003"]


def test_divergence_is_told(shards: Path, tmp_path: Path) -> None:
    wild = {"stages": [OPTIONS["stages"][1] | {"lr": 1e30, "warmup": 0.0}]}
    with pytest.raises(TrainingError, match="loss is nan at step .* lower lr"):
        train(shards, tmp_path, **wild)


def test_wrong_options_are_told() -> None:
    with pytest.raises(ConfigError, match="options: stages.0.lr: Input should be greater than 0"):
        parse_train_config(
            {
                "data": "d",
                "out": "o",
                "stages": [
                    {"name": "a", "shards": "train", "loss": "answers", "tokens": 1, "lr": 0}
                ],
            },
            where="options",
        )


def test_missing_shards_are_told(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="run the verbalize step again"):
        training.run(shards=tmp_path, model_out=tmp_path / "m")
