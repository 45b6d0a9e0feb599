"""Made-up histories in which answers hang on a repeated key: they teach to read labelled history.

Whether a small decoder ever starts to read its history is a matter of a phase change (Olsson et
al., arXiv:2209.11895): as long as other clues lower the loss a little, nothing pushes it there.
These sequences have no other clue. Every sequence binds some keys to a yes or a no of its own;
events show a key, between marks as in real prompts, and its answer. Keys are the tokens that most
often stand in front of answers in the run's own histories, for what is learned of one word is not
known of another; marks and answers are those of the run's questions.

Where a surface logs only what was done, its history has no "no" to read: there the question is
whether an item's words stand in the history at all. So a share of the sequences are histories of
"yes" alone, followed by questions about keys that were seen and keys that were not.

Suffixes: B sequences, E events, K keys.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow.parquet as pq

from brewhouse.errors import TrainingError
from brewhouse.prompts.markup import Markup, Segment
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import TokenTree
from brewhouse.training.config import PrimerSpec

_OPENING = 6
"""Random words in front, where a real prompt tells the profile."""
_RUN = 4
"""Events in a row on one surface, as in a session."""
_LONGER = 2
"""Events that a sequence gains with each key."""
_BAG = 2
"""Words of a key where the question is whether it was seen."""
_POOL = 300
"""Words that such keys are made of."""
_ASKED = 16
"""Questions behind a history of keys that were seen."""


Kind = Literal["labels", "seen"]
KINDS: tuple[Kind, Kind] = ("labels", "seen")


class PrimerStream:
    """Endless micro-batches, like `TreeStream`; those of one step are of one kind.

    Both kinds in one loss let the easy one hide that the other is not learned, so each has steps, a
    loss and a level of its own.

    Attributes:
        levels: By kind, how many keys more than two a sequence may have, and one more once the
            most are learned; raised by whoever trains when that kind's loss is low. Many keys from
            the start are never learned.
        kind: What the newest micro-batch is: sequences that tell labels, or ask what was seen.
    """

    def __init__(
        self,
        spec: PrimerSpec,
        tokenizer: PromptTokenizer,
        book: QuestionBook,
        answers: list[list[int]],
        *,
        surfaces: Container[str],
        shards: Path,
        batch_tokens: int,
        seed: int,
        size: int = 1,
    ) -> None:
        """Prepare words, marks and answers.

        Args:
            spec: How hard the sequences are.
            tokenizer: Gives marks.
            book: The run's questions.
            answers: First token of every answer of every question.
            surfaces: Surfaces that training may see; questions of others are left out.
            shards: Trunks from which words are counted.
            batch_tokens: Tokens of a micro-batch at most.
            seed: Seed of the sequences.
            size: Micro-batches of a step over all ranks.
        """
        self.spec, self.begin = spec, tokenizer.begin
        markup: Markup = tokenizer.markup
        asked = [i for i, q in enumerate(book.questions) if q.surface in surfaces]
        words = [book.questions[i].word for i in asked]
        self.heads = [_encode(tokenizer, markup.item(word, None, None)) for word in words]
        self.tail = _encode(tokenizer, markup.answer_next())
        # The first answer of a question says no, any other yes.
        self.answers = [np.array(answers[i], np.int32) for i in asked]
        self.asked = asked
        tails = len(self.tail)
        self.words, self.fillers = _words_before_answers(shards, answers, tails, spec.words)
        self.pool, _ = _words_before_answers(shards, answers, tails, _POOL)
        if len(self.words) < spec.keys:
            msg = (
                f"{shards}: {len(self.words)} words stand in front of answers; lower keys of the "
                f"primer ({spec.keys})"
            )
            raise TrainingError(msg)
        self.implicit = _without_no(shards, self.heads, self.answers)
        enough = len(self.pool) >= _BAG * (spec.keys + 1)
        self.unseen = spec.unseen if self.implicit and enough else 0.0
        self.levels: dict[Kind, int] = dict.fromkeys(KINDS, 0)
        shares = zip(KINDS, (1 - self.unseen, self.unseen), strict=True)
        self.kinds = [kind for kind, share in shares if share > 0]
        self.kind = self.kinds[0]
        self.batch_tokens, self.seed, self.size = batch_tokens, seed, size

    @property
    def loss(self) -> Literal["actions", "both"]:
        """Loss of the newest micro-batch, as of `Ranker.forward`."""
        return "both" if self.kind == "seen" else "actions"

    @property
    def grow_below(self) -> float:
        """Loss below which sequences of the newest kind may grow harder."""
        bit = self.spec.grow_below * float(np.log(2))
        if self.kind == "seen":
            return bit  # What was done before is known once it is learned.
        # Which of a surface's several yes-answers is given cannot be known: half of the events cost
        # the logarithm of their number whatever is learned. A guess of yes or no costs log 2 more.
        return float(np.mean([np.log(len(said) - 1) for said in self.answers])) / 2 + bit

    @property
    def done(self) -> bool:
        """Whether every kind is learned."""
        return all(self.learned(kind) for kind in self.kinds)

    def learned(self, kind: Kind) -> bool:
        """Whether sequences of a kind have as many keys as they shall, and their loss was low."""
        return self.levels[kind] > self.spec.keys - 2

    def grow(self) -> bool:
        """A key more for the newest kind, or word that it is learned; False if it was before."""
        if self.learned(self.kind):
            return False
        self.levels[self.kind] += 1
        return True

    def _turn(self, step: int) -> Kind:
        """Kind of a step. One that is learned keeps a quarter of its turns, lest it be lost."""
        if len(self.kinds) == 1:
            return self.kinds[0]
        before, after = int(step * self.unseen), int((step + 1) * self.unseen)
        turn, other = KINDS[::-1] if after > before else KINDS
        turns = before if turn == "seen" else step - before
        rest = self.learned(turn) and not self.learned(other) and turns % 4
        return other if rest else turn

    def __call__(self) -> Iterator[list[TokenTree]]:
        """Yield micro-batches; each is as hard as `levels` says when it is taken."""
        for index in count():
            if index % self.size == 0:
                self.kind = self._turn(index // self.size)
            yield self._batch(np.random.default_rng([self.seed, index, 0]))

    def _batch(self, rng: np.random.Generator) -> list[TokenTree]:
        batch: list[TokenTree] = []
        tokens = 0
        while True:
            tree = self._sequence(rng)
            if batch and tokens + len(tree) > self.batch_tokens:
                return batch
            batch.append(tree)
            tokens += len(tree)

    def _sequence(self, rng: np.random.Generator) -> TokenTree:
        """One sequence of two keys up to as many as the level allows."""
        spec, level = self.spec, min(self.levels[self.kind], self.spec.keys - 2)
        if self.kind == "seen":
            return self._seen_or_not(rng, keys=1 + level)
        events = spec.events + _LONGER * level
        keys = int(rng.integers(2, 3 + level))
        keys_K = rng.choice(self.words, keys, replace=False)
        # Half of the keys say yes, so that a sequence's mean tells nothing about any of them.
        yes_K = rng.permutation(np.arange(keys) % 2)
        pick_E = rng.integers(keys, size=events)
        runs = -(-events // _RUN)
        asked_E = np.repeat(rng.integers(len(self.heads), size=runs), _RUN)[:events]
        filler_E = rng.choice(self.fillers, (events, spec.fillers))
        tokens: list[int] = [self.begin, *rng.choice(self.fillers, _OPENING).tolist()]
        for event in range(events):
            asked = int(asked_E[event])
            tokens += self.heads[asked]
            tokens += filler_E[event].tolist()
            tokens.append(int(keys_K[pick_E[event]]))
            tokens += self.tail
            said = self.answers[asked]
            tokens.append(int(rng.choice(said[1:]) if yes_K[pick_E[event]] else said[0]))
        return TokenTree.of_trunk(np.array(tokens, np.int32))

    def _seen_or_not(self, rng: np.random.Generator, *, keys: int) -> TokenTree:
        """A history of things done, and questions about keys in it and keys that are not."""
        words = rng.permutation(self.pool)
        bags_KB = words[: keys * _BAG].reshape(keys, _BAG)
        others = words[keys * _BAG :]
        asked = int(rng.choice(self.implicit))
        tokens: list[int] = [self.begin, *rng.choice(self.fillers, _OPENING).tolist()]
        for _ in range(4 + 3 * keys):
            # Most things are done where the question will be asked, some elsewhere.
            surface = asked if rng.random() < 0.7 else int(rng.choice(self.implicit))
            tokens += self.heads[surface] + bags_KB[rng.integers(keys)].tolist() + self.tail
            tokens.append(int(self.answers[surface][-1]))
        trunk, seen = len(tokens), set(tokens)
        starts, labels = [], []
        for _ in range(_ASKED):
            yes = rng.random() < 0.5
            bag_B = bags_KB[rng.integers(keys)] if yes else rng.choice(others, _BAG, replace=False)
            starts.append(len(tokens))
            tokens += self.heads[asked] + rng.choice(self.fillers, 3).tolist()
            tokens += bag_B.tolist() + self.tail
            known = not seen.isdisjoint(bag_B.tolist())
            labels.append(len(self.answers[asked]) - 1 if known else 0)
        return TokenTree(
            member="",
            tokens_T=np.array(tokens, np.int32),
            trunk=trunk,
            leaf_start_N=np.array(starts),
            branch_N=np.full(_ASKED, trunk),
            question_N=np.full(_ASKED, self.asked[asked]),
            label_N=np.array(labels),
            weight_N=np.ones(_ASKED, np.float32),
            row_N=("",) * _ASKED,
        )


def _without_no(shards: Path, heads: list[list[int]], answers: list[np.ndarray]) -> list[int]:
    """Questions whose surface stands in the trunks, and never with its first answer, the no."""
    tokens = _some_tokens(shards)
    every = np.unique(np.concatenate(answers))
    at = np.flatnonzero(np.isin(tokens, every))
    first = np.array([head[0] for head in heads])
    # The mark of a surface in front of each answer is the last one before it.
    marks = np.flatnonzero(np.isin(tokens, first))
    behind = np.searchsorted(marks, at) - 1
    mark, said = tokens[marks[behind[behind >= 0]]], tokens[at[behind >= 0]]
    found: list[int] = []
    if len(set(first.tolist())) < len(heads):
        return found  # A borrowed tokenizer's marks cannot be told apart by one token.
    for number, (head, row) in enumerate(zip(heads, answers, strict=True)):
        own = said[mark == head[0]]
        if np.isin(own, row[1:]).any() and not (own == row[0]).any():
            found.append(number)
    return found


def _words_before_answers(
    shards: Path, answers: list[list[int]], tail: int, most: int
) -> tuple[np.ndarray, np.ndarray]:
    """The commonest tokens in front of answers, and those that stand in front of them, int32."""
    tokens = _some_tokens(shards)
    ids = np.unique([token for row in answers for token in row])
    at = np.flatnonzero(np.isin(tokens, ids))
    at = at[at >= tail + 2] - 1 - tail
    words, times = np.unique(tokens[at], return_counts=True)
    words = words[np.argsort(-times, kind="stable")][:most].astype(np.int32)
    before = np.unique(tokens[at[np.isin(tokens[at], words)] - 1]).astype(np.int32)
    return words, before


def _some_tokens(shards: Path) -> np.ndarray:
    """Tokens of the first trunks, int32."""
    file = sorted(shards.glob("*.parquet"))
    if not file:
        msg = f"no token shards in {shards}; run the verbalize step first"
        raise TrainingError(msg)
    table = pq.ParquetFile(file[0]).read_row_group(0, columns=["tokens"])
    found: np.ndarray = table.column("tokens").combine_chunks().flatten().to_numpy()
    return found


def _encode(tokenizer: PromptTokenizer, segments: tuple[Segment, ...]) -> list[int]:
    return [token for segment in segments for token in tokenizer.encode(segment)]
