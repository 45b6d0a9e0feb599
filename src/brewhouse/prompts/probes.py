"""Probes of learning in context: the same requests with a history that was tampered with.

A ranker that reads its history loses when labels no longer belong to their items, and turns round
when they are flipped; one that only matches profile to item does not notice.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from brewhouse.domains.spec import Domain
from brewhouse.prompts.evidence import Past
from brewhouse.prompts.stream import Evidence

Distortion = Callable[[Evidence], Evidence]
NONE = "none"
COLD = 4
"""Events that a member knows at most where cold start is asked for."""
CUTS = (0, COLD, 20)
GROWING = tuple(f"newest_{events}" for events in CUTS)
"""Probes that tell no history, then a longer one each."""
NEWCOMER = "newcomer"
"""More requests told with the `COLD` newest events; baselines are asked them knowing as little."""


def distortions(domain: Domain) -> dict[str, Distortion]:
    """The probes of a domain, by name.

    `newest_K` tells only the K newest events (and all profile changes), `newcomer` the `COLD`
    newest. `shuffled_order` deals the events out anew over the times, `shuffled_labels` the actions
    over the events of the same surface. `flipped_labels` turns every action into `none` and every
    `none` into the action that is commonest in the history on that surface, or the surface's first.
    """
    actions = {name: surface.actions for name, surface in domain.surfaces.items()}
    return {
        **{name: partial(_newest, keep) for name, keep in zip(GROWING, CUTS, strict=True)},
        NEWCOMER: partial(_newest, COLD),
        "shuffled_order": _shuffled_order,
        "shuffled_labels": _shuffled_labels,
        "flipped_labels": lambda evidence: _flipped_labels(evidence, actions),
    }


def _newest(keep: int, evidence: Evidence) -> Evidence:
    places = _places(evidence)
    dropped = set(places[: len(places) - keep])
    return [entry for i, entry in enumerate(evidence) if i not in dropped]


def _rng(evidence: Evidence) -> np.random.Generator:
    """A generator that depends on the history alone, so that a probe repeats."""
    return np.random.default_rng(zlib.crc32(repr([e.rank for e in evidence]).encode()))


def _places(evidence: Evidence) -> list[int]:
    return [i for i, entry in enumerate(evidence) if isinstance(entry, Past)]


def _shuffled_order(evidence: Evidence) -> Evidence:
    told, places = list(evidence), _places(evidence)
    events = [entry for entry in evidence if isinstance(entry, Past)]
    for place, other in zip(places, _rng(evidence).permutation(len(events)), strict=True):
        here, moved = events[places.index(place)], events[other]
        # The item keeps its age: both of its times move alike.
        shift = here.at - moved.at
        told[place] = moved._replace(rank=here.rank, at=here.at, created=moved.created + shift)
    return told


def _shuffled_labels(evidence: Evidence) -> Evidence:
    told, rng = list(evidence), _rng(evidence)
    on: dict[str, list[int]] = {}
    for place in _places(evidence):
        on.setdefault(told[place].surface, []).append(place)  # type: ignore[union-attr]
    for places in on.values():
        dealt = rng.permutation([told[p].action for p in places])  # type: ignore[union-attr]
        for place, action in zip(places, dealt.tolist(), strict=True):
            told[place] = told[place]._replace(action=action)  # type: ignore[call-arg]
    return told


def _flipped_labels(evidence: Evidence, actions: Mapping[str, Sequence[str]]) -> Evidence:
    common: dict[str, str] = {}
    for surface, possible in actions.items():
        others = [a for a in possible if a != NONE]
        seen = [e.action for e in evidence if isinstance(e, Past) and e.surface == surface]
        common[surface] = max(others, key=seen.count)
    return [
        entry._replace(action=common[entry.surface] if entry.action == NONE else NONE)
        if isinstance(entry, Past)
        else entry
        for entry in evidence
    ]
