"""Streams batches of trees from shards: shuffled, bucketed by length, equal steps on every rank.

A source is an endless sequence of micro-batches that knows nothing of ranks; `shares` deals it out.
So the data of a step does not hang on the number of ranks, and a position holds for any number.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from brewhouse.errors import TrainingError
from brewhouse.prompts.shards import trees_of
from brewhouse.prompts.tree import TokenTree

Batch = list[TokenTree]


Source = Callable[[], Iterator[Batch]]


def shares(
    source: Source, *, size: int, rank: int, world: int, skip: int = 0
) -> Iterator[tuple[list[Batch], int]]:
    """Deal micro-batches out to ranks, as many to each.

    Args:
        source: Endless micro-batches.
        size: Micro-batches that make one step over all ranks; a multiple of `world`.
        rank: This process.
        world: Number of processes.
        skip: Steps already taken.

    Yields:
        This rank's micro-batches of a step, and the tokens of all of the step's.

    Raises:
        TrainingError: `size` cannot be dealt out evenly.
    """
    if size % world:
        msg = (
            f"{size} micro-batches a step cannot be dealt out evenly to {world} ranks; start a "
            f"number of ranks that divides {size}, or set micro_batches to a multiple of {world}"
        )
        raise TrainingError(msg)
    batches = islice(source(), skip * size, None)
    while True:
        step = list(islice(batches, size))
        yield step[rank::world], sum(len(tree) for batch in step for tree in batch)


class TreeStream:
    """Endless micro-batches of a folder of shards; only one row group is in memory.

    The order is a function of the seed, so a position is just the number of micro-batches taken.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_tokens: int,
        seed: int,
        max_trunk: int | None = None,
        history_dropout: float = 0.0,
        word_dropout: float = 0.0,
        kept: Collection[int] = (),
        blot: int = 0,
    ) -> None:
        """Open a folder of shards.

        Args:
            folder: Shards.
            batch_tokens: Padded tokens of a micro-batch at most.
            seed: Seed of the order.
            max_trunk: Trunks are cut after so many tokens.
            history_dropout: Share of trees told with the least history, anew each epoch.
            word_dropout: Share of tokens blotted out, anew each epoch.
            kept: Tokens that never are: marks and answers.
            blot: What stands in their place.

        Raises:
            TrainingError: There are no shards, or they are empty.
        """
        self.files = sorted(folder.glob("*.parquet"))
        self.groups = [
            (f, g)
            for f in self.files
            for g in range(pq.ParquetFile(f).num_row_groups)
            if pq.ParquetFile(f).metadata.row_group(g).num_rows
        ]
        if not self.groups:
            msg = f"no token shards in {folder}; run the verbalize step first"
            raise TrainingError(msg)
        self.batch_tokens, self.seed, self.max_trunk = batch_tokens, seed, max_trunk
        self.history_dropout, self.word_dropout = history_dropout, word_dropout
        self.kept, self.blot = np.array(sorted(kept), np.int32), blot

    def __call__(self) -> Iterator[Batch]:
        """Yield micro-batches, epoch after epoch."""
        epoch = 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            for index in rng.permutation(len(self.groups)):
                file, group = self.groups[index]
                trees = list(trees_of(pq.ParquetFile(file).read_row_group(group)))
                if self.max_trunk is not None:
                    trees = [tree.shortened(self.max_trunk) for tree in trees]
                if self.history_dropout:
                    drop = rng.random(len(trees)) < self.history_dropout
                    trees = [t.earliest() if d else t for t, d in zip(trees, drop, strict=True)]
                if self.word_dropout:
                    trees = [self._blotted(tree, rng) for tree in trees]
                yield from self._cut(trees, rng)
            epoch += 1

    def _blotted(self, tree: TokenTree, rng: np.random.Generator) -> TokenTree:
        drawn_T = rng.random(len(tree)) < self.word_dropout
        gone_T = drawn_T & ~np.isin(tree.tokens_T, self.kept)
        return replace(tree, tokens_T=np.where(gone_T, np.int32(self.blot), tree.tokens_T))

    def _cut(self, trees: Batch, rng: np.random.Generator) -> list[Batch]:
        """Batches of similar length whose padded size stays within the token limit, shuffled."""
        order = sorted(rng.permutation(len(trees)).tolist(), key=lambda i: len(trees[i]))
        batches: list[Batch] = [[]]
        for i in order:
            if batches[-1] and (len(batches[-1]) + 1) * len(trees[i]) > self.batch_tokens:
                batches.append([])
            batches[-1].append(trees[i])
        return [batches[i] for i in rng.permutation(len(batches))]
