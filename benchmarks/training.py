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


def make_trees(shape: tuple[int, int, int]) -> list[Any]:
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
            label_N=rng.integers(0, VOCABULARY, targets),
            weight_N=np.ones(targets, np.float32),
            row_N=tuple(map(str, range(targets))),
        )
        for m in range(MEMBERS)
    ]


def build() -> Any:
    """The same decoder in every process."""
    import torch

    from brewhouse.model.build import build_decoder

    torch.set_num_threads(2)
    return build_decoder("tiny", vocab_size=VOCABULARY, begin=1, pad=0, seed=0)


def flat_gradient(decoder: Any) -> np.ndarray:
    """Gradient of all parameters in the order of their names."""
    named = sorted(decoder.named_parameters())
    return np.concatenate(
        [
            (np.zeros(p.numel()) if p.grad is None else p.grad.float().numpy().ravel())
            for _, p in named
        ]
    )


def ours(shape: tuple[int, int, int]) -> tuple[float, np.ndarray, int]:
    """Seconds a step over all members, gradient of the first member, tokens a step."""
    import torch

    from brewhouse.model.batch import collate
    from brewhouse.model.ranker import Ranker

    trees, decoder = make_trees(shape), build()
    ranker = Ranker(decoder, [list(range(VOCABULARY))])
    ranker(collate(trees[:1]), "answers")[0].backward()
    gradient = flat_gradient(decoder)
    optimizer = torch.optim.AdamW(ranker.parameters(), lr=LR)

    def step() -> None:
        optimizer.zero_grad()
        ranker(collate(trees), "answers")[0].backward()
        torch.nn.utils.clip_grad_norm_(ranker.parameters(), 1.0)
        optimizer.step()

    step()
    return common.best_of(3, step), gradient, sum(map(len, trees))


def trl_packed(shape: tuple[int, int, int]) -> tuple[float, np.ndarray, int]:
    """The same by TRL: seconds for all members' prompts, gradient of the first member's, tokens."""
    import torch
    from datasets import Dataset
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
            self.times.append(time.perf_counter())

    # Its auxiliary router loss off, so that both train on the same loss.
    decoder = build()
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
                per_device_train_batch_size=4,
                num_train_epochs=2,
                learning_rate=LR,
                optim="adamw_torch",
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                disable_tqdm=True,
                shuffle_dataset=False,
                seed=0,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        first = rows[: len(trees[0].row_N)]
        count = len(first)
        trainer.model.train()
        for row in first:
            ids = torch.tensor([row["input_ids"]])
            labels = torch.where(torch.tensor([row["completion_mask"]]) == 1, ids, -100)
            inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
            (trainer.compute_loss(trainer.model, inputs) / count).backward()
        gradient = flat_gradient(trainer.model)
        trainer.model.zero_grad()
        trainer.train()
    steps_a_pass = len(clock.times) // 2
    spans = np.diff(clock.times)
    seconds = float(np.median(spans)) * steps_a_pass
    return seconds, gradient, sum(len(row["input_ids"]) for row in rows)


def run() -> Iterable[common.Result]:
    """All shapes."""
    import trl

    for shape in SHAPES:
        trunk, leaf, targets = shape
        (seconds, gradient, tokens), memory = common.in_own_process(ours, shape)
        (theirs, reference, other), peak = common.in_own_process(trl_packed, shape)
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
