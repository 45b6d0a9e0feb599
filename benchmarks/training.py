"""(b) Training targets a second: prompt trees against TRL's SFTTrainer on the same targets.

Same model, same weights at the start, same loss (cross-entropy of the answer over the whole
vocabulary), 50 targets a member. TRL packs prompts and counts the completion only. Gradients are
compared in the same run: of one tree, and of its ordinary prompts through TRL's own loss.
`python benchmarks/training.py`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from typing import Any

import common
import numpy as np

VOCABULARY = 2000
SHAPES = ((512, 12, 50), (1024, 12, 50))
"""Trunk, leaf, targets along the trunk."""
MEMBERS = 4
LR = 1e-3
PASSES = 3
"""Timed passes over all members of each side; the fastest counts."""


def make_trees(
    shape: tuple[int, int, int], *, members: int = MEMBERS, labels: int = VOCABULARY
) -> list[Any]:
    """Members whose past interactions are all targets, evenly along their trunk."""
    from brewhouse.prompts.tree import TokenTree

    trunk, leaf, targets = shape
    rng = np.random.default_rng(0)
    return [
        TokenTree(
            member=f"m{m}",
            tokens_T=rng.integers(20, VOCABULARY, trunk + leaf * targets).astype(np.int32),
            trunk=trunk,
            leaf_start_N=trunk + leaf * np.arange(targets),
            branch_N=np.linspace(leaf, trunk, targets).astype(np.int64),
            question_N=np.zeros(targets, np.int64),
            label_N=rng.integers(0, labels, targets),
            weight_N=np.ones(targets, np.float32),
            row_N=tuple(map(str, range(targets))),
        )
        for m in range(members)
    ]


def flat_gradient(decoder: Any) -> np.ndarray:
    """Gradient of all parameters in the order of their names; of every so many, if beyond 1e7."""
    named = [p for _, p in sorted(decoder.named_parameters())]
    stride = -(-sum(p.numel() for p in named) // 10_000_000)
    return np.concatenate(
        [
            np.zeros(len(range(0, p.numel(), stride)))
            if p.grad is None
            else p.grad.flatten()[::stride].float().cpu().numpy()
            for p in named
        ]
    )


Steps = tuple[float, np.ndarray, int, float]
"""Seconds over all members, gradient of the first one, tokens, peak memory of the device in MiB."""


def ours(shape: tuple[int, int, int], size: str = "tiny", on: common.On = common.CPU) -> Steps:
    """All members' targets as leaves of their trees, in one step."""
    import torch

    from brewhouse.model.batch import collate
    from brewhouse.model.plan import default_backend
    from brewhouse.model.ranker import Ranker

    trees, decoder = make_trees(shape), common.build(size, vocabulary=VOCABULARY, on=on)
    ranker = Ranker(decoder, [list(range(VOCABULARY))]).to(on.device)
    backend = default_backend(on.device, ranker.head_dim)

    def row(some: list[Any]) -> Any:
        return collate(some, backend=backend).to(on.device)

    ranker(row(trees[:1]), "answers")[0].backward()
    gradient = flat_gradient(decoder)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=LR, fused=on.device == "cuda" or None)

    def step() -> None:
        optimizer.zero_grad()
        ranker(row(trees), "answers")[0].backward()
        torch.nn.utils.clip_grad_norm_(ranker.parameters(), 1.0)
        optimizer.step()
        on.wait()

    step()
    return common.best_of(PASSES, step), gradient, sum(map(len, trees)), on.peak_mib()


def trl_packed(
    shape: tuple[int, int, int], size: str = "tiny", on: common.On = common.CPU
) -> Steps:
    """The same by TRL, a prompt a target."""
    import pyarrow as pa
    import torch
    from datasets import Dataset
    from datasets.table import InMemoryTable
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    trees = make_trees(shape)
    rows = []
    for tree in trees:
        for leaf in range(len(tree.row_N)):
            single = tree.single(leaf).tokens_T.tolist()
            rows.append(
                {
                    "input_ids": [*single, int(tree.label_N[leaf])],
                    "completion_mask": [0] * len(single) + [1],
                }
            )
    words = {f"w{i}": i for i in range(VOCABULARY)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w2")),
        pad_token="w0",
        eos_token="w1",
    )

    class Clock(TrainerCallback):  # type: ignore[misc]
        """Times every optimizer step but the first, which warms up."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            on.wait()
            self.times.append(time.perf_counter())

    # Its auxiliary router loss off, so that both train on the same loss.
    decoder = common.build(size, vocabulary=VOCABULARY, on=on)
    decoder.router_aux_loss_coef = decoder.config.router_aux_loss_coef = 0.0
    clock = Clock()
    longest = shape[0] + shape[1] + 1
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=decoder,
            args=SFTConfig(
                output_dir=folder,
                packing=True,
                completion_only_loss=True,
                max_length=2 * longest,
                # A row at a time: TRL would join the rows of a batch to one sequence, over which
                # attention without FlashAttention holds a whole mask.
                per_device_train_batch_size=1,
                gradient_accumulation_steps=on.batch,
                num_train_epochs=PASSES + 1,
                learning_rate=LR,
                optim="adamw_torch_fused" if on.device == "cuda" else "adamw_torch",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                use_cpu=on.device == "cpu",
                bf16=on.dtype == "bfloat16",
                gradient_checkpointing=False,
                disable_tqdm=True,
                shuffle_dataset=False,
                seed=0,
            ),
            # Named, for a hash of the table cannot be made on every version of Python.
            train_dataset=Dataset(InMemoryTable(pa.Table.from_pylist(rows)), fingerprint="rows"),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        first = rows[: len(trees[0].row_N)]
        count = len(first)
        trainer.model.train()
        for row in first:
            ids = torch.tensor([row["input_ids"]], device=on.device)
            mask = torch.tensor([row["completion_mask"]], device=on.device)
            labels = torch.where(mask == 1, ids, -100)
            inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
            (trainer.compute_loss(trainer.model, inputs) / count).backward()
        gradient = flat_gradient(trainer.model)
        trainer.model.zero_grad()
        trainer.train()
    # Passes, whole, for their last step may be a smaller one; the first warms up.
    steps_a_pass = len(clock.times) // (PASSES + 1)
    seconds = float(np.diff(clock.times[steps_a_pass - 1 :: steps_a_pass]).min())
    return seconds, gradient, sum(len(row["input_ids"]) for row in rows), on.peak_mib()


def run() -> Iterable[common.Result]:
    """All shapes."""
    import trl

    for shape in SHAPES:
        trunk, leaf, targets = shape
        on = common.On(batch=4)
        (seconds, gradient, tokens, _), memory = common.in_own_process(ours, shape, "tiny", on)
        (theirs, reference, other, _), peak = common.in_own_process(trl_packed, shape, "tiny", on)
        error = np.linalg.norm(gradient - reference) / np.linalg.norm(reference)
        found = common.result(
            f"training tiny, trunk {trunk}, leaf {leaf}, {targets} targets",
            ours=MEMBERS * targets / seconds,
            peer=MEMBERS * targets / theirs,
            unit="targets/s",
            against=f"TRL {trl.__version__} SFTTrainer, packing, completion-only loss",
            tokens_per_target=round(tokens / (MEMBERS * targets), 1),
            peer_tokens_per_target=round(other / (MEMBERS * targets), 1),
            gradient_relative_error=float(f"{error:.1e}"),
            peak_mib=round(memory),
            peer_peak_mib=round(peak),
        )
        common.show([found])
        yield found


if __name__ == "__main__":
    common.main("training", run)
