"""The prompt tree: a trunk of evidence and leaves that ask, each from where its moment falls.

Training, evaluation and scoring all read this structure. A leaf sees the trunk up to its branch
point and itself; its positions continue from the branch point. So its score equals that of the
ordinary prompt made of that prefix and the leaf.

Suffixes: _T tokens of a tree (trunk, then leaves one after another), _N leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from brewhouse.prompts.markup import Segment

Encoder = Callable[[Segment], Sequence[int]]
TRUNK = -1


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """One question about one item.

    Attributes:
        row: Interaction id of the item shown, to join scores back to rows.
        question: Index of the question in the run's question book.
        label: Index of the true answer among the question's answers; -1 where unknown.
        weight: Importance weight of the row in training.
        branch: How many steps of the trunk precede the leaf.
        segments: Text of the leaf, up to where the answer goes.
    """

    row: str
    question: int
    label: int
    weight: float
    branch: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, kw_only=True)
class PromptTree:
    """A trunk as steps (root, then one step an event, oldest first) and its leaves.

    `branch` of a leaf counts the events in front of it; the root is always seen.
    """

    member: str
    root: tuple[Segment, ...]
    steps: tuple[tuple[Segment, ...], ...]
    leaves: tuple[Leaf, ...]

    def prompt(self, leaf: int) -> str:
        """The ordinary prompt of one leaf, as text."""
        one = self.leaves[leaf]
        parts = [self.root, *self.steps[: one.branch], one.segments]
        return "".join(segment.text for part in parts for segment in part)

    def trunk_text(self) -> str:
        """The whole trunk as text."""
        return "".join(s.text for part in (self.root, *self.steps) for s in part)


@dataclass(frozen=True, kw_only=True)
class TokenTree:
    """A tree as tokens.

    Attributes:
        tokens_T: int32 token ids: trunk, then each leaf.
        trunk: Number of trunk tokens.
        leaf_start_N: First token of each leaf in `tokens_T`; a leaf ends where the next begins.
        branch_N: Trunk tokens visible to each leaf.
        question_N, label_N, weight_N, row_N: As in `Leaf`.
    """

    member: str
    tokens_T: np.ndarray
    trunk: int
    leaf_start_N: np.ndarray
    branch_N: np.ndarray
    question_N: np.ndarray
    label_N: np.ndarray
    weight_N: np.ndarray
    row_N: tuple[str, ...]

    @classmethod
    def of_trunk(cls, tokens_T: np.ndarray, *, member: str = "") -> TokenTree:
        """A trunk without leaves."""
        none = np.zeros(0, np.int64)
        return cls(
            member=member,
            tokens_T=tokens_T,
            trunk=len(tokens_T),
            leaf_start_N=none,
            branch_N=none,
            question_N=none,
            label_N=none,
            weight_N=np.zeros(0, np.float32),
            row_N=(),
        )

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.tokens_T)

    @property
    def leaf_end_N(self) -> np.ndarray:
        """One past the last token of each leaf."""
        return np.append(self.leaf_start_N, len(self.tokens_T))[1:].astype(np.int64)

    @property
    def answer_at_N(self) -> np.ndarray:
        """Position in `tokens_T` whose next token is the answer: the last token of each leaf."""
        return self.leaf_end_N - 1

    def owner_T(self) -> np.ndarray:
        """Leaf that each token belongs to, or `TRUNK`."""
        owner = np.full(len(self.tokens_T), TRUNK, np.int64)
        owner[self.trunk :] = np.repeat(
            np.arange(len(self.leaf_start_N)), self.leaf_end_N - self.leaf_start_N
        )
        return owner

    def visible_T(self) -> np.ndarray:
        """How many trunk tokens each token sees (for trunk tokens: itself included)."""
        visible = np.arange(1, len(self.tokens_T) + 1)
        visible[self.trunk :] = np.repeat(self.branch_N, self.leaf_end_N - self.leaf_start_N)
        return visible

    def positions_T(self) -> np.ndarray:
        """Rotary positions: those of a leaf continue from its branch point."""
        positions = np.arange(len(self.tokens_T))
        shift = np.repeat(self.branch_N - self.leaf_start_N, self.leaf_end_N - self.leaf_start_N)
        positions[self.trunk :] += shift
        return positions

    def single(self, leaf: int) -> TokenTree:
        """The ordinary prompt of one leaf: its visible trunk and itself, nothing else."""
        return self._cut(np.array([leaf]), trunk=int(self.branch_N[leaf]))

    def shortened(self, max_trunk: int) -> TokenTree:
        """The first `max_trunk` tokens of the trunk, with the leaves that hang there."""
        if self.trunk <= max_trunk:
            return self
        return self._cut(np.flatnonzero(self.branch_N <= max_trunk), trunk=max_trunk)

    def earliest(self) -> TokenTree:
        """The same questions, each asked where the first one hangs: with the least history told."""
        if not len(self.branch_N):
            return self
        trunk = int(self.branch_N.min())
        moved = replace(self, branch_N=np.full_like(self.branch_N, trunk))
        return moved._cut(np.arange(len(self.branch_N)), trunk=trunk)

    def leaves(self, first: int, last: int, *, trunk: bool = True) -> TokenTree:
        """Some of the leaves, with the whole trunk or, to be asked of a kept one, without."""
        return self._cut(np.arange(first, last), trunk=self.trunk if trunk else 0)

    def _cut(self, keep: np.ndarray, *, trunk: int) -> TokenTree:
        parts = [self.tokens_T[self.leaf_start_N[i] : self.leaf_end_N[i]] for i in keep]
        sizes = np.array([len(part) for part in parts], np.int64)
        return TokenTree(
            member=self.member,
            tokens_T=np.concatenate([self.tokens_T[:trunk], *parts]),
            trunk=trunk,
            leaf_start_N=trunk + np.cumsum(sizes) - sizes,
            branch_N=self.branch_N[keep],
            question_N=self.question_N[keep],
            label_N=self.label_N[keep],
            weight_N=self.weight_N[keep],
            row_N=tuple(self.row_N[i] for i in keep.tolist()),
        )


def tokenize_tree(tree: PromptTree, encode: Encoder, *, begin: int) -> TokenTree:
    """Encode a tree segment by segment.

    Segments are encoded one at a time, so the tokens of a step do not depend on its neighbours and
    a prefix of the trunk is a prefix of its tokens.

    Args:
        tree: What to encode.
        encode: Maps a segment to token ids.
        begin: Id of the begin-of-sequence token.
    """
    tokens = [begin]
    for segment in tree.root:
        tokens.extend(encode(segment))
    ends = [len(tokens)]
    for step in tree.steps:
        for segment in step:
            tokens.extend(encode(segment))
        ends.append(len(tokens))
    trunk = len(tokens)
    starts = []
    for leaf in tree.leaves:
        starts.append(len(tokens))
        for segment in leaf.segments:
            tokens.extend(encode(segment))
    return TokenTree(
        member=tree.member,
        tokens_T=np.array(tokens, np.int32),
        trunk=trunk,
        leaf_start_N=np.array(starts, np.int64),
        branch_N=np.array([ends[leaf.branch] for leaf in tree.leaves], np.int64),
        question_N=np.array([leaf.question for leaf in tree.leaves], np.int64),
        label_N=np.array([leaf.label for leaf in tree.leaves], np.int64),
        weight_N=np.array([leaf.weight for leaf in tree.leaves], np.float32),
        row_N=tuple(leaf.row for leaf in tree.leaves),
    )
