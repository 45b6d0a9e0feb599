"""Turns timelines into prompt trees: training windows, test requests, pre-training documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from brewhouse.data.timelines import Timelines
from brewhouse.domains.spec import Domain
from brewhouse.prompts.evidence import ItemBook, Past, Version, known_rank, merge
from brewhouse.prompts.questions import build_questions
from brewhouse.prompts.stream import Candidate, StreamLayout, Target
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import PromptTree, TokenTree, tokenize_tree
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.tasks.suite import Suite


def stream_layout(domain: Domain, suite: Suite, tokenizer: PromptTokenizer) -> StreamLayout:
    """The `stream` layout of a domain in a tokenizer's markup."""
    return StreamLayout(
        domain=domain,
        verbalizer=Verbalizer(domain),
        markup=tokenizer.markup,
        book=build_questions(domain, suite),
        length=tokenizer.length,
    )


@dataclass(frozen=True, kw_only=True)
class TreeBuilder:
    """Builds the trees of a set of members from their timelines."""

    layout: StreamLayout
    items: ItemBook
    versions: dict[str, list[Version]]
    newest_told: list[int] = field(default_factory=list)
    """When the newest evidence of each training timeline became known, for the manifest's proof."""

    def training(self, timelines: Timelines, *, known_by: int) -> Iterator[PromptTree]:
        """Trees that cover every target; no evidence known at or after `known_by` is used."""
        for member, queries in _by_member(timelines):
            evidence = self._evidence(timelines, member, known_by=known_by)
            targets = [
                Target(
                    candidate=candidate,
                    request_at=int(timelines.request_at_Q[q]),
                    moment=int(timelines.moment_Q[q]),
                )
                for q in queries
                for candidate in self._candidates(timelines, int(q))
                if candidate.label >= 0
            ]
            if targets:
                yield from self.layout.training(_id(timelines, member), evidence, targets)

    def documents(self, timelines: Timelines, *, known_by: int) -> Iterator[PromptTree]:
        """Every member's timeline as trunks without leaves."""
        for member in range(len(timelines.log.member_ids)):
            evidence = self._evidence(timelines, member, known_by=known_by)
            if evidence:
                yield from self.layout.documents(_id(timelines, member), evidence)

    def requests(self, timelines: Timelines) -> Iterator[PromptTree]:
        """One tree for each session of targets: its items are the candidates of one request."""
        keep = self.layout.domain.history.max_events
        for member, queries in _by_member(timelines):
            order = np.lexsort((timelines.targets_Q[queries], timelines.moment_Q[queries]))
            queries = queries[order]
            sessions = timelines.log.session[timelines.targets_Q[queries]]
            cuts = np.flatnonzero(np.diff(sessions)) + 1
            for group in np.split(queries, cuts):
                evidence = self._evidence(
                    timelines, member, upto=int(timelines.branch_Q[group[0]]), newest=keep + 1
                )
                candidates = [c for q in group for c in self._candidates(timelines, int(q))]
                yield self.layout.request(
                    _id(timelines, member),
                    evidence,
                    candidates,
                    request_at=int(timelines.request_at_Q[group[0]]),
                    moment=int(timelines.moment_Q[group[0]]),
                )

    def _evidence(
        self,
        timelines: Timelines,
        member: int,
        *,
        known_by: int | None = None,
        upto: int | None = None,
        newest: int | None = None,
    ) -> list[Past | Version]:
        log = timelines.log
        start, end = timelines.offsets[member], timelines.offsets[member + 1]
        if upto is not None:
            end = start + upto
        if newest is not None:
            start = max(start, end - newest)
        past = []
        for row in timelines.events_E[start:end].tolist():
            shown = int(log.shown_at[row])
            rank = known_rank(int(log.event_at[row]), int(log.created_at[row]))
            if known_by is not None and rank >= 2 * known_by:
                continue
            item = self.items.at(log.item_ids[log.item[row]], shown)
            past.append(
                Past(
                    rank,
                    shown,
                    log.surfaces[log.surface[row]],
                    log.actions[log.action[row]],
                    item.text,
                    item.created,
                )
            )
        versions = self.versions.get(_id(timelines, member), [])
        if known_by is not None:
            versions = [v for v in versions if v.rank < 2 * known_by]
        evidence = merge(past, versions)
        if known_by is not None and evidence:
            self.newest_told.append(evidence[-1].rank // 2)
        return evidence

    def _candidates(self, timelines: Timelines, query: int) -> list[Candidate]:
        log, book = timelines.log, self.layout.book
        row = timelines.targets_Q[query]
        surface, action = log.surfaces[log.surface[row]], log.actions[log.action[row]]
        item = self.items.at(log.item_ids[log.item[row]], int(timelines.request_at_Q[query]))
        return [
            Candidate(
                row=log.interaction_id[row],
                question=question,
                label=book.questions[question].answer_of.get(action, -1),
                # Sampled negatives count as drawn; the log's weight serves prior correction.
                weight=1.0,
                item=item,
            )
            for question in book.on(surface)
        ]


def tokenized(trees: Iterator[PromptTree], tokenizer: PromptTokenizer) -> Iterator[TokenTree]:
    """Encode trees as they come."""
    for tree in trees:
        yield tokenize_tree(tree, tokenizer.encode, begin=tokenizer.begin)


def _id(timelines: Timelines, member: int) -> str:
    return str(timelines.log.member_ids[member])


def _by_member(timelines: Timelines) -> Iterator[tuple[int, np.ndarray]]:
    member = timelines.log.member[timelines.targets_Q]
    order = np.argsort(member, kind="stable")
    cuts = np.flatnonzero(np.diff(member[order])) + 1
    for group in np.split(order, cuts):
        if len(group):
            yield int(member[group[0]]), group
