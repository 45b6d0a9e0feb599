"""What a run is told by default, by preset or by size of the data."""

from __future__ import annotations

from typing import Any

from brewhouse.model.shipped import shipped_models
from brewhouse.model.sizes import FROM_SCRATCH

BASE = "linkedin-tiny"
"""The shipped model that the demo starts from."""


def scratch(*, recall: int, trunks: int, tastes: int, finetune: int) -> list[dict[str, Any]]:
    """Stages of a model without a past: it must first learn to read histories at all.

    Args:
        recall: Tokens of made-up histories at most; they end when they are learned.
        trunks: Tokens of action words along trunks.
        tastes: Tokens of made-up members.
        finetune: Tokens of questions.
    """
    held: dict[str, Any] = {"loss": "actions", "decay": False}
    return [
        {"name": "recall", "primer": {}, "tokens": recall, "lr": 4e-3, **held},
        {"name": "trunks", "shards": "cpt", "tokens": trunks, "lr": 1e-3, **held},
        {"name": "tastes", "tastes": {}, "loss": "both", "tokens": tastes, "lr": 2e-3},
        _finetune(finetune, lr=1e-3),
    ]


def tune(*, finetune: int) -> list[dict[str, Any]]:
    """Stages of a model that can read histories already: questions alone.

    Every fifth tree is asked with little or no history, for newcomers.
    """
    return [_finetune(finetune, lr=1e-3) | {"history_dropout": 0.2}]


def _finetune(tokens: int, *, lr: float) -> dict[str, Any]:
    return {"name": "finetune", "shards": "train", "loss": "both", "tokens": tokens, "lr": lr}


PLANS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": "micro",
        "tokens": 60_000,
        "options": {"batch_tokens": 2048, "checkpoint_steps": 10},
        "max_test_sessions": 400,
        "policy": "smoke",
        "baselines": "popularity,item_mean,member_mean,lightgbm",
    },
    "demo": {
        "model": BASE,
        "tokens": 6_000_000,
        # Two ranks make steps of 4,096 tokens of it; twice as many learn less of so few.
        "tuning": {"batch_tokens": 2048},
        "max_test_sessions": 6_000,
    },
    "drift": {
        "model": BASE,
        "tokens": 1_500_000,
        "max_test_sessions": 3_000,
        "policy": "smoke",
        "baselines": "popularity,lightgbm",
    },
    "pretrain": {"model": "tiny", "tokens": 24_000_000, "max_test_sessions": 6_000},
    "bench": {"model": BASE, "tokens": 100_000_000, "max_test_sessions": 20_000},
    "": {"model": "mini", "tokens": 12_000_000, "max_test_sessions": 20_000},
}
"""By preset; the empty name is for a source folder. `tokens` is the budget of fine-tuning, `tuning`
holds options of a model that has learned already."""


def stages(model: str, tokens: int) -> list[dict[str, Any]]:
    """Training stages for a model and a budget of fine-tuning tokens."""
    if model in FROM_SCRATCH:
        recall = min(12_000_000, max(1, tokens))
        trunks = max(1, tokens // 6)
        return scratch(recall=recall, trunks=trunks, tastes=tokens, finetune=tokens)
    return tune(finetune=tokens)


def plan(preset: str, *, size: str | None, train_tokens: int | None) -> dict[str, Any]:
    """Pipeline arguments of a preset, with the user's overrides."""
    found = PLANS.get(preset, PLANS[""])
    model = size or found["model"]
    if model == BASE and BASE not in shipped_models():
        model = "tiny"
    options = {"model": model, "batch_tokens": 4096, **found.get("options", {})}
    if model not in FROM_SCRATCH:
        options |= found.get("tuning", {})
    options["stages"] = stages(model, train_tokens or found["tokens"])
    return {
        "train_options": options,
        "model": model,
        "max_test_sessions": found["max_test_sessions"],
        "policy": found.get("policy", "default"),
        "baselines": found.get("baselines", ""),
    }
