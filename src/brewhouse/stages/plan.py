"""What a run is told by default, by preset or by size of the data."""

from __future__ import annotations

from typing import Any

_LR = 4e-3


def budget(*, cpt: int, finetune: int, batch_tokens: int = 4096, **more: Any) -> dict[str, Any]:
    """Training options for two stages with token budgets."""
    return {
        "batch_tokens": batch_tokens,
        "stages": [
            {"name": "cpt", "shards": "cpt", "loss": "tokens", "tokens": cpt, "lr": _LR},
            {
                "name": "finetune",
                "shards": "train",
                "loss": "answers",
                "tokens": finetune,
                "lr": _LR,
            },
        ],
        **more,
    }


PLANS: dict[str, dict[str, Any]] = {
    "tiny": {
        "train_options": budget(
            cpt=20_000, finetune=60_000, batch_tokens=2048, model="micro", checkpoint_steps=10
        ),
        "max_test_sessions": 400,
        "policy": "smoke",
    },
    "demo": {"train_options": budget(cpt=400_000, finetune=6_000_000), "max_test_sessions": 6_000},
    "bench": {
        "train_options": budget(cpt=5_000_000, finetune=100_000_000),
        "max_test_sessions": 20_000,
    },
    "": {"train_options": budget(cpt=400_000, finetune=4_000_000), "max_test_sessions": 20_000},
}
"""By preset; the empty name is for a source folder."""


def plan(preset: str, *, size: str | None, train_tokens: int | None) -> dict[str, Any]:
    """Pipeline arguments of a preset, with the user's overrides."""
    found = PLANS.get(preset, PLANS[""])
    options = {**found["train_options"]}
    options["stages"] = [dict(stage) for stage in options["stages"]]
    if train_tokens is not None:
        options["stages"][0]["tokens"] = max(1, train_tokens // 15)
        options["stages"][1]["tokens"] = train_tokens
    if size is not None:
        options["model"] = size
    return {
        "train_options": options,
        "model": options.get("model", "tiny"),
        "max_test_sessions": found["max_test_sessions"],
        "policy": found.get("policy", "default"),
    }
