"""The canary: a fact that only the future knows, planted to see whether any prompt tells it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from brewhouse.data.timelines import Log, session_starts
from brewhouse.prompts.evidence import ItemBook, ItemText
from brewhouse.prompts.tree import PromptTree

CANARY = "canarybird"


def plant(log: Log, *, positive: np.ndarray, action: int, lag_micros: int = 0) -> Log:
    """Add, for each positive row, an interaction that betrays it, known just too late.

    Three kinds in turn: at the very moment, inside the row's own session, and before the moment but
    logged after. A correct timeline shows none of them to the row's prompt.

    Args:
        log: The log of a shard.
        positive: Rows to betray.
        action: Code of the action that planted rows carry.
        lag_micros: Distance between a moment and its session.
    """
    rows = np.flatnonzero(positive)
    start = session_starts(log)[rows]
    if not len(rows):
        return log
    kind = np.arange(len(rows)) % 3
    moment = start - lag_micros
    event = np.select([kind == 0, kind == 1], [moment, start + 1], moment - 1)
    created = np.select([kind == 0, kind == 1], [moment, start + 1], moment + 3_600_000_000)

    def grown(values: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([values, more.astype(values.dtype)])

    first = len(log.item_ids)
    names = np.array([f"{CANARY}-{row}" for row in log.interaction_id[rows]], dtype=object)
    return replace(
        log,
        interaction_id=np.concatenate([log.interaction_id, names]),
        member=grown(log.member, log.member[rows]),
        item=grown(log.item, first + np.arange(len(rows))),
        surface=grown(log.surface, log.surface[rows]),
        action=grown(log.action, np.full(len(rows), action)),
        # Session-mates for the second kind, sessions of their own for the others.
        session=grown(
            log.session,
            np.where(
                kind == 1, log.session[rows], log.session.max(initial=0) + 1 + np.arange(len(rows))
            ),
        ),
        shown_at=grown(log.shown_at, event),
        event_at=grown(log.event_at, event),
        created_at=grown(log.created_at, created),
        logged=np.concatenate([log.logged, np.ones(len(rows), bool)]),
        weight=grown(log.weight, np.ones(len(rows))),
        item_ids=np.concatenate([log.item_ids, names]),
    )


class CanaryBook(ItemBook):
    """An item book in which every canary tells its own name."""

    def __init__(self, book: ItemBook) -> None:
        """Wrap a book."""
        self._book = book

    def at(self, item: str, moment: int) -> ItemText:
        """The canary's name, or what the wrapped book tells."""
        return ItemText(item, item, 0) if item.startswith(CANARY) else self._book.at(item, moment)


def sightings(trees: Iterable[PromptTree]) -> dict[str, float]:
    """Whether each asked row's prompt tells that row's own canary: 1.0 or 0.0 by row id."""
    seen = {}
    for tree in trees:
        for index, leaf in enumerate(tree.leaves):
            seen[leaf.row] = float(f"{CANARY}-{leaf.row}" in tree.prompt(index))
    return seen
