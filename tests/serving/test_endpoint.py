"""The contract with a server of the exported checkpoint.

The stand-in loads the export with transformers alone and answers as vLLM's completions do: log-
probabilities over the allowed tokens, named by id. It shows that checkpoint, prompts and contract
suffice to get our scores without our code; vLLM itself does not run on this machine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from brewhouse.errors import ModelError
from brewhouse.model.shipped import locate
from brewhouse.prompts.shards import read_trees, write_trees
from brewhouse.prompts.shards_manifest import ShardsManifest
from brewhouse.scoring.endpoint import EndpointScorer
from brewhouse.scoring.scorer import Scorer
from brewhouse.stages.scoring import ScoringPlan, score_folder

MODEL = Path(locate("linkedin-tiny"))


@dataclass
class Server:
    """A stand-in; tests change how it behaves."""

    url: str = ""
    mode: str = "processed"
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[str | None] = field(default_factory=list)


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Quiet."""

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            state.seen.append(body)
            state.headers.append(self.headers.get("authorization"))
            code, value = self._answer(body)
            content = json.dumps(value).encode()
            self.send_response(code)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, body: dict[str, Any]) -> tuple[int, Any]:
            if self.path != "/openai/v1/completions" or body["model"] != "ranker":
                return 404, {"error": "no such model"}
            if state.mode == "broken":
                return 500, {"error": "out of memory"}
            choices = [self._choice(n, ids, body) for n, ids in enumerate(body["prompt"])]
            if state.mode == "short":
                choices.pop()
            return 200, {"choices": choices[::-1]}

        def _choice(self, number: int, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0, -1].float()
            if state.mode != "raw":
                masked = torch.full_like(logits, -torch.inf)
                allowed = body["allowed_token_ids"]
                masked[allowed] = logits[allowed]
                logits = masked
            told = torch.log_softmax(logits, -1).topk(body["logprobs"])
            top = {
                f"token_id:{token}": value
                for token, value in zip(told.indices.tolist(), told.values.tolist(), strict=True)
            }
            return {"index": number, "logprobs": {"top_logprobs": [top]}}

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_port}/openai/v1"
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def server(running: Server) -> Server:
    running.mode = "processed"
    running.seen.clear()
    running.headers.clear()
    return running


@pytest.fixture(scope="module")
def trees(shards: Path) -> list[Any]:
    found = list(read_trees(shards / "train" / "shard-0000.parquet"))[:30]
    assert sum(len(tree.row_N) for tree in found) > 60
    return found


def _scorer(server: Server) -> EndpointScorer:
    manifest = ShardsManifest.read_file(MODEL / "prompts.json")
    return EndpointScorer(server.url, model="ranker", answers=manifest.answers, book=manifest.book)


def test_log_odds_are_those_of_the_scorer(server: Server, trees: list[Any]) -> None:
    here = Scorer.load(MODEL)
    ours, theirs = here.score(trees), _scorer(server).score(trees)
    assert ours.rows_N.tolist() == theirs.rows_N.tolist()
    np.testing.assert_array_equal(ours.question_N, theirs.question_N)
    compared = 0
    for task, reading in here.book.readings.items():
        own = ours.question_N == reading.question
        if own.any():
            difference = np.abs(
                here.book.log_odds(task, ours.logits_NA[own])
                - here.book.log_odds(task, theirs.logits_NA[own])
            )
            assert difference.max() < 1e-4, task
            compared += int(own.sum())
    assert compared >= len(ours)
    assert np.isfinite(theirs.logits_NA).sum() == np.isfinite(ours.logits_NA).sum()


def test_what_is_asked(server: Server, trees: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One token, among the answers of one question, many prompts at once, a token from a secret."""
    monkeypatch.setenv("BREWHOUSE_ENDPOINT_TOKEN", "s3cret")
    scorer = _scorer(server)
    leaves = scorer.score(trees)
    assert sum(len(body["prompt"]) for body in server.seen) == len(leaves)
    for body in server.seen:
        assert body["max_tokens"] == 1
        assert body["add_special_tokens"] is False
        assert len(body["prompt"]) <= 64
        assert body["allowed_token_ids"] in [list(row) for row in scorer.answers]
        assert body["logprobs"] == len(body["allowed_token_ids"])
    assert set(server.headers) == {"Bearer s3cret"}


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("raw", r"told \d of \d answers .*--logprobs-mode=processed_logprobs"),
        ("broken", "refused with 500: .*out of memory"),
        ("short", r"answered \d+ of \d+ prompts"),
    ],
)
def test_no_answer_is_left_out_in_silence(
    server: Server, trees: list[Any], mode: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BREWHOUSE_ENDPOINT_TOKEN", "s3cret")
    server.mode = mode
    with pytest.raises(ModelError, match=told) as caught:
        _scorer(server).score(trees)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_is_not_there_is_named(trees: list[Any]) -> None:
    scorer = _scorer(Server(url="http://127.0.0.1:9/v1"))
    with pytest.raises(ModelError, match="http://127.0.0.1:9/v1 does not answer"):
        scorer.score(trees[:1])


def test_shards_are_scored_through_a_server(
    server: Server, trees: list[Any], tmp_path: Path
) -> None:
    """The plan of evaluation and batch scoring takes an address."""
    write_trees(tmp_path / "test" / "shard-0000.parquet", trees)
    manifest = ShardsManifest.read_file(MODEL / "prompts.json")
    manifest.write(tmp_path)
    plan = ScoringPlan.of({"endpoint": server.url, "endpoint_model": "ranker"})
    there = score_folder(tmp_path, "test", MODEL, plan).leaves
    here = score_folder(tmp_path, "test", MODEL, ScoringPlan()).leaves
    assert there.rows_N.tolist() == here.rows_N.tolist()
    task = next(iter(manifest.book.readings))
    own = here.question_N == manifest.book.readings[task].question
    found = [manifest.book.log_odds(task, s.logits_NA[own]) for s in (there, here)]
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
