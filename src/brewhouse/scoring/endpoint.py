"""Scores leaves through a server of the exported checkpoint: the contract of a serving hand-over.

The server is any that speaks OpenAI's completions with vLLM's additions (`allowed_token_ids`,
`return_tokens_as_token_ids`). One token is asked for, among the answers of the question alone; its
log-probabilities differ from the answers' logits by one number a prompt, which log-odds do not see.
A server with prefix caching computes a trunk once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from brewhouse.errors import ModelError
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.tree import TokenTree
from brewhouse.scoring.scorer import LeafScores

TOKEN = "BREWHOUSE_ENDPOINT_TOKEN"
PROMPTS_AT_ONCE = 64
RETRIES = 4
SECONDS = 120.0
_MARK = "token_id:"


class EndpointScorer:
    """Scores prompt trees as `Scorer` does, by asking a server."""

    def __init__(
        self, url: str, *, model: str, answers: Sequence[Sequence[int]], book: QuestionBook
    ) -> None:
        """Take an address; nothing is asked yet.

        Args:
            url: Up to and with `/v1`, such as `http://ranker.svc/openai/v1`.
            model: Name that the server gives the model.
            answers: Tokens of the answers of every question.
            book: Questions and readings.
        """
        import httpx

        token = os.environ.get(TOKEN, "")
        self.url, self.model, self.answers, self.book = url.rstrip("/"), model, answers, book
        self._client = httpx.Client(
            timeout=SECONDS,
            transport=httpx.HTTPTransport(retries=RETRIES),
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def score(self, trees: Sequence[TokenTree]) -> LeafScores:
        """Score all leaves of all trees; results are in the order of trees and leaves.

        Returns:
            Log-probabilities among the answers of each question in place of their logits; `tokens`
            counts prompts whole, for what the server cached is not known here.

        Raises:
            ModelError: The server cannot be reached, refuses, or leaves out an answer.
        """
        leaves = [tree.single(n) for tree in trees for n in range(len(tree.row_N))]
        question_N = np.array([int(leaf.question_N[0]) for leaf in leaves], np.int64)
        widest = max(len(answers) for answers in self.answers)
        logits_NA = np.full((len(leaves), widest), -np.inf, np.float32)
        order = np.argsort(question_N, kind="stable").tolist()
        for question, group in groupby(order, key=lambda n: int(question_N[n])):
            for places in _cut(list(group), PROMPTS_AT_ONCE):
                prompts = [leaves[n].tokens_T.tolist() for n in places]
                found = self._ask(prompts, list(self.answers[question]))
                logits_NA[places, : found.shape[1]] = found
        return LeafScores(
            rows_N=np.array([leaf.row_N[0] for leaf in leaves], dtype=object),
            question_N=question_N,
            logits_NA=logits_NA,
            tokens=sum(len(leaf) for leaf in leaves),
        )

    def _ask(self, prompts: list[list[int]], answers: list[int]) -> np.ndarray:
        import httpx

        sent = {
            "model": self.model,
            "prompt": prompts,
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": len(answers),
            "allowed_token_ids": answers,
            "return_tokens_as_token_ids": True,
            "add_special_tokens": False,
        }
        try:
            answer = self._client.post(f"{self.url}/completions", json=sent)
        except httpx.HTTPError as error:
            msg = f"{self.url} does not answer: {error}; is the server up, and the address right?"
            raise ModelError(msg) from error
        if answer.status_code != 200:
            msg = f"{self.url} refused with {answer.status_code}: {answer.text[:300]}"
            raise ModelError(msg)
        try:
            choices = sorted(answer.json()["choices"], key=lambda choice: choice["index"])
            told = [choice["logprobs"]["top_logprobs"][0] for choice in choices]
        except (ValueError, LookupError, TypeError) as error:
            msg = f"{self.url} sent no log-probabilities: {answer.text[:300]}"
            raise ModelError(msg) from error
        if len(told) != len(prompts):
            msg = f"{self.url} answered {len(told)} of {len(prompts)} prompts"
            raise ModelError(msg)
        return np.array([self._row(one, answers) for one in told], np.float32)

    def _row(self, told: dict[str, float], answers: list[int]) -> list[float]:
        row = [told.get(f"{_MARK}{answer}") for answer in answers]
        values = [value for value in row if value is not None and np.isfinite(value)]
        if len(values) != len(answers):
            msg = (
                f"{self.url} told {len(values)} of {len(answers)} answers ({list(told)[:3]} ...); "
                "start it with --logprobs-mode=processed_logprobs and --max-logprobs of at least "
                f"{max(len(a) for a in self.answers)}"
            )
            raise ModelError(msg)
        return values


def _cut(places: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
