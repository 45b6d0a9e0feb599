"""Which evidence stands in which tree: the arithmetic of `StreamLayout` over running sums.

Suffix: E evidence entries (interactions and profile versions, in order of becoming known).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from brewhouse.prompts.pieces import NOTHING, VoicePieces


@dataclass(frozen=True, kw_only=True)
class EvidenceTable:
    """Evidence of some members in one style, with the pieces that tell each entry.

    `head_E` tells the time since the entry before; `bare_E` does not and begins a window.
    `root_E` is the root that a profile version gives, `NOTHING` for an interaction.
    """

    members: np.ndarray
    offsets: np.ndarray
    rank_E: np.ndarray
    at_E: np.ndarray
    head_E: np.ndarray
    bare_E: np.ndarray
    body_E: np.ndarray
    tail_E: np.ndarray
    root_E: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one tree tells: entries [start, end) of a member's evidence, leaves [first, last)."""

    start: int
    end: int
    root: int
    first: int = 0
    last: int = 0


class MemberWindows:
    """Windows over the evidence of one member; the arithmetic of `StreamLayout`."""

    def __init__(self, table: EvidenceTable, place: int, voice: VoicePieces) -> None:
        """Prepare running sums for the member at a place of the table."""
        history = voice.layout.domain.history
        self.max_events, self.max_tokens = history.max_events, history.max_tokens
        part = slice(int(table.offsets[place]), int(table.offsets[place + 1]))
        sizes = voice.store.sizes
        body = sizes[table.body_E[part]] + sizes[table.tail_E[part]]
        told = sizes[table.head_E[part]] + body
        roots = table.root_E[part]
        self.bare = (sizes[table.bare_E[part]] + body).tolist()
        self.tokens = [0, *np.cumsum(told).tolist()]
        self.events = [0, *np.cumsum(roots == NOTHING).tolist()]
        self.roots = roots.tolist()
        newest = np.maximum.accumulate(np.where(roots != NOTHING, np.arange(len(roots)), -1))
        self.head_before = [
            voice.no_profile,
            *np.where(newest >= 0, roots[newest], voice.no_profile).tolist(),
        ]
        # The token budget does not count the begin token that every root carries.
        self.root_size = sizes - 1
        heads = [voice.no_profile, *(r for r in self.roots if r != NOTHING)]
        self.longest_root = int(self.root_size[heads].max())

    def __len__(self) -> int:
        """Number of entries."""
        return len(self.roots)

    def training(self, branches: Sequence[int], *, first_leaf: int) -> Iterator[Window]:
        """Windows that cover targets with these branch points, ascending.

        Args:
            branches: Known entries of each target.
            first_leaf: Number of the first target.
        """
        start = done = 0
        while done < len(branches):
            start, end = self._from(start, needed=branches[done])
            told_from, root = self._render(start, end, told_by=branches[done])
            last = max(done, bisect_right(branches, end, lo=done))
            yield Window(
                start=told_from,
                end=end,
                root=root,
                first=first_leaf + done,
                last=first_leaf + last,
            )
            done = last
            start += max(1, (end - start) // 2)

    def documents(self) -> Iterator[Window]:
        """Windows one after another over everything."""
        start = 0
        while start < len(self):
            end = self._end(start)
            told_from, root = self._render(start, end, told_by=end)
            yield Window(start=told_from, end=end, root=root)
            start = end

    def request(self, known: int, *, first: int, last: int) -> Window:
        """The window of the newest of the `known` first entries."""
        start = 0
        if self.events[known] >= self.max_events:
            start = bisect_right(self.events, self.events[known] - self.max_events, hi=known) - 1
        while True:
            start, root = self._render(start, known, told_by=known)
            told = int(self.root_size[root])
            if start < known:
                told += self.bare[start] + self.tokens[known] - self.tokens[start + 1]
            if told <= self.max_tokens or start == known:
                return Window(start=start, end=known, root=root, first=first, last=last)
            start += 1

    def _from(self, start: int, *, needed: int) -> tuple[int, int]:
        while True:
            end = self._end(start)
            if end >= needed or end >= len(self):
                return start, end
            start += max(1, (end - start) // 2)

    def _end(self, start: int) -> int:
        room = self.tokens[start] + self.max_tokens - self.longest_root
        by_tokens = bisect_right(self.tokens, room) - 1
        by_events = bisect_right(self.events, self.events[start] + self.max_events) - 1
        return min(max(start + 1, min(by_tokens, by_events)), len(self))

    def _render(self, start: int, end: int, *, told_by: int) -> tuple[int, int]:
        root = self.head_before[start]
        while start < min(end, told_by) and self.roots[start] != NOTHING:
            root = self.roots[start]
            start += 1
        return start, root
