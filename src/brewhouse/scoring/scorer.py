"""Scores the leaves of prompt trees with a trained ranker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from brewhouse.errors import ModelError
from brewhouse.model.batch import collate
from brewhouse.model.build import load_decoder
from brewhouse.model.ranker import Ranker
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree


@dataclass(frozen=True, kw_only=True)
class LeafScores:
    """Answer logits of leaves. `logits_NA` is float32, -inf where a question has fewer answers."""

    rows_N: np.ndarray
    question_N: np.ndarray
    logits_NA: np.ndarray
    tokens: int

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self.rows_N)


class Scorer:
    """A ranker ready to score; float32, no gradient, no generation."""

    def __init__(self, ranker: Ranker, tokenizer: PromptTokenizer, book: QuestionBook) -> None:
        """Take a ranker with its tokenizer and questions."""
        self.ranker = ranker.eval()
        self.tokenizer = tokenizer
        self.book = book
        self.device = next(ranker.parameters()).device

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load an exported model with its tokenizer and questions.

        Raises:
            ModelError: The folder lacks `prompts.json`, so answers are unknown.
        """
        path = folder / "prompts.json"
        if not path.is_file():
            msg = f"{folder}: no prompts.json; export the model with `brewhouse train`"
            raise ModelError(msg)
        manifest = ShardsManifest.read_file(path)
        tokenizer = PromptTokenizer.load(folder)
        ranker = Ranker(load_decoder(folder), manifest.answers)
        if torch.cuda.is_available():
            ranker = ranker.to("cuda")
        return cls(ranker, tokenizer, manifest.book)

    def score(
        self,
        trees: Sequence[TokenTree],
        *,
        batch_tokens: int = 8192,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> LeafScores:
        """Score all leaves of all trees; results are in the order of trees and leaves."""
        order = sorted(range(len(trees)), key=lambda i: len(trees[i]))
        starts = np.concatenate([[0], np.cumsum([len(tree.row_N) for tree in trees])])
        widest = self.ranker.answer_ids_QA.shape[1]
        logits = np.full((int(starts[-1]), widest), -np.inf, np.float32)
        done = 0
        for group in _cut(order, trees, batch_tokens):
            out = self._run([trees[i] for i in group])
            at = 0
            for i in group:
                n = len(trees[i].row_N)
                logits[starts[i] : starts[i] + n] = out[at : at + n]
                at += n
            done += len(group)
            progress(done, len(trees))
        return LeafScores(
            rows_N=np.array([row for tree in trees for row in tree.row_N], dtype=object),
            question_N=np.concatenate([tree.question_N for tree in trees]),
            logits_NA=logits,
            tokens=sum(len(tree) for tree in trees),
        )

    def _run(self, trees: Sequence[TokenTree]) -> np.ndarray:
        batch = collate(trees, pad=self.tokenizer.pad).to(self.device)
        with torch.inference_mode():
            logits, _, _ = self.ranker(batch, "score")
        return logits.float().cpu().numpy()


def parity(scorer: Scorer, trees: Iterable[TokenTree]) -> float:
    """Largest difference between a leaf's logits in its tree and as a prompt of its own."""
    worst = 0.0
    for tree in trees:
        together = scorer.score([tree]).logits_NA
        alone = np.concatenate(
            [scorer.score([tree.single(leaf)]).logits_NA for leaf in range(len(tree.row_N))]
        )
        finite = np.isfinite(together)
        worst = max(worst, float(np.abs(together[finite] - alone[finite]).max(initial=0.0)))
    return worst


def _cut(order: list[int], trees: Sequence[TokenTree], limit: int) -> Iterable[list[int]]:
    group: list[int] = []
    for i in order:
        if group and (len(group) + 1) * len(trees[i]) > limit:
            yield group
            group = []
        group.append(i)
    if group:
        yield group
