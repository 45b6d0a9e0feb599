"""Twins: members who know of themselves only the newest few of their interactions.

How does a model do on members with fewer than five interactions? Real ones are few in any log, and
differ from others in more than that. So a request is asked a second time, of a twin of its member
whose history is the newest few events that were known at that moment. All that counts history sees
the twin as a member of its own. Suffixes: _R requests, _E events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from brewhouse.data.timelines import Log, Timelines

_COLUMNS = ("item", "surface", "action", "session", "shown_at", "event_at", "created_at", "weight")


@dataclass(frozen=True, kw_only=True)
class Twins:
    """A log with twins behind its own rows.

    Attributes:
        log: All rows of the log as they were, then the twins' events and questions.
        asked: Rows of `log` that are questions to twins.
        original: The row of each that it repeats.
        member_ids: For each member code, twins included, whose profile it has.
    """

    log: Log
    asked: np.ndarray
    original: np.ndarray
    member_ids: np.ndarray


def with_twins(timelines: Timelines, *, keep: int) -> Twins:
    """Add a twin for each request of some targets.

    Args:
        timelines: Targets to ask twins, with what was known at their moments.
        keep: Events that a twin knows at most.
    """
    log = timelines.log
    queries = np.arange(len(timelines.targets_Q))
    whom = log.member[timelines.targets_Q]
    queries = queries[np.lexsort((*timelines.request_keys(queries), whom))]
    target = timelines.targets_Q[queries]
    session = log.member * (int(log.session.max(initial=0)) + 1) + log.session
    new = np.diff(session[target], prepend=-1) != 0
    first, request = queries[new], np.cumsum(new) - 1
    end_R = timelines.offsets[log.member[target[new]]] + timelines.branch_Q[first]
    known_R = np.minimum(timelines.branch_Q[first], keep)
    events = [timelines.events_E[e - k : e] for e, k in zip(end_R, known_R, strict=True)]
    # The whole session comes along, for a request begins with its first row.
    rest = np.flatnonzero(np.isin(session, session[target]) & ~np.isin(np.arange(len(log)), target))
    of_session = dict(zip(session[target].tolist(), request.tolist(), strict=True))
    shown = np.array([of_session[key] for key in session[rest].tolist()], np.int64)
    copied = np.concatenate([*events, target, rest]).astype(np.int64)
    members, past = len(log.member_ids), int(known_R.sum())
    twin = members + np.concatenate([np.repeat(np.arange(len(first)), known_R), request, shown])
    # What is asked is no evidence: neither for the twin nor for what anybody did with the item.
    logged = np.concatenate([log.logged[copied[:past]], np.zeros(len(copied) - past, bool)])
    ids = np.array([f"{i}~{t}" for i, t in zip(log.interaction_id[copied], twin, strict=True)])
    whose = log.member_ids[log.member[target[new]]]
    named = np.array([f"{m}~{n}" for n, m in enumerate(whose)], dtype=object)
    columns: dict[str, Any] = {
        c: np.concatenate([getattr(log, c), getattr(log, c)[copied]]) for c in _COLUMNS
    }
    grown = replace(
        log,
        interaction_id=np.concatenate([log.interaction_id, ids.astype(object)]),
        member=np.concatenate([log.member, twin]),
        logged=np.concatenate([log.logged, logged]),
        member_ids=np.concatenate([log.member_ids, named]),
        **columns,
    )
    return Twins(
        log=grown,
        asked=len(log) + past + np.arange(len(target)),
        original=target,
        member_ids=np.concatenate([log.member_ids, whose]),
    )
