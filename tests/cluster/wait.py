"""Waiting for a cluster, which does things in its own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def wait_for(
    look: Callable[[], Any], done: Callable[[Any], bool], what: str, seconds: float = 600
) -> Any:
    """What is seen once it is as wanted."""
    deadline = time.monotonic() + seconds
    while not done(found := look()):
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(0.5)
    return found
