"""The question book of a run: which questions are asked, their answer words, and who reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from brewhouse.domains.spec import Domain
from brewhouse.errors import PromptError
from brewhouse.prompts.markup import Markup, Segment, Tagged
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question and its closed set of answers.

    Tasks of a surface that name no words of their own share one question, answered by the surface's
    action words: a leaf reads like the history, and every task reads its own split of the answers.

    Attributes:
        surface: Where the item is shown.
        word: Words in front of the item.
        answers: Answer words, in a fixed order.
        answer_of: Answer index of each action; actions absent here give no training target.
    """

    surface: str
    word: str
    answers: tuple[str, ...]
    answer_of: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a task reads a question: which answers say yes and which say no."""

    task: str
    question: int
    positive: tuple[int, ...]
    negative: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class QuestionBook:
    """All questions of a run and how each task reads them."""

    questions: tuple[Question, ...]
    readings: dict[str, Reading]

    def on(self, surface: str) -> list[int]:
        """Questions asked about items of a surface."""
        return [i for i, q in enumerate(self.questions) if q.surface == surface]

    def log_odds(self, task: str, logits_NA: np.ndarray) -> np.ndarray:
        """Log-odds of yes against no from answer logits of the task's question, float32.

        Args:
            task: Task name.
            logits_NA: Logits of the question's answers, one row a leaf, padded columns allowed.
        """
        reading = self.readings[task]
        logits = logits_NA.astype(np.float64)
        yes = np.logaddexp.reduce(logits[:, list(reading.positive)], axis=1)
        no = np.logaddexp.reduce(logits[:, list(reading.negative)], axis=1)
        return (yes - no).astype(np.float32)


def build_questions(domain: Domain, suite: Suite) -> QuestionBook:
    """Collect the questions of a suite; tasks that read the same words share one."""
    questions: list[Question] = []
    readings: dict[str, Reading] = {}
    index: dict[tuple[str, str, tuple[str, ...]], int] = {}
    for task in suite.tasks:
        question, positive, negative = _question(domain, task)
        key = (question.surface, question.word, question.answers)
        if key not in index:
            index[key] = len(questions)
            questions.append(question)
        readings[task.name] = Reading(
            task=task.name, question=index[key], positive=positive, negative=negative
        )
    return QuestionBook(questions=tuple(questions), readings=readings)


def _question(domain: Domain, task: Task) -> tuple[Question, tuple[int, ...], tuple[int, ...]]:
    surface = domain.surfaces[task.surface]
    word = task.question or surface.word
    if task.answers is not None:
        answer_of = dict.fromkeys(task.positive, 0) | dict.fromkeys(task.negative, 1)
        question = Question(
            surface=task.surface, word=word, answers=task.answers, answer_of=answer_of
        )
        return question, (0,), (1,)
    answers = tuple(domain.actions[a].word for a in surface.actions)
    answer_of = {action: i for i, action in enumerate(surface.actions)}
    question = Question(surface=task.surface, word=word, answers=answers, answer_of=answer_of)
    return (
        question,
        tuple(answer_of[a] for a in task.positive),
        tuple(answer_of[a] for a in task.negative),
    )


def check_answer_words(book: QuestionBook) -> None:
    """Check answer words without a tokenizer: the first word of each must be its own.

    A tokenizer may still split two different words alike; `answer_tokens` has the last word.

    Raises:
        PromptError: Two answers of a question begin with the same word.
    """
    words: dict[str, int] = {}

    def encode(segment: Segment) -> list[int]:
        first = segment.text.strip(" <>").split()[:1]
        return [words.setdefault(first[0], len(words))] if first else []

    answer_tokens(book, Tagged(), encode)


def answer_tokens(
    book: QuestionBook, markup: Markup, encode: Callable[[Segment], Sequence[int]]
) -> list[list[int]]:
    """First token of every answer of every question.

    Raises:
        PromptError: Two answers of a question share their first token, so no logit tells them
            apart.
    """
    table = []
    for question in book.questions:
        firsts: dict[int, str] = {}
        row = []
        for word in question.answers:
            ids = encode(markup.answer(word))
            if not len(ids):
                msg = (
                    f"question on {question.surface}: answer '{word}' has no tokens; choose a word"
                )
                raise PromptError(msg)
            first = int(ids[0])
            if first in firsts:
                readers = [
                    r.task for r in book.readings.values() if book.questions[r.question] is question
                ]
                msg = (
                    f"task {', '.join(readers)}: answers '{firsts[first]}' and '{word}' share "
                    f"their first token {first}; choose words that differ in the first token"
                )
                raise PromptError(msg)
            firsts[first] = word
            row.append(first)
        table.append(row)
    return table
