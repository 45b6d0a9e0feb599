"""Progress for people (a line on stderr) and for machines (metrics.jsonl)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO


class Progress:
    """Reports loss, tokens/s, targets/s and the time left; rank 0 only."""

    def __init__(self, path: Path, *, every_s: float = 5.0, stream: TextIO | None = None) -> None:
        """Append to a metrics file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        self._stream = stream or sys.stderr
        self._every = every_s
        self._since = time.monotonic()
        self._tokens = self._targets = 0
        self._losses: list[float] = []
        self._stage: tuple[str, float, float] = ("", 0.0, 0.0)

    def step(
        self,
        *,
        stage: str,
        step: int,
        share: float,
        loss: float,
        tokens: int,
        targets: int,
        lr: float,
        extra: Callable[[], dict[str, float]] = dict,
        last: bool = False,
    ) -> None:
        """Count a step; report when it is time, and at the last one.

        Args:
            stage: Name of the stage.
            step: Global step.
            share: Part of the stage's budget that is done, 0 to 1.
            loss: Loss of the step.
            tokens: Tokens of the step over all ranks.
            targets: Targets of the step over all ranks.
            lr: Learning rate.
            extra: Gives more values for the metrics file, called when it is time to report.
            last: Report whatever the time.
        """
        if self._stage[0] != stage:
            self._stage = (stage, time.monotonic(), share)
        self._losses.append(loss)
        self._tokens += tokens
        self._targets += targets
        now = time.monotonic()
        if now - self._since < self._every and not last:
            return
        elapsed = max(now - self._since, 1e-9)
        values: dict[str, Any] = {
            "stage": stage,
            "step": step,
            "share": round(min(share, 1.0), 4),
            "loss": round(sum(self._losses) / len(self._losses), 7),
            "tokens_per_s": round(self._tokens / elapsed, 1),
            "targets_per_s": round(self._targets / elapsed, 1),
            "lr": lr,
            **extra(),
        }
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()
        _, began, share_then = self._stage
        eta = (now - began) * max(0.0, 1 - share) / max(share - share_then, 1e-9)
        print(
            f"train {stage:>8} {values['share']:6.1%}  step {step:>6}  loss {values['loss']:.4f}  "
            f"{values['tokens_per_s']:>8,.0f} tokens/s  "
            f"{values['targets_per_s']:>7,.0f} targets/s  {eta:5.0f} s left",
            file=self._stream,
            flush=True,
        )
        self._since, self._tokens, self._targets, self._losses = now, 0, 0, []

    def close(self) -> None:
        """Close the metrics file."""
        self._file.close()
