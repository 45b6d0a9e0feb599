"""The `stream` layout for many members at once: timelines to token trees by array operations.

Gives the very trees of `StreamLayout` and `tokenize_tree`, which stay the definition (a test
compares them); Python runs once a window of history, never once an interaction. Suffixes: E entries
of evidence (interactions and profile versions, in order of becoming known), W trees, N leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from brewhouse.data.timelines import Timelines, known_ranks, merge_count
from brewhouse.domains.spec import Domain
from brewhouse.prompts.pieces import NOTHING, VoicePieces, ranges
from brewhouse.prompts.shards import SCHEMA
from brewhouse.prompts.styles import style_of
from brewhouse.prompts.windows import EvidenceTable, MemberWindows, Window

MEMBERS_AT_ONCE = 256
_LATEST = np.iinfo(np.int64).max


class ColumnarBuilder:
    """Builds the trees of a log's members, some members at a time."""

    def __init__(
        self, domain: Domain, voices: dict[str, VoicePieces], timelines: Timelines
    ) -> None:
        """Take timelines of whole members, and the pieces of every style that may be used.

        Attributes:
            newest_told: When the newest evidence that training told became known, microseconds.
        """
        self.domain, self.voices, self.timelines = domain, voices, timelines
        log = timelines.log
        self.rank = known_ranks(log)
        self.newest_told = 0
        surfaces, actions = list(domain.surfaces), list(domain.actions)
        self.surface = np.array([surfaces.index(s) for s in log.surfaces] or [0])
        self.action = np.array([actions.index(a) for a in log.actions] or [0])
        self.row_rank = np.empty(len(log), np.int64)
        self.row_rank[np.argsort(log.interaction_id, kind="stable")] = np.arange(len(log))
        self.item: dict[int, np.ndarray] = {}
        questions = next(iter(voices.values())).layout.book
        asked = {s: questions.on(s) for s in log.surfaces}
        self.asked = [asked[s] for s in log.surfaces]
        self.labels = np.array(
            [[q.answer_of.get(a, -1) for a in log.actions] for q in questions.questions]
        ).reshape(len(questions.questions), -1)

    def training(self, *, known_by: int) -> Iterator[pa.Table]:
        """Trees that cover every target; no evidence known at or after `known_by` is told."""
        t = self.timelines
        target_member = t.log.member[t.targets_Q]
        for voice, members in self._groups(np.unique(target_member)):
            table = self._evidence(voice, members, known_by=known_by)
            leaves = self._leaves(table, voice, members, labelled=True)
            place = np.searchsorted(members, t.log.member[t.targets_Q[leaves["query"]]])
            order = np.lexsort(
                (
                    np.arange(len(place)),
                    self.row_rank[t.targets_Q[leaves["query"]]],
                    t.moment_Q[leaves["query"]],
                    place,
                )
            )
            leaves = {k: v[order] for k, v in leaves.items()}
            ends = np.searchsorted(place[order], np.arange(len(members) + 1))
            windows: list[Window] = []
            of: list[int] = []
            for m in np.flatnonzero(np.diff(ends)).tolist():
                mine = MemberWindows(table, m, voice)
                branches = leaves["branch"][ends[m] : ends[m + 1]].tolist()
                found = list(mine.training(branches, first_leaf=int(ends[m])))
                windows += found
                of += [m] * len(found)
                if len(mine):
                    last = int(table.rank_E[table.offsets[m + 1] - 1]) // 2
                    self.newest_told = max(self.newest_told, last)
            yield self._assemble(table, voice, windows, of, leaves)

    def documents(self, *, known_by: int) -> Iterator[pa.Table]:
        """Every member's evidence as trunks without leaves."""
        for voice, members in self._groups(np.arange(len(self.timelines.log.member_ids))):
            table = self._evidence(voice, members, known_by=known_by)
            windows: list[Window] = []
            of: list[int] = []
            for m in range(len(members)):
                found = list(MemberWindows(table, m, voice).documents())
                windows += found
                of += [m] * len(found)
            if windows:
                yield self._assemble(table, voice, windows, of, None)

    def requests(self, *, style: str | None = None) -> Iterator[pa.Table]:
        """One tree for each session of targets: its items are the candidates of one request."""
        t, voice = self.timelines, self.voices[style or self.domain.style]
        asked = np.unique(t.log.member[t.targets_Q])
        for start in range(0, len(asked), MEMBERS_AT_ONCE):
            members = asked[start : start + MEMBERS_AT_ONCE]
            table = self._evidence(voice, members)
            leaves = self._leaves(table, voice, members, labelled=False)
            row = t.targets_Q[leaves["query"]]
            place = np.searchsorted(members, t.log.member[row])
            keys = t.request_keys(leaves["query"])
            order = np.lexsort((np.arange(len(row)), *keys, place))
            leaves, row, place = {k: v[order] for k, v in leaves.items()}, row[order], place[order]
            session = t.log.session[row]
            new = (np.diff(session, prepend=-1) != 0) | (np.diff(place, prepend=-1) != 0)
            firsts = np.flatnonzero(new).tolist()
            windows: list[Window] = []
            of = place[firsts].tolist()
            cached = lru_cache(maxsize=1)(partial(MemberWindows, table, voice=voice))
            for m, first, last in zip(of, firsts, [*firsts[1:], len(row)], strict=True):
                known = int(leaves["branch"][first])
                windows.append(cached(m).request(known, first=first, last=last))
            yield self._assemble(table, voice, windows, of, leaves, at_end=True)

    def _groups(self, members: np.ndarray) -> Iterator[tuple[VoicePieces, np.ndarray]]:
        """Members by the style they are trained in, some at a time."""
        ids = self.timelines.log.member_ids
        drawn = np.array([style_of(str(ids[m]), self.domain) for m in members], dtype=object)
        for style in self.voices:
            chosen = members[drawn == style]
            for start in range(0, len(chosen), MEMBERS_AT_ONCE):
                yield self.voices[style], chosen[start : start + MEMBERS_AT_ONCE]

    def _evidence(
        self, voice: VoicePieces, members: np.ndarray, *, known_by: int | None = None
    ) -> EvidenceTable:
        t, log = self.timelines, self.timelines.log
        before = _LATEST if known_by is None else 2 * known_by
        rows = t.events_E[ranges(t.offsets[members], np.diff(t.offsets)[members])]
        place = np.repeat(np.arange(len(members)), np.diff(t.offsets)[members])
        keep = self.rank[rows] < before
        rows, place = rows[keep], place[keep]
        versions = [
            (m, v.rank, v.at, root, update)
            for m, code in enumerate(members.tolist())
            for v, root, update in voice.versions.get(str(log.member_ids[code]), ())
            if v.rank < before
        ]
        v = np.array(versions, np.int64).reshape(-1, 5)
        rank = np.concatenate([self.rank[rows], v[:, 1]])
        owner = np.concatenate([place, v[:, 0]])
        is_version = np.repeat([0, 1], [len(rows), len(v)])
        # Both parts are in order already, so their places decide what else is equal.
        order = np.lexsort((np.arange(len(rank)), is_version, rank, owner))
        at = np.concatenate([log.shown_at[rows], v[:, 2]])[order]
        owner, is_version = owner[order], is_version[order].astype(bool)
        same = np.diff(owner, prepend=-1) == 0
        gap = voice.gap(np.diff(at, prepend=0), same)
        version = voice.items.at(self._items(voice)[rows], log.shown_at[rows])
        age = voice.age(log.shown_at[rows] - voice.items.created_V[version])
        surface = self.surface[log.surface[rows]]

        def both(of_events: np.ndarray, of_versions: np.ndarray) -> np.ndarray:
            return np.concatenate([of_events, of_versions])[order]

        filler = np.zeros(len(v), np.int64)
        surface, age = both(surface, filler), both(age, filler)
        return EvidenceTable(
            members=members,
            offsets=np.searchsorted(owner, np.arange(len(members) + 1)),
            rank_E=rank[order],
            at_E=at,
            head_E=np.where(is_version, voice.update_head[gap], voice.past_head[surface, age, gap]),
            bare_E=np.where(is_version, voice.update_head[0], voice.past_head[surface, age, 0]),
            body_E=both(voice.items.past_V[version], v[:, 4]),
            tail_E=both(voice.past_tail[self.action[log.action[rows]]], filler + NOTHING),
            root_E=both(np.full(len(rows), NOTHING), v[:, 3]),
        )

    def _items(self, voice: VoicePieces) -> np.ndarray:
        """Index of each row's item in the voice's items."""
        if id(voice) not in self.item:
            known = np.searchsorted(voice.items.ids, self.timelines.log.item_ids)
            self.item[id(voice)] = known[self.timelines.log.item]
        return self.item[id(voice)]

    def _leaves(
        self, table: EvidenceTable, voice: VoicePieces, members: np.ndarray, *, labelled: bool
    ) -> dict[str, np.ndarray]:
        """One entry a question about a target: query, question, label, branch in the evidence."""
        t, log = self.timelines, self.timelines.log
        wanted = np.zeros(len(log.member_ids), bool)
        wanted[members] = True
        query = np.flatnonzero(wanted[log.member[t.targets_Q]])
        surface = log.surface[t.targets_Q[query]]
        count = np.array([len(q) for q in self.asked] or [0])[surface]
        question = np.array([q for s in surface.tolist() for q in self.asked[s]], np.int64)
        query = np.repeat(query, count)
        label = self.labels[question, log.action[t.targets_Q[query]]]
        if labelled:
            query, question, label = (a[label >= 0] for a in (query, question, label))
        place = np.searchsorted(members, log.member[t.targets_Q[query]])
        owner = np.repeat(np.arange(len(members)), np.diff(table.offsets))
        known = merge_count(owner, table.rank_E, place, 2 * t.moment_Q[query])
        return {
            "query": query,
            "question": question,
            "label": label,
            "branch": known - table.offsets[place],
        }

    def _assemble(
        self,
        table: EvidenceTable,
        voice: VoicePieces,
        windows: Sequence[Window],
        of: Sequence[int],
        leaves: dict[str, np.ndarray] | None,
        *,
        at_end: bool = False,
    ) -> pa.Table:
        """Put windows together.

        Args:
            table: Evidence.
            voice: Pieces.
            windows: What each tree tells; leaf numbers index `leaves`.
            of: Place of each window's member in the table.
            leaves: What is asked; None if nothing is.
            at_end: Whether all leaves hang at the end of their trunk.
        """
        start, end, root, first, last = (
            np.array([getattr(window, field) for window in windows])
            for field in ("start", "end", "root", "first", "last")
        )
        member = np.array(of)
        base = table.offsets[member]
        told_W, asked_W = end - start, last - first
        entry = ranges(base + start, told_W)
        opening = np.cumsum(told_W) - told_W
        head = table.head_E[entry]
        opens = opening[told_W > 0]
        head[opens] = table.bare_E[entry[opens]]
        steps = np.stack([head, table.body_E[entry], table.tail_E[entry]], 1)
        sizes = voice.store.sizes
        spent = np.concatenate([[0], np.cumsum(sizes[steps].sum(1))])
        trunk_W = sizes[root] + spent[opening + told_W] - spent[opening]
        leaf = ranges(first, asked_W)
        tree = np.repeat(np.arange(len(windows)), asked_W)
        asked = {k: v[leaf] for k, v in (leaves or _NO_LEAVES).items()}
        branch = told_W[tree] if at_end else np.maximum(0, asked["branch"] - start[tree])
        questions = self._question_pieces(table, voice, asked, branch, (base + start)[tree])
        leaf_size = sizes[questions].sum(1)
        counts = 1 + 3 * told_W + 3 * asked_W
        codes = np.empty(int(counts.sum()), np.int64)
        begins = np.cumsum(counts) - counts
        codes[begins] = root
        codes[ranges(begins + 1, 3 * told_W)] = steps.ravel()
        codes[ranges(begins + 1 + 3 * told_W, 3 * asked_W)] = questions.ravel()
        before = np.concatenate([[0], np.cumsum(leaf_size)])
        first_leaf = np.cumsum(asked_W) - asked_W
        leaf_start = trunk_W[tree] + before[:-1] - before[first_leaf[tree]]
        tokens_W = trunk_W + before[first_leaf + asked_W] - before[first_leaf]
        log, t = self.timelines.log, self.timelines
        visible = sizes[root][tree] + spent[opening[tree] + branch] - spent[opening[tree]]
        rows = log.interaction_id[t.targets_Q[asked["query"]]]
        columns: dict[str, Any] = {
            "member": pa.array(log.member_ids[table.members[member]], pa.string()),
            "tokens": _lists(tokens_W, voice.store.join(codes), pa.int32()),
            "trunk": pa.array(trunk_W, pa.int32()),
            "leaf_start": _lists(asked_W, leaf_start, pa.int32()),
            "branch": _lists(asked_W, visible, pa.int32()),
            "question": _lists(asked_W, asked["question"], pa.int16()),
            "label": _lists(asked_W, asked["label"], pa.int16()),
            # Sampled negatives count as drawn; the log's weight serves prior correction.
            "weight": _lists(asked_W, np.ones(len(leaf), np.float32), pa.float32()),
            "row": _lists(asked_W, rows, pa.string()),
        }
        return pa.table(columns, schema=SCHEMA)

    def _question_pieces(
        self,
        table: EvidenceTable,
        voice: VoicePieces,
        asked: dict[str, np.ndarray],
        branch: np.ndarray,
        opening: np.ndarray,
    ) -> np.ndarray:
        """Head, item and tail of each leaf, (N, 3)."""
        t = self.timelines
        request_at = t.request_at_Q[asked["query"]]
        told = branch > 0
        previous = np.where(told, opening + branch - 1, 0)
        since = request_at - (table.at_E[previous] if len(table.at_E) else 0)
        version = voice.items.at(self._items(voice)[t.targets_Q[asked["query"]]], request_at)
        age = voice.age(request_at - voice.items.created_V[version])
        head = voice.question_head[asked["question"], age, voice.gap(since, told)]
        tail = np.full(len(head), voice.question_tail)
        return np.stack([head, voice.items.question_V[version], tail], 1).reshape(-1, 3)


_NO_LEAVES = {k: np.zeros(0, np.int64) for k in ("query", "question", "label", "branch")}


def _lists(counts: np.ndarray, values: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values, kind))
