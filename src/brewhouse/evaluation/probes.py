"""Judges probes: the same rows scored from prompts that were changed on purpose.

Suffixes: R resamples, M members, N rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from brewhouse.evaluation.resampling import Ranking, interval, resample
from brewhouse.evaluation.results import Estimate, PeerResult, ProbeResult


@dataclass(frozen=True, kw_only=True)
class ProbeRows:
    """Rows of one task, scored from the ordinary prompt and from changed ones.

    Attributes:
        task: Name.
        y: 0 or 1.
        member: Member codes, common to all tasks.
        ordinary: Log-odds from the ordinary prompt.
        changed: Log-odds by probe.
        peers: Log-odds of baselines by probe and name, where they were asked with as little known.
    """

    task: str
    y: np.ndarray
    member: np.ndarray
    ordinary: np.ndarray
    changed: Mapping[str, np.ndarray]
    peers: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)


def judge_probes(
    tasks: Sequence[ProbeRows],
    *,
    kind: Literal["history", "style"],
    resamples: int,
    seed: int,
) -> list[ProbeResult]:
    """Mean AUC over tasks of each probe, and what the ordinary prompt has over it.

    Tasks with one class only are left out. Intervals come from one resampling of members for all
    tasks, so that they account for a member's rows in several tasks.
    """
    usable = [t for t in tasks if 0 < t.y.sum() < len(t.y)]
    if not usable:
        return []
    members = 1 + max(int(t.member.max()) for t in usable)

    def aucs(scores: Sequence[np.ndarray]) -> np.ndarray:
        """AUC by task and resample; the first is that of the rows as they are."""
        rankings = [Ranking.of(t.y, s, t.member) for t, s in zip(usable, scores, strict=True)]
        whole = np.array([r.aucs(np.ones((1, members), np.uint16))[0] for r in rankings])
        drawn, _ = resample(rankings, [], members=members, resamples=resamples, seed=seed)
        return np.column_stack([whole, drawn])

    base = aucs([t.ordinary for t in usable])
    found = []
    for name in usable[0].changed:
        changed = aucs([t.changed[name] for t in usable])
        # Only a baseline that was asked every task compares.
        peers = [
            n
            for n in usable[0].peers.get(name, {})
            if all(n in t.peers.get(name, {}) for t in usable)
        ]
        found.append(
            ProbeResult(
                name=name,
                kind=kind,
                tasks=len(usable),
                rows=sum(len(t.y) for t in usable),
                auc=float(np.nanmean(changed[:, 0])),
                ordinary_auc=float(np.nanmean(base[:, 0])),
                cost=_gain(base, changed),
                by_task={t.task: float(v) for t, v in zip(usable, changed[:, 0], strict=True)},
                ordinary_by_task={
                    t.task: float(v) for t, v in zip(usable, base[:, 0], strict=True)
                },
                peers={n: _peer(changed, aucs([t.peers[name][n] for t in usable])) for n in peers},
            )
        )
    return found


def _peer(ours: np.ndarray, theirs: np.ndarray) -> PeerResult:
    return PeerResult(auc=float(np.nanmean(theirs[:, 0])), lead=_gain(ours, theirs))


def _gain(one: np.ndarray, other: np.ndarray) -> Estimate:
    """Difference of mean AUCs over tasks; both are by task and resample, the whole first."""
    difference = np.nanmean(one - other, axis=0)
    low, high = interval(difference[1:])
    return Estimate(value=float(difference[0]), low=float(low), high=float(high))


def share_rising(probes: Sequence[ProbeResult], order: Sequence[str]) -> tuple[float, int] | None:
    """Share of tasks whose AUC rises with the history told, and the number of tasks.

    Args:
        probes: Results of history probes.
        order: Probes from no history to the longest cut; the ordinary prompt comes last.

    Returns:
        None unless all of `order` were probed. A task rises when the least-squares line of its AUC
        over the steps of `order` goes up.
    """
    by_name = {p.name: p for p in probes}
    if not order or any(name not in by_name for name in order):
        return None
    first = by_name[order[0]]
    rising = [
        np.polyfit(
            np.arange(len(order) + 1),
            [*(by_name[name].by_task[task] for name in order), full],
            deg=1,
        )[0]
        > 0
        for task, full in first.ordinary_by_task.items()
    ]
    return float(np.mean(rising)), len(rising)
