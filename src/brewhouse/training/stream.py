"""Streams batches of trees from shards: shuffled, bucketed by length, equal steps on every rank."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from brewhouse.errors import TrainingError
from brewhouse.prompts.shards import trees_of
from brewhouse.prompts.tree import TokenTree

Batch = list[TokenTree]


class TreeStream:
    """An endless stream of groups of batches, one batch a rank; only one row group is in memory.

    The order is a function of the seed, so a position is just the number of groups taken.
    """

    def __init__(
        self,
        folder: Path,
        *,
        batch_tokens: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        max_trunk: int | None = None,
    ) -> None:
        """Open a folder of shards.

        Args:
            folder: Shards.
            batch_tokens: Padded tokens of a rank's batch at most.
            seed: Seed of the order.
            rank: This process.
            world: Number of processes.
            max_trunk: Trunks are cut after so many tokens.

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
        self.batch_tokens = batch_tokens
        self.seed, self.rank, self.world = seed, rank, world
        self.max_trunk = max_trunk

    def __call__(self, *, skip: int = 0) -> Iterator[tuple[Batch, int]]:
        """Yield this rank's batch and the tokens of all ranks' batches, after `skip` groups."""
        taken = 0
        pending: list[Batch] = []
        for batch in self._batches():
            pending.append(batch)
            if len(pending) < self.world:
                continue
            if taken >= skip:
                tokens = sum(len(tree) for one in pending for tree in one)
                yield pending[self.rank], tokens
            taken += 1
            pending = []

    def _batches(self) -> Iterator[Batch]:
        epoch = 0
        while True:
            rng = np.random.default_rng([self.seed, epoch])
            for index in rng.permutation(len(self.groups)):
                file, group = self.groups[index]
                trees = list(trees_of(pq.ParquetFile(file).read_row_group(group)))
                if self.max_trunk is not None:
                    trees = [tree.shortened(self.max_trunk) for tree in trees]
                yield from self._cut(trees, rng)
            epoch += 1

    def _cut(self, trees: Batch, rng: np.random.Generator) -> list[Batch]:
        """Batches of similar length whose padded size stays within the token limit, shuffled."""
        order = sorted(rng.permutation(len(trees)).tolist(), key=lambda i: len(trees[i]))
        batches: list[Batch] = [[]]
        for i in order:
            if batches[-1] and (len(batches[-1]) + 1) * len(trees[i]) > self.batch_tokens:
                batches.append([])
            batches[-1].append(trees[i])
        return [batches[i] for i in rng.permutation(len(batches))]
