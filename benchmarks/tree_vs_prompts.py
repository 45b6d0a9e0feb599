"""Scoring candidates as a tree against one prompt each, same model, same run.

Prints tokens and milliseconds a candidate and their ratio. The peer is what a user would otherwise
do: batch N independent prompts through the same model. `--json FILE` keeps the figures.
"""

import argparse
import json
import platform
import time
from pathlib import Path

import numpy as np

from brewhouse import offline

offline.silence()

import torch  # noqa: E402 - telemetry is off first

from brewhouse.model.build import build_decoder  # noqa: E402
from brewhouse.model.ranker import Ranker  # noqa: E402
from brewhouse.prompts.questions import QuestionBook  # noqa: E402
from brewhouse.prompts.tree import TokenTree  # noqa: E402
from brewhouse.scoring.scorer import Scorer  # noqa: E402

VOCABULARY = 2000


class _Padding:
    """All a scorer needs of a tokenizer here."""

    pad = 0


def make_tree(rng: np.random.Generator, trunk: int, leaf: int, candidates: int) -> TokenTree:
    """Return a request: one trunk, candidates at its end."""
    return TokenTree(
        member="m",
        tokens_T=rng.integers(3, VOCABULARY, trunk + leaf * candidates).astype(np.int32),
        trunk=trunk,
        leaf_start_N=trunk + leaf * np.arange(candidates),
        branch_N=np.full(candidates, trunk),
        question_N=np.zeros(candidates, np.int64),
        label_N=np.zeros(candidates, np.int64),
        weight_N=np.ones(candidates, np.float32),
        row_N=tuple(map(str, range(candidates))),
    )


def seconds(scorer: Scorer, trees: list[TokenTree], repeats: int) -> float:
    """Best of several runs."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        scorer.score(trees)
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--trunk", type=int, default=256)
    parser.add_argument("--leaf", type=int, default=7)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    decoder = build_decoder(arguments.size, vocab_size=VOCABULARY, begin=1, pad=0, seed=0)
    rows = []
    for experts in ("eager", "grouped_mm"):
        decoder.set_experts_implementation(experts)
        ranker = Ranker(decoder, [[5, 6, 7]])
        scorer = Scorer(ranker, _Padding(), QuestionBook(questions=(), readings={}))
        for candidates in (1, 8, 32, 128):
            tree = make_tree(rng, arguments.trunk, arguments.leaf, candidates)
            prompts = [tree.single(i) for i in range(candidates)]
            together = seconds(scorer, [tree], arguments.repeats)
            alone = seconds(scorer, prompts, arguments.repeats)
            difference = np.abs(
                scorer.score([tree]).logits_NA - scorer.score(prompts).logits_NA
            ).max()
            rows.append(
                {
                    "experts": experts,
                    "candidates": candidates,
                    "tokens_per_candidate_tree": len(tree) / candidates,
                    "tokens_per_candidate_prompts": sum(map(len, prompts)) / candidates,
                    "ms_per_candidate_tree": 1000 * together / candidates,
                    "ms_per_candidate_prompts": 1000 * alone / candidates,
                    "speedup": alone / together,
                    "max_difference": float(difference),
                }
            )
    print(
        f"{arguments.size}, trunk {arguments.trunk}, leaf {arguments.leaf} tokens, "
        f"{torch.get_num_threads()} threads, {platform.machine()}"
    )
    header = (
        "experts",
        "candidates",
        "tokens tree",
        "tokens prompts",
        "ms tree",
        "ms prompts",
        "speedup",
        "max diff",
    )
    print(" | ".join(f"{h:>14}" for h in header))
    for row in rows:
        values = list(row.values())
        shown = [values[0], values[1], *(f"{v:.2f}" for v in values[2:7]), f"{values[7]:.1e}"]
        print(" | ".join(f"{v:>14}" for v in shown))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
