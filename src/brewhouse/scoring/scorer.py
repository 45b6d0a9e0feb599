"""Scores the leaves of prompt trees with a trained ranker.

A tree is one row of tokens; one with more leaves than fit beside its trunk is run in parts: the
trunk once, its keys and values kept, then leaves in batches against them. Memory is then that of
the trunk and one batch of leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from brewhouse.errors import ModelError
from brewhouse.model.batch import TreeBatch, collate
from brewhouse.model.build import load_decoder
from brewhouse.model.plan import Backend, TrunkCache, default_backend
from brewhouse.model.ranker import Ranker
from brewhouse.model.routing import RouterHealth, expert_counts
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree


@dataclass(frozen=True, kw_only=True)
class LeafScores:
    """Answer logits of leaves.

    Attributes:
        rows_N, question_N: As in `TokenTree`.
        logits_NA: float32, -inf where a question has fewer answers.
        tokens: Tokens that went through the decoder.
        load_LE: Those that each expert of each layer took; None without experts.
    """

    rows_N: np.ndarray
    question_N: np.ndarray
    logits_NA: np.ndarray
    tokens: int
    load_LE: np.ndarray | None = None

    def __len__(self) -> int:
        """Number of leaves."""
        return len(self.rows_N)

    @property
    def routing(self) -> RouterHealth | None:
        """Health of the router over these tokens."""
        return None if self.load_LE is None else RouterHealth.of(self.load_LE)

    @classmethod
    def joined(cls, parts: Sequence[LeafScores]) -> LeafScores:
        """Scores of one model, one after another; at least one part."""
        loads = [part.load_LE for part in parts if part.load_LE is not None]
        return cls(
            rows_N=np.concatenate([part.rows_N for part in parts]),
            question_N=np.concatenate([part.question_N for part in parts]),
            logits_NA=np.concatenate([part.logits_NA for part in parts]),
            tokens=sum(part.tokens for part in parts),
            load_LE=np.sum(loads, axis=0) if loads else None,
        )


class Scorer:
    """A ranker ready to score; float32, no gradient, no generation."""

    def __init__(
        self,
        ranker: Ranker,
        tokenizer: PromptTokenizer,
        book: QuestionBook,
        *,
        backend: Backend | None = None,
    ) -> None:
        """Take a ranker with its tokenizer and questions; the device's best backend if None."""
        self.ranker = ranker.eval()
        self.tokenizer = tokenizer
        self.book = book
        self.device = next(ranker.parameters()).device
        self.backend = backend or default_backend(self.device, ranker.head_dim)
        self._load: torch.Tensor | None = None

    @classmethod
    def load(cls, folder: Path, *, asked: ShardsManifest | None = None) -> Self:
        """Load an exported model with its tokenizer and questions.

        Args:
            folder: Model.
            asked: Shards whose questions are put in place of those it was trained on: tasks it
                never saw.

        Raises:
            ModelError: The folder lacks `prompts.json`, so answers are unknown.
        """
        path = folder / "prompts.json"
        if not path.is_file() and asked is None:
            msg = f"{folder}: no prompts.json; export the model with `brewhouse train`"
            raise ModelError(msg)
        manifest = asked or ShardsManifest.read_file(path)
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
        """Score all leaves of all trees; results are in the order of trees and leaves.

        Args:
            trees: At least one.
            batch_tokens: Tokens that go through the decoder at once. A longer tree is run in parts.
            progress: Told the number of trees done and in all.
        """
        order = sorted(range(len(trees)), key=lambda i: len(trees[i]))
        starts = np.concatenate([[0], np.cumsum([len(tree.row_N) for tree in trees])])
        widest = self.ranker.answer_ids_QA.shape[1]
        logits = np.full((int(starts[-1]), widest), -np.inf, np.float32)
        done = tokens = 0
        self._load = None
        for group in _cut(order, trees, batch_tokens):
            if len(group) == 1 and len(trees[group[0]]) > batch_tokens:
                out, used = self._run_in_parts(trees[group[0]], batch_tokens)
            else:
                out, used = self._run(collate([trees[i] for i in group], backend=self.backend))
            tokens += used
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
            tokens=tokens,
            load_LE=None if self._load is None else self._load.double().numpy(),
        )

    def _run(self, batch: TreeBatch) -> tuple[np.ndarray, int]:
        with torch.inference_mode():
            logits, _, router = self.ranker(batch.to(self.device), "score")
            if router:
                top_k = self.ranker.decoder.config.num_experts_per_tok
                counts = expert_counts(router, top_k=top_k).cpu()
                self._load = counts if self._load is None else self._load + counts
        return logits.float().cpu().numpy(), len(batch.tokens_T)

    def _run_in_parts(self, tree: TokenTree, batch_tokens: int) -> tuple[np.ndarray, int]:
        """Trunk first, then leaves in batches against its kept keys and values."""
        kept = TrunkCache()
        _, tokens = self._run(collate([tree.leaves(0, 0)], backend="split", keep=kept))
        parts, first = [], 0
        ends = tree.leaf_end_N - tree.trunk
        while first < len(ends):
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + batch_tokens, side="right")))
            only = tree.leaves(first, last, trunk=False)
            out, used = self._run(collate([only], backend="split", reuse=kept))
            parts.append(out)
            tokens += used
            first = last
        return np.concatenate(parts), tokens


def tokens_needed(trees: Sequence[TokenTree]) -> int:
    """Tokens that scoring must cost: each trunk once and each leaf once, no padding.

    For a request of N candidates that is trunk / N + leaf a candidate.
    """
    return sum(tree.trunk + int((tree.leaf_end_N - tree.leaf_start_N).sum()) for tree in trees)


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
    total = 0
    for i in order:
        if group and total + len(trees[i]) > limit:
            yield group
            group, total = [], 0
        group.append(i)
        total += len(trees[i])
    if group:
        yield group
