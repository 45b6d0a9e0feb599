"""(h) On a CUDA GPU: scoring and training as wide as Mixtral 8x7B, and the engine's use of it.

Layers are those of Mixtral 8x7B, as many as one GPU holds with all that training keeps; `small` in
float32 stands beside them, for there numbers can agree to the last digits. The engine is the one
that `brewhouse train` starts, and what it took is held against what `--dry-run` had estimated.
`python benchmarks/gpu.py training engine` runs some of its parts.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import scoring
import training

LAYERS = {"scoring": "mixtral-8x7b:4", "training": "mixtral-8x7b:1", "engine": "mixtral-8x7b:2"}
SCORED = (
    ("small", "float32", (2048, 40, 50)),
    (LAYERS["scoring"], "bfloat16", (2048, 40, 50)),
    (LAYERS["scoring"], "bfloat16", (512, 40, 20)),
)
TRAINED = (("small", "float32", (1024, 12, 50)), (LAYERS["training"], "bfloat16", (2048, 40, 50)))
ENGINE: dict[str, dict[str, Any]] = {
    "ZeRO-1": {"zero_stage": 1},
    "ZeRO-3, recomputed": {"zero_stage": 3, "activation_checkpointing": True},
}
SHAPE = (2048, 40, 50)
BATCH_TOKENS = 4 * (2048 + 40 * 50)
"""Of four members, whole."""
STEPS = 10
PEER_ROWS = 4
"""Packed rows, each as long as two of the longest prompts, that make a step of TRL."""
GUESS = 0.3
"""Part of a GPU's best that `--dry-run` expects."""


def scored() -> Iterable[common.Result]:
    """Candidates a second against ordinary prompts in batches, on the same GPU."""
    import transformers

    for size, dtype, shape in SCORED:
        trunk, leaf, candidates = shape
        on = common.On(device="cuda", dtype=dtype, batch=25, warm=True)
        (seconds, scores, tokens, memory), _ = common.in_own_process(scoring.ours, size, shape, on)
        (theirs, reference, other, peak), _ = common.in_own_process(
            scoring.transformers_prompts, size, shape, on
        )
        yield common.result(
            f"scoring {size} {dtype} {trunk}/{leaf}/{candidates}",
            ours=candidates / seconds,
            peer=candidates / theirs,
            unit="candidates/s",
            against=f"transformers {transformers.__version__}, a prompt each",
            tokens_per_candidate=round(tokens / candidates, 1),
            peer_tokens_per_candidate=round(other / candidates, 1),
            max_difference=float(f"{np.abs(scores - reference).max():.1e}"),
            peak_mib=round(memory),
            peer_peak_mib=round(peak),
        )


def trained() -> Iterable[common.Result]:
    """Targets a second against TRL's packed prompts, on the same GPU."""
    import trl

    for size, dtype, shape in TRAINED:
        trunk, leaf, targets = shape
        on = common.On(device="cuda", dtype=dtype, batch=PEER_ROWS)
        (seconds, gradient, tokens, memory), _ = common.in_own_process(
            training.ours, shape, size, on
        )
        (theirs, reference, other, peak), _ = common.in_own_process(
            training.trl_packed, shape, size, on
        )
        all_targets = training.MEMBERS * targets
        error = np.linalg.norm(gradient - reference) / np.linalg.norm(reference)
        yield common.result(
            f"training {size} {dtype}, trunk {trunk}, leaf {leaf}, {targets} targets",
            ours=all_targets / seconds,
            peer=all_targets / theirs,
            unit="targets/s",
            against=f"TRL {trl.__version__} SFTTrainer, packing, completion-only loss",
            tokens_per_target=round(tokens / all_targets, 1),
            peer_tokens_per_target=round(other / all_targets, 1),
            peer_rows_a_step=PEER_ROWS,
            gradient_relative_error=float(f"{error:.1e}"),
            peak_mib=round(memory),
            peer_peak_mib=round(peak),
        )


def make_shards(folder: Path) -> None:
    """Shards of members whose past interactions are all targets."""
    from brewhouse.prompts.markup import Tagged
    from brewhouse.prompts.numbers import NumberWords
    from brewhouse.prompts.questions import Question, QuestionBook
    from brewhouse.prompts.shards import write_trees
    from brewhouse.prompts.shards_manifest import ShardsManifest
    from brewhouse.prompts.tokenizer import train_tokenizer

    words = [f" w{i}" for i in range(2000)]
    tokenizer = train_tokenizer(words, marks=[], vocab_size=2048, markup=Tagged())
    tokenizer.save(folder / "tokenizer")
    trees = training.make_trees(SHAPE, members=64, labels=2)
    write_trees(folder / "train" / "shard-0000.parquet", trees)
    question = Question(surface="feed", word="feed", answers=("click", "none"), answer_of={})
    ShardsManifest(
        domain={},
        snapshot="sha256:0",
        split={},
        surfaces=[],
        tasks=[],
        last_known="",
        first_test="",
        counts={},
        book=QuestionBook(questions=(question,), readings={}),
        answers=[[5, 6]],
        history={},
        style="short",
        numbers=NumberWords(members={}, items={}),
    ).write(folder)


def engine(size: str, options: dict[str, Any], folder: str) -> dict[str, float]:
    """Steps of `brewhouse train`'s engine: seconds, tokens and peak memory, warm-up left out."""
    from brewhouse.training.config import parse_train_config
    from brewhouse.training.engine import Trainer

    work = Path(folder)
    make_shards(work / "shards")
    stage = {"name": "measured", "shards": "train", "loss": "answers", "lr": 1e-5}
    stages = [stage | {"tokens": steps * BATCH_TOKENS} for steps in (3, STEPS)]
    config = parse_train_config(
        {
            "data": str(work / "shards"),
            "out": str(work / "out"),
            "model": common.sized(size),
            "precision": "bfloat16",
            "batch_tokens": BATCH_TOKENS,
            "checkpoint_steps": 1_000_000,
            "stages": stages,
            **options,
        },
        where="benchmark",
    )
    trainer = Trainer(config)
    trainer.train(config.stages[0])
    trainer.state |= {"groups": 0, "tokens": 0}
    before, start = trainer.state["trained"], time.perf_counter()
    trainer.train(config.stages[1])
    return {
        "seconds": time.perf_counter() - start,
        "tokens": trainer.state["trained"] - before,
        "gib": common.On(device="cuda").peak_mib() / 1024,
        "vocabulary": len(trainer.tokenizer),
    }


def engines() -> Iterable[common.Result]:
    """Tokens a second of the engine against what the estimate expects of the GPU."""
    import torch

    from brewhouse.training.estimate import Pool, Shape, estimate

    size = common.sized(LAYERS["engine"])
    for name, options in ENGINE.items():
        with tempfile.TemporaryDirectory() as folder:
            took, host = common.in_own_process(engine, size, options, folder)
        told = estimate(
            Shape.of(size, vocabulary=int(took["vocabulary"])),
            Pool(nodes=1, gpus_per_node=1, gpu_gib=torch.cuda.mem_get_info()[1] / 2**30),
            tokens=int(took["tokens"]),
            zero_stage=options["zero_stage"],
            batch_tokens=BATCH_TOKENS,
            activation_checkpointing=options.get("activation_checkpointing", False),
            mfu=GUESS,
        )
        reached = took["tokens"] / took["seconds"]
        expected = took["tokens"] / (told.gpu_hours * 3600)
        yield common.result(
            f"engine {size} bfloat16, {name}",
            ours=reached,
            peer=expected,
            unit="tokens/s",
            against=f"the estimate at {GUESS:.0%} of 989 TFLOP/s",
            mfu=round(GUESS * reached / expected, 3),
            peak_gib=round(took["gib"], 1),
            estimated_gib=round(told.per_gpu, 1),
            host_gib=round(host / 1024, 1),
            estimated_host_gib=round(told.host, 1),
        )


def our_mask(rows: int) -> tuple[float, float]:
    """Seconds and peak MiB of a row's block mask, from what each token sees to the GPU."""
    from brewhouse.model.blocks import Blocks

    on = common.On(device="cuda")
    stretches = _stretches(rows)

    def make() -> None:
        Blocks.of(*stretches).to("cuda").mask()
        on.wait()

    make()
    return common.best_of(5, make), on.peak_mib()


def torch_mask(rows: int, compiled: bool) -> tuple[float, float]:
    """The same by PyTorch, from the same stretches on the GPU."""
    import torch
    from torch.nn.attention.flex_attention import create_block_mask

    from brewhouse.model.blocks import Blocks

    on = common.On(device="cuda")
    stretches = _stretches(rows)
    sees, n = Blocks.of(*stretches).to("cuda").mask().mask_mod, len(stretches[0])
    create = torch.compile(create_block_mask) if compiled else create_block_mask

    def make() -> None:
        create(sees, None, None, n, n, device="cuda")
        on.wait()

    make()
    return common.best_of(5, make), on.peak_mib()


def _stretches(rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from brewhouse.model.plan import TreePlan

    blocks = TreePlan.of([scoring.make_tree(*SHAPE)] * rows, backend="flex").blocks
    assert blocks is not None
    return blocks.first_T.numpy(), blocks.end_T.numpy(), blocks.own_T.numpy()


def masked() -> Iterable[common.Result]:
    """Rows a second whose block mask is made, against PyTorch's way, compiled and not."""
    import torch

    for rows in (1, 8):
        (seconds, memory), _ = common.in_own_process(our_mask, rows)
        for compiled in (False, True):
            (theirs, peak), _ = common.in_own_process(torch_mask, rows, compiled)
            way = "compiled" if compiled else "as it is"
            yield common.result(
                f"block mask of {rows * (2048 + 40 * 50):,} tokens",
                ours=1 / seconds,
                peer=1 / theirs,
                unit="masks/s",
                against=f"create_block_mask of PyTorch {torch.__version__}, {way}",
                peak_mib=round(memory),
                peer_peak_mib=round(peak),
            )


PARTS = {"scoring": scored, "training": trained, "engine": engines, "mask": masked}


def run(part: str) -> Iterable[common.Result]:
    """One of the parts; nothing where there is no GPU."""
    import torch

    if not torch.cuda.is_available():
        print("gpu: no CUDA device on this machine, nothing measured", flush=True)
        return
    for found in PARTS[part]():
        common.show([found])
        yield found


if __name__ == "__main__":
    if unknown := sorted(set(sys.argv[1:]) - set(PARTS)):
        sys.exit(f"unknown part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    for chosen in sys.argv[1:] or PARTS:
        common.main(f"gpu_{chosen}", partial(run, chosen))
