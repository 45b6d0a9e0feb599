"""Training runs of tests: their options, and torchrun as a user would start it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import Timelines, build_timelines, log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.files import write_json
from brewhouse.prompts.builder import TreeBuilder, voices
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.stages import training
from brewhouse.tasks.suite import load_suite
from brewhouse.training.config import parse_train_config

OPTIONS = {
    "model": "micro",
    "batch_tokens": 512,
    "checkpoint_steps": 7,
    "seed": 3,
    "stages": [
        {"name": "cpt", "shards": "cpt", "loss": "tokens", "tokens": 3000, "lr": 5e-3},
        {"name": "finetune", "shards": "train", "loss": "answers", "tokens": 40000, "lr": 5e-3},
    ],
}


def telling(
    domain: DomainFolder, snapshot: Snapshot, tokenizer: PromptTokenizer
) -> tuple[TreeBuilder, Timelines, int]:
    """What tells a snapshot's first shard in the style that is served: builder, timelines, end."""
    spec, style = domain.domain, domain.domain.style
    prompt = spec.prompt.model_copy(update={"styles": {style: spec.prompt.styles[style]}})
    spec = spec.model_copy(update={"prompt": prompt})
    told = voices(
        spec,
        load_suite(domain),
        tokenizer,
        items=snapshot.read("items"),
        members=snapshot.read("members"),
    )
    log = log_from_table(snapshot.read("interactions", shards=[0]))
    timelines = build_timelines(log, history_surfaces=spec.history_surfaces)
    return TreeBuilder(domain=spec, voices=told), timelines, int(log.shown_at.max())


def train(shards: Path, folder: Path, *, processes: int = 1, **options: object) -> Path:
    return training.run(
        shards=shards,
        model_out=folder / "model",
        workspace=str(folder / "work"),
        options=OPTIONS | options,
        processes=processes,
    )


def weights(model: Path) -> dict[str, torch.Tensor]:
    return load_file(model / "model.safetensors")


def configure(shards: Path, out: Path, **options: object) -> Path:
    """Write a configuration; returns its path."""
    config = parse_train_config(
        OPTIONS | {"data": str(shards), "out": str(out)} | options, where="test"
    )
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "train.json", config.model_dump(mode="json"))
    return out / "train.json"


def start(config: Path, *, ranks: int) -> subprocess.Popen[str]:
    """Start torchrun in a process group of its own."""
    command = [
        *(sys.executable, "-m", "brewhouse.training.agent", "--standalone"),
        *(f"--nproc_per_node={ranks}", "-m", "brewhouse.training", "--config", str(config)),
    ]
    with (config.parent / "train.log").open("a") as log:
        return subprocess.Popen(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def start_alone(
    config: Path, *, rank: int, ranks: int, port: int, cwd: Path
) -> subprocess.Popen[str]:
    """Start one rank of a run by itself, as on a machine of its own."""
    group = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": 0, "MASTER_PORT": port}
    with (cwd / "train.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "brewhouse.training", "--config", str(config)],
            env=os.environ
            | {name: str(value) for name, value in group.items()}
            | {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"},
            cwd=cwd,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )


def finish(config: Path, *, ranks: int) -> Path:
    """Run to the end; returns the folder of the run."""
    code = start(config, ranks=ranks).wait(300)
    assert code == 0, (config.parent / "train.log").read_text()[-3000:]
    return config.parent


def losses(out: Path) -> dict[int, float]:
    """Loss of each step; where a step was run twice, both must agree to the last bit."""
    found: dict[int, float] = {}
    for line in (out / "metrics.jsonl").read_text().splitlines():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:  # The last line of a run that was killed.
            continue
        step, loss = values["step"], values["loss"]
        assert found.setdefault(step, loss) == loss, f"step {step}: {found[step]} then {loss}"
    return found
