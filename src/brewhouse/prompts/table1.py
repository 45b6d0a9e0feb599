"""The `table1` layout: the order of parts of Table 1 of the 360Brew paper (arXiv:2501.16450).

Instruction, note, profile, past interactions grouped by action, one question, its answer. The words
are the domain's own. A trunk whose leaves hang at its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brewhouse.domains.spec import Domain
from brewhouse.prompts.evidence import Past, Version, known_before
from brewhouse.prompts.markup import Markup, Segment, data, mark
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.stream import Candidate, Length
from brewhouse.prompts.tree import Leaf, PromptTree
from brewhouse.tasks.suite import Suite


def question_phrases(book: QuestionBook, suite: Suite) -> dict[int, str]:
    """Each question in words: its task's own phrase, or the choice that several tasks share."""
    phrases: dict[int, str] = {}
    for number, question in enumerate(book.questions):
        readers = [t for t in suite.tasks if book.readings[t.name].question == number]
        choice = f"Which will it be: {', '.join(question.answers)}?"
        phrases[number] = readers[0].phrase if len(readers) == 1 else choice
    return phrases


@dataclass(frozen=True, kw_only=True)
class Table1Layout:
    """Builds trees in the `table1` layout."""

    domain: Domain
    markup: Markup
    book: QuestionBook
    phrases: dict[int, str]
    length: Length

    name = "table1"

    def request(
        self,
        member: str,
        evidence: Sequence[Past | Version],
        candidates: Sequence[Candidate],
        *,
        moment: int,
    ) -> PromptTree:
        """Build the prompt of a request; the newest interactions that fit the budget are told."""
        known = evidence[: known_before(evidence, moment)]
        head = next((e for e in reversed(known) if isinstance(e, Version)), None)
        past = [e for e in known if isinstance(e, Past)]
        past = past[max(0, len(past) - self.domain.history.max_events) :]
        root = self._root(head)
        while True:
            steps = self._groups(past)
            total = sum(self.length(s) for part in (root, *steps) for s in part)
            if total <= self.domain.history.max_tokens or not past:
                break
            past = past[1:]
        leaves = tuple(self._leaf(candidate, len(steps)) for candidate in candidates)
        return PromptTree(member=member, root=root, steps=steps, leaves=leaves)

    def _root(self, head: Version | None) -> tuple[Segment, ...]:
        note = self.domain.prompt.note
        return (
            *self.markup.begin(),
            mark(f"Instruction: {self.domain.prompt.instruction}"),
            *((mark(f"\nNote: {note}"),) if note else ()),
            mark("\nMember profile:"),
            data(head.profile if head else "unknown"),
            mark("\nPast interactions:"),
        )

    def _groups(self, past: Sequence[Past]) -> tuple[tuple[Segment, ...], ...]:
        groups: dict[str, list[Past]] = {}
        for event in past:
            groups.setdefault(event.action, []).append(event)
        steps = []
        for action, known in self.domain.actions.items():
            if action not in groups:
                continue
            parts = [mark(f"\nMember {known.past}:")]
            for event in groups[action]:
                parts += [mark(" ["), data(event.text), mark("]")]
            steps.append(tuple(parts))
        return tuple(steps)

    def _leaf(self, candidate: Candidate, branch: int) -> Leaf:
        question = self.phrases[candidate.question]
        return Leaf(
            row=candidate.row,
            question=candidate.question,
            label=candidate.label,
            weight=candidate.weight,
            branch=branch,
            segments=(
                mark(f"\nQuestion: {question} ["),
                data(candidate.item.text),
                mark("]\nAnswer:"),
            ),
        )
