"""Turns timelines into prompt trees: training windows, test requests, pre-training documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from brewhouse.data.timelines import Timelines
from brewhouse.domains.spec import Domain
from brewhouse.prompts.evidence import (
    ItemBook,
    Past,
    Version,
    item_book,
    known_before,
    known_rank,
    merge,
    profile_versions,
)
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.questions import build_questions
from brewhouse.prompts.stream import Candidate, Evidence, StreamLayout, Target
from brewhouse.prompts.styles import style_of
from brewhouse.prompts.tokenizer import PromptTokenizer
from brewhouse.prompts.tree import PromptTree, TokenTree, tokenize_tree
from brewhouse.prompts.verbalizer import Verbalizer
from brewhouse.tasks.suite import Suite


def stream_layout(
    domain: Domain,
    suite: Suite,
    tokenizer: PromptTokenizer,
    *,
    verbalizer: Verbalizer | None = None,
) -> StreamLayout:
    """The `stream` layout of a domain in a tokenizer's markup, in the verbalizer's style."""
    return StreamLayout(
        domain=domain,
        verbalizer=verbalizer or Verbalizer(domain),
        markup=tokenizer.markup,
        book=build_questions(domain, suite),
        length=tokenizer.length,
    )


def voices(
    domain: Domain,
    suite: Suite,
    tokenizer: PromptTokenizer,
    *,
    items: pa.Table,
    members: pa.Table,
    numbers: NumberWords | None = None,
    styles: Sequence[str] | None = None,
) -> dict[str, Voice]:
    """Every style, or those named, with all items and profiles told in it."""
    found = {}
    for name in styles or domain.prompt.styles:
        verbalizer = Verbalizer(domain, style=name, numbers=numbers)
        found[name] = Voice(
            layout=stream_layout(domain, suite, tokenizer, verbalizer=verbalizer),
            items=item_book(items, verbalizer),
            versions=profile_versions(members, verbalizer),
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One style, ready to tell: its layout, and what it says of every item and profile."""

    layout: StreamLayout
    items: ItemBook
    versions: dict[str, list[Version]]


@dataclass(frozen=True, kw_only=True)
class TreeBuilder:
    """Builds the trees of a set of members from their timelines.

    Attributes:
        voices: By style. Requests are told in the domain's first style, training in the style
            that a member's id draws.
        newest_told: When the newest evidence of each training timeline became known, for the
            manifest's proof.
    """

    domain: Domain
    voices: Mapping[str, Voice]
    newest_told: list[int] = field(default_factory=list)

    def _of(self, member: str) -> Voice:
        return self.voices[style_of(member, self.domain)]

    def training(self, timelines: Timelines, *, known_by: int) -> Iterator[PromptTree]:
        """Trees that cover every target; no evidence known at or after `known_by` is used."""
        for member, queries in _by_member(timelines):
            voice = self._of(_id(timelines, member))
            evidence = self._evidence(voice, timelines, member, known_by=known_by)
            targets = [
                Target(
                    candidate=candidate,
                    request_at=int(timelines.request_at_Q[q]),
                    moment=int(timelines.moment_Q[q]),
                )
                for q in queries
                for candidate in self._candidates(voice, timelines, int(q))
                if candidate.label >= 0
            ]
            if targets:
                yield from voice.layout.training(_id(timelines, member), evidence, targets)

    def documents(self, timelines: Timelines, *, known_by: int) -> Iterator[PromptTree]:
        """Every member's timeline as trunks without leaves."""
        for member in range(len(timelines.log.member_ids)):
            voice = self._of(_id(timelines, member))
            evidence = self._evidence(voice, timelines, member, known_by=known_by)
            if evidence:
                yield from voice.layout.documents(_id(timelines, member), evidence)

    def requests(
        self,
        timelines: Timelines,
        *,
        style: str | None = None,
        distort: Callable[[Evidence], Evidence] | None = None,
    ) -> Iterator[PromptTree]:
        """One tree for each session of targets: its items are the candidates of one request.

        Args:
            timelines: Targets and what was known of their members.
            style: How to tell; the domain's first style if None.
            distort: Changes the evidence of a request, for probes.
        """
        voice, keep = self.voices[style or self.domain.style], self.domain.history.max_events
        for member, queries in _by_member(timelines):
            queries = queries[np.lexsort(timelines.request_keys(queries))]
            sessions = timelines.log.session[timelines.targets_Q[queries]]
            cuts = np.flatnonzero(np.diff(sessions)) + 1
            for group in np.split(queries, cuts):
                evidence: Evidence = self._evidence(
                    voice,
                    timelines,
                    member,
                    upto=int(timelines.branch_Q[group[0]]),
                    newest=keep + 1,
                )
                if distort:
                    known = known_before(evidence, int(timelines.moment_Q[group[0]]))
                    evidence = distort(evidence[:known])
                candidates = [c for q in group for c in self._candidates(voice, timelines, int(q))]
                yield voice.layout.request(
                    _id(timelines, member),
                    evidence,
                    candidates,
                    request_at=int(timelines.request_at_Q[group[0]]),
                    moment=int(timelines.moment_Q[group[0]]),
                )

    def _evidence(
        self,
        voice: Voice,
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
            item = voice.items.at(log.item_ids[log.item[row]], shown)
            past.append(
                Past(
                    rank,
                    shown,
                    log.surfaces[log.surface[row]],
                    log.actions[log.action[row]],
                    item.past,
                    item.created,
                )
            )
        versions = voice.versions.get(_id(timelines, member), [])
        if known_by is not None:
            versions = [v for v in versions if v.rank < 2 * known_by]
        evidence = merge(past, versions)
        if known_by is not None and evidence:
            self.newest_told.append(evidence[-1].rank // 2)
        return evidence

    def _candidates(self, voice: Voice, timelines: Timelines, query: int) -> list[Candidate]:
        log, book = timelines.log, voice.layout.book
        row = timelines.targets_Q[query]
        surface, action = log.surfaces[log.surface[row]], log.actions[log.action[row]]
        item = voice.items.at(log.item_ids[log.item[row]], int(timelines.request_at_Q[query]))
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
