"""Waiting for a cluster, which does things in its own time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_PATIENCE = 20
"""Looks that may fail one after another: an API server that is busy answers again."""


def wait_for(
    look: Callable[[], Any], done: Callable[[Any], bool], what: str, seconds: float = 600
) -> Any:
    """What is seen once it is as wanted."""
    deadline = time.monotonic() + seconds
    while not done(found := look()):
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(0.5)
    return found


@contextmanager
def kept(look: Callable[[], None], every_s: float, what: str) -> Iterator[None]:
    """Look again and again, in a thread, for as long as the block lasts.

    Raises:
        AssertionError: It kept failing.
    """
    stopped = threading.Event()
    faults: list[Exception] = []

    def keep() -> None:
        while len(faults) < _PATIENCE and not stopped.wait(every_s):
            try:
                look()
                faults.clear()
            except Exception as fault:  # noqa: BLE001 - told when the block ends
                faults.append(fault)

    thread = threading.Thread(target=keep)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
    assert len(faults) < _PATIENCE, f"{what}: {faults[-1]!r}"
