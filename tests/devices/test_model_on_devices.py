"""The model on every device: scores and gradients are those of the plain way on CPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from brewhouse.model.batch import collate
from brewhouse.model.build import build_decoder
from brewhouse.model.plan import BACKENDS, Backend, default_backend
from brewhouse.model.ranker import Ranker
from brewhouse.prompts.questions import QuestionBook
from brewhouse.scoring.scorer import Scorer, parity
from brewhouse.training.setup import move_buffers
from tests.devices.trees import VOCABULARY, tree

ANSWERS = [[5, 6, 7], [8, 9]]
DEVICES = ("cpu", pytest.param("cuda", marks=pytest.mark.gpu))
SIZES = ("micro", "tiny", "small")
"""Heads of 8 (too narrow for FlexAttention), 16 and 32."""

on_devices = pytest.mark.parametrize("device", DEVICES)


@pytest.fixture(autouse=True)
def _fresh_kernels() -> Iterator[None]:
    """What one test compiled does not count against another's limit."""
    yield
    torch.compiler.reset()


# Rows of different lengths, below and beyond a block of 128, so that kernels meet new shapes.
ROWS = (
    [tree(1, 40, 4)],
    [tree(2, 300, 20), tree(3, 7, 3)],
    [tree(4, 129, 9), tree(5, 128, 1), tree(6, 1, 5)],
)


def ranker(size: str, device: str) -> Ranker:
    made = build_decoder(size, vocab_size=VOCABULARY, begin=1, pad=0, seed=3)
    return Ranker(made, ANSWERS).to(device)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    finite = torch.isfinite(other)
    assert torch.equal(torch.isfinite(one), finite)
    return float((one - other)[finite].abs().max())


def backends(device: str, made: Ranker) -> list[Backend]:
    """Those that the device has kernels for."""
    wide = default_backend("cuda", made.head_dim) == "flex"
    return [b for b in BACKENDS if b != "flex" or device == "cpu" or wide]


@on_devices
@pytest.mark.parametrize("size", SIZES)
def test_scores_are_those_of_the_reference(device: str, size: str) -> None:
    reference, made = ranker(size, "cpu"), ranker(size, device)
    with torch.no_grad():
        for row in ROWS:
            asked = reference(collate(row, backend="dense"))[0]
            for backend in backends(device, made):
                found = made(collate(row, backend=backend).to(device))[0]
                assert apart(found.cpu(), asked) < 1e-4, backend


def gradient(made: Ranker, row: Any) -> torch.Tensor:
    made.zero_grad()
    made(row, "answers")[0].backward()
    parameters = (p for p in made.parameters() if p.requires_grad)
    flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    return torch.cat([p.flatten().cpu() for p in flat])


@on_devices
@pytest.mark.parametrize("size", SIZES)
def test_gradients_are_those_of_the_reference(device: str, size: str) -> None:
    reference, made = ranker(size, "cpu"), ranker(size, device)
    for row in ROWS[:1] if size == "small" else ROWS[:2]:
        asked = gradient(reference, collate(row, backend="dense"))
        for backend in backends(device, made):
            if (device, backend) == ("cpu", "flex"):
                continue  # PyTorch has no backward pass of it on CPUs.
            found = gradient(made, collate(row, backend=backend).to(device))
            assert float((found - asked).norm() / asked.norm()) < 1e-4, backend


@on_devices
def test_half_precision_stays_near(device: str) -> None:
    reference, made = ranker("small", "cpu"), ranker("small", device)
    for parameter in made.parameters():  # Buffers keep float32, as in training.
        parameter.data = parameter.data.bfloat16()
    with torch.no_grad():
        asked = reference(collate(ROWS[1], backend="dense"))[0]
        for backend in backends(device, made):
            found = made(collate(ROWS[1], backend=backend).to(device))[0]
            # Now and then a token near the border goes to another expert; most change little.
            off = (found.cpu() - asked)[torch.isfinite(asked)].abs()
            assert float(off.median()) < 0.05, backend
            assert float(off.mean()) < 0.15, backend


@pytest.fixture(params=DEVICES)
def scorer(request: pytest.FixtureRequest) -> Callable[[str], Scorer]:
    book = QuestionBook(questions=(), readings={})
    # Trees are tokens already: nothing asks for a tokenizer.
    return lambda size: Scorer(ranker(size, request.param), None, book)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIZES)
def test_a_leaf_scores_as_a_prompt_of_its_own(size: str, scorer: Callable[[str], Scorer]) -> None:
    assert parity(scorer(size), ROWS[1]) < 1e-4


def test_a_kept_trunk_answers_like_a_whole_tree(scorer: Callable[[str], Scorer]) -> None:
    made = scorer("small")
    whole = made.score(ROWS[1], batch_tokens=10_000).logits_NA
    parts = made.score(ROWS[1], batch_tokens=31).logits_NA
    assert apart(torch.from_numpy(parts), torch.from_numpy(whole)) < 1e-4


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_backend_follows_device_and_heads(device: str) -> None:
    assert default_backend(device, 8) == "split"
    assert default_backend(device, 16) == ("flex" if device == "cuda" else "split")


def test_a_ranker_keeps_its_answers_beside_its_decoder() -> None:
    shapes = build_decoder("micro", vocab_size=VOCABULARY, begin=1, pad=0, seed=3, empty=True)
    assert {b.device.type for b in Ranker(shapes, ANSWERS).buffers(recurse=False)} == {"meta"}


def test_buffers_are_moved_and_parameters_left() -> None:
    made = ranker("micro", "cpu")
    move_buffers(made, "meta")
    assert {b.device.type for b in made.buffers()} == {"meta"}
    assert {p.device.type for p in made.parameters()} == {"cpu"}
