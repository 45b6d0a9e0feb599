"""Made-up members whose tastes show in real items: they teach to weigh an item against a history.

Real members are few, and a small decoder that sees each of them several times learns them by heart.
Here every sequence is somebody new. A few words are drawn that this member cares for; the history
is events of the run's own trunks, most of them about one of these words; the profile names the
words that stood most often in things done before; the questions are leaves of the run's own
training trees, about a word that the member cares for or not. How often a word stands in the
history against how often it stands in anybody's is all that tells the answer, and words that go
together in real items still do.

The idea is that of training on synthetic tasks to learn in context (Chan et al., arXiv:2205.05055:
many rarely seen classes make a transformer read its context), with items that are real.

Suffixes: H event blocks, Q questions, K words that a member cares for, N leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, pairwise
from pathlib import Path

import numpy as np

from brewhouse.errors import TrainingError
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.shards import read_trees
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.training.config import TasteSpec

_BANK = 60_000
"""Events, and as many questions, that are kept to make members of."""
_PROFILE_FROM = (40, 200)
"""Least and most earlier events whose words a profile counts."""
_PROFILE_WORDS = (12, 97)
"""Least and most words that it names."""
_TRIES = 8
"""Draws of a question that has nothing to do with the member, before it is left out."""


@dataclass(frozen=True)
class _Bank:
    """Pieces of prompts, and which of them hold a word.

    Attributes:
        pieces: Token ids of each, int32.
        words: Word tokens of each, no marks.
        holding: By word, the pieces that hold it.
    """

    pieces: list[np.ndarray]
    words: list[np.ndarray]
    holding: dict[int, np.ndarray]

    @classmethod
    def of(cls, pieces: list[np.ndarray], marks: np.ndarray) -> _Bank:
        words = [np.unique(piece[~np.isin(piece, marks)]) for piece in pieces]
        found: dict[int, list[int]] = {}
        for place, row in enumerate(words):
            for word in row.tolist():
                found.setdefault(word, []).append(place)
        return cls(pieces, words, {word: np.array(at) for word, at in found.items()})

    def any(self, rng: np.random.Generator) -> int:
        """Any piece, as often as it was told."""
        return int(rng.integers(len(self.pieces)))

    def about(self, word: int, rng: np.random.Generator) -> int:
        """A piece that holds a word."""
        at = self.holding[word]
        return int(at[rng.integers(len(at))])


class TasteStream:
    """Endless micro-batches of made-up members, like `TreeStream`."""

    def __init__(
        self,
        spec: TasteSpec,
        tokenizer: PromptTokenizer,
        book: QuestionBook,
        answers: Sequence[Sequence[int]],
        *,
        data: Path,
        max_events: int,
        max_tokens: int,
        batch_tokens: int,
        seed: int,
    ) -> None:
        """Read what members are made of.

        Args:
            spec: How hard the questions are.
            tokenizer: Tells marks from words.
            book: The run's questions; those that no "none" answers are left out.
            answers: First token of every answer of every question.
            data: Token shards with folders `cpt` and `train`.
            max_events: Events of a history at most.
            max_tokens: Tokens of a trunk at most.
            batch_tokens: Tokens of a micro-batch at most.
            seed: Seed of the members.

        Raises:
            TrainingError: Marks cannot be told from words, or no word can be a taste.
        """
        if tokenizer.markup.name != "tagged":
            msg = (
                f"tastes cannot tell words from marks in markup '{tokenizer.markup.name}' of a "
                "borrowed tokenizer; leave the stage out"
            )
            raise TrainingError(msg)
        self.spec = spec
        self.answers = [np.array(row, np.int32) for row in answers]
        self.no_of = [question.answer_of.get("none") for question in book.questions]
        self.max_events, self.max_tokens = max_events, max_tokens
        self.batch_tokens, self.seed = batch_tokens, seed
        marks, lines = np.array(tokenizer.marks), np.array(tokenizer.line_marks)
        self.root = _root(data / "cpt", tokenizer.begin, lines)
        events = list(islice(_events(data / "cpt", marks, lines), _BANK))
        asked = list(islice(_questions(data / "train"), _BANK))
        asked = [(question, leaf) for question, leaf in asked if self.no_of[question] is not None]
        self.asked = [question for question, _ in asked]
        self.leaves = _Bank.of([leaf for _, leaf in asked], marks)
        self.labelled = self._labelled(events)
        # Where nothing is asked, what a real member passed over says nothing about a made-up one.
        noes = {
            int(row[no]) for row, no in zip(self.answers, self.no_of, strict=True) if no is not None
        }
        events = [b for b in events if int(b[0]) in self.labelled or int(b[-1]) not in noes]
        self.events = _Bank.of(events, marks)
        self.offered = [i for i, block in enumerate(events) if int(block[0]) in self.labelled]
        self.cared_for = self._words_to_care_for()
        if not len(self.cared_for):
            msg = f"{data}: no word stands in events and in questions; drop the stage"
            raise TrainingError(msg)

    def __call__(self) -> Iterator[list[TokenTree]]:
        """Yield micro-batches."""
        for index in count():
            rng = np.random.default_rng([self.seed, index, 1])
            batch: list[TokenTree] = []
            tokens = 0
            while True:
                tree = self._member(rng)
                if batch and tokens + len(tree) > self.batch_tokens:
                    break
                batch.append(tree)
                tokens += len(tree)
            yield batch

    def _labelled(self, events: list[np.ndarray]) -> dict[int, int]:
        """Questions of surfaces that log what was passed over too, by the mark of the surface."""
        seen = {(int(block[0]), int(block[-1])) for block in events}
        found: dict[int, int] = {}
        for question, leaf in zip(self.asked, self.leaves.pieces, strict=True):
            no = self.no_of[question]
            if no is not None and (int(leaf[0]), int(self.answers[question][no])) in seen:
                found[int(leaf[0])] = question
        return found

    def _label(self, question: int, *, yes: bool, rng: np.random.Generator) -> int:
        """An answer's index: that of the question's "none", or one of the others."""
        no = self.no_of[question] or 0
        others = [i for i in range(len(self.answers[question])) if i != no]
        return others[int(rng.integers(len(others)))] if yes else no

    def _words_to_care_for(self) -> np.ndarray:
        most = self.spec.common * len(self.events.pieces)
        words = [
            word
            for word, at in self.events.holding.items()
            if self.spec.least <= len(at) <= most
            and len(self.leaves.holding.get(word, ())) >= self.spec.least
        ]
        # Where every word stands nearly everywhere, the rarest must do.
        rest = sorted(self.events.holding.keys() & self.leaves.holding.keys())
        rarest = sorted(rest, key=lambda word: len(self.events.holding[word]))[: self.spec.words]
        return np.array(sorted(words) or rarest)

    def _member(self, rng: np.random.Generator) -> TokenTree:
        spec = self.spec
        kinds = int(rng.integers(1, min(spec.words, len(self.cared_for)) + 1))
        cared_K = rng.choice(self.cared_for, kinds, replace=False)
        upto_K = np.cumsum(rng.dirichlet(np.ones(kinds)))
        noise = rng.random() * spec.noise
        # Where surfaces log what was passed over, members differ in how often they act at all.
        acts = (rng.uniform(0.0, 0.3), rng.uniform(0.3, 1.0))

        def word() -> int:
            return int(cared_K[min(int(np.searchsorted(upto_K, rng.random())), kinds - 1)])

        def done() -> int:
            """An event of something done."""
            if rng.random() < noise:
                return self.events.any(rng)
            return self.events.about(word(), rng)

        tokens = [*self.root, *self._profile(done, rng)]
        for _ in range(int(rng.integers(self.max_events + 1))):
            at = done()
            question = self.labelled.get(int(self.events.pieces[at][0]))
            if question is not None and rng.random() < 0.5:  # Offered for reasons of its own.
                at = self.offered[rng.integers(len(self.offered))]
                question = self.labelled[int(self.events.pieces[at][0])]
            block = self.events.pieces[at]
            if len(tokens) + len(block) > self.max_tokens:
                break
            tokens += block.tolist()
            if question is not None:
                about = bool(np.isin(cared_K, self.events.words[at]).any())
                label = self._label(question, yes=rng.random() < acts[about], rng=rng)
                tokens[-1] = int(self.answers[question][label])
        return self._asking(tokens, word, cared_K, acts, rng)

    def _profile(self, done: Callable[[], int], rng: np.random.Generator) -> list[int]:
        """Words that stood most often in what was done before, the commonest first."""
        if rng.random() >= self.spec.profile:
            return []
        past = [self.events.words[done()] for _ in range(int(rng.integers(*_PROFILE_FROM)))]
        words, times = np.unique(np.concatenate(past), return_counts=True)
        order = np.argsort(-times, kind="stable")[: int(rng.integers(*_PROFILE_WORDS))]
        named: list[int] = words[order].tolist()
        return named[: max(0, self.max_tokens // 2 - len(self.root))]

    def _asking(
        self,
        tokens: list[int],
        word: Callable[[], int],
        cared_K: np.ndarray,
        acts: tuple[float, float],
        rng: np.random.Generator,
    ) -> TokenTree:
        """The tree of a trunk and its questions."""
        trunk = len(tokens)
        starts, questions, labels = [], [], []
        for _ in range(self.spec.questions):
            at = self.leaves.about(word(), rng)
            yes = bool(rng.random() < 0.5)
            if not yes:
                found = self._beside(at, cared_K, rng)
                if found is None:
                    continue
                at = found
            leaf = self.leaves.pieces[at]
            if int(leaf[0]) in self.labelled:
                yes = bool(rng.random() < acts[yes])
            starts.append(len(tokens))
            tokens += leaf.tolist()
            questions.append(self.asked[at])
            labels.append(self._label(self.asked[at], yes=yes, rng=rng))
        asked = len(starts)
        return TokenTree(
            member="",
            tokens_T=np.array(tokens, np.int32),
            trunk=trunk,
            leaf_start_N=np.array(starts, np.int64),
            branch_N=np.full(asked, trunk),
            question_N=np.array(questions, np.int64),
            label_N=np.array(labels, np.int64),
            weight_N=np.ones(asked, np.float32),
            row_N=("",) * asked,
        )

    def _beside(self, at: int, cared_K: np.ndarray, rng: np.random.Generator) -> int | None:
        """A question about nothing that the member cares for; half share another word with `at`."""
        words = self.leaves.words[at]
        for _ in range(_TRIES):
            shared = int(words[rng.integers(len(words))])
            other = self.leaves.about(shared, rng) if rng.random() < 0.5 else self.leaves.any(rng)
            if not np.isin(cared_K, self.leaves.words[other]).any():
                return other
        return None


def _root(shards: Path, begin: int, lines: np.ndarray) -> list[int]:
    """What stands in front of a profile's words."""
    for path in sorted(shards.glob("*.parquet")):
        for tree in read_trees(path):
            found = np.flatnonzero(np.isin(tree.tokens_T, lines))
            if len(found):
                front: list[int] = tree.tokens_T[: found[0] + 1].tolist()
                return front
    return [begin]


def _events(shards: Path, marks: np.ndarray, lines: np.ndarray) -> Iterator[np.ndarray]:
    """Interactions of trunks: from the mark that begins a line to the answer."""
    for path in sorted(shards.glob("*.parquet")):
        for tree in read_trees(path):
            tokens_T = tree.tokens_T[: tree.trunk]
            mark_T, line_T = np.isin(tokens_T, marks), np.isin(tokens_T, lines)
            starts = np.flatnonzero(line_T).tolist()
            for start, end in pairwise([*starts, len(tokens_T)]):
                # What ends with a word is a profile.
                answered = mark_T[end - 1] and not line_T[end - 1]
                if answered and not mark_T[start:end].all():
                    yield tokens_T[start:end]


def _questions(shards: Path) -> Iterator[tuple[int, np.ndarray]]:
    """Leaves of training trees with their questions."""
    for path in sorted(shards.glob("*.parquet")):
        for tree in read_trees(path):
            parts = np.split(tree.tokens_T, tree.leaf_start_N)[1:]
            yield from zip(tree.question_N.tolist(), parts, strict=True)
