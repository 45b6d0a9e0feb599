"""The `stream` layout: a chronological trunk in which every past interaction can be a target.

Follows Eq. 1-2 of the 360Brew paper (arXiv:2501.16450): one sequence per member, many targets.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain

from brewhouse.domains.spec import Domain
from brewhouse.prompts.evidence import ItemText, Past, Version, known_before
from brewhouse.prompts.markup import Markup, Segment, data, mark
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.tree import Leaf, PromptTree
from brewhouse.prompts.verbalizer import Verbalizer

Length = Callable[[Segment], int]
Evidence = Sequence[Past | Version]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An item to ask about. `label` is an answer index, -1 where the truth is unknown."""

    row: str
    question: int
    label: int
    weight: float
    item: ItemText


@dataclass(frozen=True, kw_only=True)
class Target:
    """A candidate of the past, with its moment: what training asks about."""

    candidate: Candidate
    request_at: int
    moment: int


@dataclass(frozen=True, kw_only=True)
class _Told:
    """Evidence with its steps, running sums of tokens and events, tokens of the longest root."""

    evidence: Evidence
    steps: list[tuple[Segment, ...]]
    tokens: list[int]
    events: list[int]
    root: int
    before: Evidence = ()


@dataclass(frozen=True, kw_only=True)
class StreamLayout:
    """Builds trees in the `stream` layout; pure, so offline and online text are the same bytes."""

    domain: Domain
    verbalizer: Verbalizer
    markup: Markup
    book: QuestionBook
    length: Length

    name = "stream"

    def request(
        self,
        member: str,
        evidence: Evidence,
        candidates: Sequence[Candidate],
        *,
        request_at: int,
        moment: int,
    ) -> PromptTree:
        """One trunk of what was known at `moment`, the candidates of a request at its end."""
        known = evidence[: known_before(evidence, moment)]
        root, steps, last_at = self._newest(known)
        leaves = tuple(
            self._leaf(candidate, request_at, last_at, branch=len(steps))
            for candidate in candidates
        )
        return PromptTree(member=member, root=root, steps=steps, leaves=leaves)

    def training(
        self, member: str, evidence: Evidence, targets: Sequence[Target]
    ) -> Iterator[PromptTree]:
        """Cover all targets with windows over the timeline.

        Windows overlap by half, and a target hangs in the first window that reaches it, so beyond
        the first window each sees at least half a window of history. A window ends where the event
        or the token budget ends.
        """
        queue = sorted(targets, key=lambda t: (t.moment, t.candidate.row))
        branches = [known_before(evidence, target.moment) for target in queue]
        told = self._tell(evidence)
        start, done = 0, 0
        while done < len(queue):
            start, end = self._window_from(told, start, needed=branches[done])
            root, steps, times = self._render(told, start, end, told_by=branches[done])
            skipped = end - start - len(steps)
            leaves = []
            while done < len(queue) and branches[done] <= end:
                branch = max(0, branches[done] - start - skipped)
                leaves.append(
                    self._leaf(
                        queue[done].candidate, queue[done].request_at, times[branch], branch=branch
                    )
                )
                done += 1
            yield PromptTree(member=member, root=root, steps=steps, leaves=tuple(leaves))
            start += max(1, (end - start) // 2)

    def documents(self, member: str, evidence: Evidence) -> Iterator[PromptTree]:
        """Cut a timeline into consecutive trunks without leaves, for continued pre-training."""
        told = self._tell(evidence)
        start = 0
        while start < len(evidence):
            end = self._window_end(told, start)
            root, steps, _ = self._render(told, start, end, told_by=end)
            yield PromptTree(member=member, root=root, steps=steps, leaves=())
            start = end

    def _tell(self, evidence: Evidence) -> _Told:
        """Tell every event once; windows share the result."""
        steps = []
        previous: int | None = None
        for entry in evidence:
            steps.append(self._step(entry, previous))
            previous = entry.at
        sizes = [sum(map(self.length, step)) for step in steps]
        heads = [None, *(entry for entry in evidence if isinstance(entry, Version))]
        return _Told(
            root=max(sum(map(self.length, self.root(head))) for head in heads),
            evidence=evidence,
            steps=steps,
            tokens=[0, *accumulate(sizes)],
            events=[0, *accumulate(isinstance(entry, Past) for entry in evidence)],
        )

    def _window_from(self, told: _Told, start: int, *, needed: int) -> tuple[int, int]:
        """The window at `start`, or the first later one by half steps, that reaches `needed`."""
        while True:
            end = self._window_end(told, start)
            if end >= needed or end >= len(told.evidence):
                return start, end
            start += max(1, (end - start) // 2)

    def _window_end(self, told: _Told, start: int) -> int:
        """End of the longest window that keeps both limits; it holds at least one event."""
        tokens = told.tokens[start] + self.domain.history.max_tokens - told.root
        by_tokens = bisect_right(told.tokens, tokens) - 1
        by_events = (
            bisect_right(told.events, told.events[start] + self.domain.history.max_events) - 1
        )
        return min(max(start + 1, min(by_tokens, by_events)), len(told.evidence))

    def _newest(
        self, known: Evidence
    ) -> tuple[tuple[Segment, ...], tuple[tuple[Segment, ...], ...], int | None]:
        """Keep the newest events that fit both limits; whole events are dropped, oldest first."""
        start, events = len(known), 0
        while start > 0 and events < self.domain.history.max_events:
            start -= 1
            events += isinstance(known[start], Past)
        if events < self.domain.history.max_events:
            start = 0
        told = self._tell(known[start:])
        told = replace(told, before=known[:start])
        start = 0
        while True:
            root, steps, times = self._render(told, start, len(known), told_by=len(known))
            total = sum(self.length(s) for part in (root, *steps) for s in part)
            if total <= self.domain.history.max_tokens or not steps:
                return root, steps, times[-1]
            start = len(told.evidence) - len(steps) + 1

    def _render(
        self, told: _Told, start: int, end: int, *, told_by: int
    ) -> tuple[tuple[Segment, ...], tuple[tuple[Segment, ...], ...], list[int | None]]:
        """Tell a window; profile versions in front of its first interaction go into its head.

        Only entries before `told_by`, the earliest branch point, may: the head is seen by all.

        Returns:
            Root, steps, and for each branch point the time of the last thing told before it.
        """
        evidence = told.evidence
        end = min(end, len(evidence))
        earlier = chain(reversed(evidence[:start]), reversed(told.before))
        head = next((e for e in earlier if isinstance(e, Version)), None)
        while start < min(end, told_by):
            entry = evidence[start]
            if not isinstance(entry, Version):
                break
            head = entry
            start += 1
        # The first event of a window has no gap to tell; all others are told as everywhere.
        first = [self._step(evidence[start], None)] if start < end else []
        steps = (*first, *told.steps[start + 1 : end])
        times: list[int | None] = [None, *(entry.at for entry in evidence[start:end])]
        return self.root(head), steps, times

    def root(self, head: Version | None) -> tuple[Segment, ...]:
        """Head of a prompt: instruction and the profile in force before its first event."""
        profile = self._profile(head.profile if head else "unknown")
        return (
            *self.markup.begin(),
            mark(self.verbalizer.instruction),
            *self.markup.profile(),
            profile,
        )

    def _profile(self, text: str) -> Segment:
        """The profile, cut after whole words at half the budget: history must have room."""
        segment = data(text)
        words = segment.text.split()
        while self.length(segment) > self.domain.history.max_tokens // 2 and len(words) > 1:
            words = words[: len(words) * 3 // 4]
            segment = data(" ".join(words))
        return segment

    def _step(self, entry: Past | Version, previous: int | None) -> tuple[Segment, ...]:
        telling = self.verbalizer.style.history
        gap = self.verbalizer.gap(previous, entry.at) if telling.gap else None
        if isinstance(entry, Version):
            return (*self.markup.update(gap), data(entry.update))
        surface = self.domain.surfaces[entry.surface].word
        age = self.verbalizer.age(entry.at, entry.created) if telling.age else None
        answer = self.markup.answer(self.domain.actions[entry.action].word)
        head = self.markup.item(surface, age, gap)
        return (*head, data(entry.text), *self.markup.answer_next(), answer)

    def _leaf(
        self, candidate: Candidate, request_at: int, previous: int | None, *, branch: int
    ) -> Leaf:
        word, telling = self.book.questions[candidate.question].word, self.verbalizer.style.question
        age = self.verbalizer.age(request_at, candidate.item.created) if telling.age else None
        gap = self.verbalizer.gap(previous, request_at) if telling.gap else None
        head = self.markup.item(word, age, gap)
        return Leaf(
            row=candidate.row,
            question=candidate.question,
            label=candidate.label,
            weight=candidate.weight,
            branch=branch,
            segments=(*head, data(candidate.item.text), *self.markup.answer_next()),
        )
