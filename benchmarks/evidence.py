"""(e) What evidence is worth: coverage of intervals, wrong and right verdicts, a million rows.

Worlds of known truth, judged as the product judges. Peers are what one would write in an
afternoon: DeLong's interval by rows (which takes a member's rows for independent), a gate that
compares two point estimates with the margin, and a bootstrap that calls scikit-learn once a draw.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from brewhouse.domains.loader import load_domain
from brewhouse.evaluation import metrics
from brewhouse.evaluation.judge import TaskRows, judge_task
from brewhouse.evaluation.resampling import Ranking, interval, resample
from brewhouse.evaluation.results import Results
from brewhouse.evaluation.uncertainty import delong
from brewhouse.gates.outcome import Outcome
from brewhouse.gates.policy import Policy
from brewhouse.gates.verdict import decide
from brewhouse.tasks.spec import Task
from brewhouse.tasks.suite import load_suite

WORLDS = 400
CANDIDATES = 300
MARGIN = 0.02
ROWS = 1_000_000
_95 = norm.ppf(0.975)


@dataclass(frozen=True, kw_only=True)
class World:
    """Rows of members who differ: labels, two correlated scores, codes of members."""

    y: np.ndarray
    one: np.ndarray
    two: np.ndarray
    member: np.ndarray


def world(rng: np.random.Generator, members: int, per: int, *, gap: float = 0.0) -> World:
    """A world whose second score is worse by `gap` standard deviations of the labels' shift."""
    member = np.repeat(np.arange(members), per)
    own = rng.normal(0, 0.7, members)[member]
    y = (rng.random(len(member)) < metrics.sigmoid(-1 + own)).astype(float)
    shared = rng.normal(0, 1, len(y)) + 0.4 * own
    one = 0.9 * y + shared + rng.normal(0, 0.5, len(y))
    two = (0.9 - gap) * y + shared + rng.normal(0, 0.5, len(y))
    return World(y=y, one=one, two=two, member=member)


@cache
def _task() -> Task:
    return load_suite(load_domain("linkedin")).tasks[0]


def coverage(worlds: int = WORLDS, *, members: int = 150, per: int = 4) -> dict[str, float]:
    """Share of worlds whose 95 % interval holds the truth: AUC, paired difference, and by rows."""
    whole = world(np.random.default_rng(99), 800_000 // per, per, gap=0.2)
    auc = metrics.auc(whole.y, whole.one)
    truth = np.array([auc, auc - metrics.auc(whole.y, whole.two)])
    hits = dict.fromkeys(("auc", "difference", "auc by rows", "difference by rows"), 0)
    for trial in range(worlds):
        w = world(np.random.default_rng([7, trial]), members, per, gap=0.2)
        rankings = [Ranking.of(w.y, s, w.member) for s in (w.one, w.two)]
        drawn, _ = resample(rankings, [], members=members, resamples=600, seed=trial)
        for name, true, values in zip(hits, truth, (drawn[0], drawn[0] - drawn[1]), strict=False):
            low, high = interval(values)
            hits[name] += low <= true <= high
        by_rows = (delong(w.y, w.one), delong(w.y, w.one, w.two))
        for name, true, (value, error) in zip(list(hits)[2:], truth, by_rows, strict=True):
            hits[name] += abs(value - true) <= _95 * error
    return {name: count / worlds for name, count in hits.items()}


def judged_results(gap: float, *, seed: int, members: int = 400, per: int = 6) -> Results:
    """Results of a candidate that is worse than production by `gap` of AUC, on one task."""
    rng = np.random.default_rng([11, seed])
    member = np.repeat(np.arange(members), per)
    own = rng.normal(0, 0.5, members)[member]
    y = (rng.random(len(member)) < 1 / (1 + np.exp(1 - own))).astype(int)
    # The AUC of normal scores a distance d apart is Phi(d / sqrt 2).
    ahead, behind = (np.sqrt(2) * norm.ppf(auc) for auc in (0.75, 0.75 - gap))
    noise, own_noise = rng.normal(0, 1, len(y)), rng.normal(0, 1, (2, len(y)))
    rho = 0.9
    scores = {
        name: d * y + rho**0.5 * noise + (1 - rho) ** 0.5 * e
        for name, d, e in (("lightgbm", ahead, own_noise[0]), ("ranker", behind, own_noise[1]))
    }
    rows = TaskRows(ids=np.arange(len(y)), y=y, member=member, scores=scores)
    judged = judge_task(
        _task(),
        rows,
        horizon_weeks=0,
        members=members,
        resamples=300,
        seed=seed,
    )
    return Results(
        domain="d",
        domain_version=1,
        production="lightgbm",
        snapshot="sha256:0",
        model={"digest": "sha256:1"},
        split={"gap_days": 2},
        seed=seed,
        resamples=300,
        draws_digest="sha256:d",
        code="0",
        tasks=[judged],
        checks=[],
        cost={},
        proofs=[],
        notes=[],
    )


def candidate(gap: float, *, seed: int, **size: int) -> tuple[Outcome, bool]:
    """What becomes of such a candidate.

    Returns:
        The gate's outcome, and whether the point estimate alone lies within the margin.
    """
    results = judged_results(gap, seed=seed, **size)
    rule = {"kind": "non_inferior", "to": "production", "margin": MARGIN}
    policy = Policy.model_validate({"name": "p", "version": 1, "rules": [rule]})
    difference = results.tasks[0].difference["lightgbm"]["auc"].value
    return decide(policy, results).outcome, difference is not None and difference > -MARGIN


def passing(gap: float, candidates: int = CANDIDATES, **size: int) -> tuple[float, float]:
    """Share of candidates worse by `gap` that pass: by the gate, by the point estimate alone."""
    found = [candidate(gap, seed=seed, **size) for seed in range(candidates)]
    gate = sum(outcome is Outcome.PASS for outcome, _ in found)
    return gate / candidates, sum(naive for _, naive in found) / candidates


def million(rows: int = ROWS) -> dict[str, Any]:
    """Judge a task of many rows with two scorers and five slice dimensions."""
    task = (
        load_suite(load_domain("linkedin"))
        .tasks[0]
        .model_copy(update={"slices": ("history", "item_age", "popularity", "tenure", "region")})
    )
    rng = np.random.default_rng(3)
    w = world(rng, rows // 20, 20)
    facets = {
        "history": rng.integers(0, 200, rows),
        "item_age": rng.exponential(20, rows),
        "popularity": rng.random(rows),
        "tenure": rng.exponential(400, rows),
        "region": rng.choice(np.array(["a", "b", "c", "d"]), rows),
    }
    given = TaskRows(
        ids=np.arange(rows),
        y=w.y.astype(np.int64),
        member=w.member,
        scores={"ranker": w.one, "lightgbm": w.two},
        facets=facets,
    )
    started = time.perf_counter()
    judge_task(task, given, horizon_weeks=0, members=rows // 20, resamples=1000, seed=0)
    ours = time.perf_counter() - started
    draws, started = 3, time.perf_counter()
    for _ in range(draws):
        count = np.bincount(rng.integers(0, rows // 20, rows // 20), minlength=rows // 20)
        for score in (w.one, w.two):
            roc_auc_score(w.y, score, sample_weight=count[w.member])
    return {"ours": ours, "a draw of AUCs": (time.perf_counter() - started) / draws}


def run() -> Iterable[Any]:
    """Measure all three."""
    import common

    found = coverage()
    for name in ("auc", "difference"):
        ours, peer = found[name], found[f"{name} by rows"]
        yield common.result(
            f"coverage of 95 % intervals, {name}",
            ours=ours,
            peer=peer,
            unit="of worlds",
            against="DeLong by rows",
            worlds=WORLDS,
            members=150,
            rows_a_member=4,
        )
    for gap, members in ((MARGIN, 400), (0.0, 400), (0.0, 200), (0.0, 100)):
        ours, peer = passing(gap, members=members)
        yield common.result(
            f"passes, AUC worse by {gap:g}, {members} members",
            ours=ours,
            peer=peer,
            unit="of candidates",
            against="point estimate above the margin",
            margin=MARGIN,
            candidates=CANDIDATES,
            rows_a_member=6,
        )
    spent, peak = common.in_own_process(million)
    yield common.result(
        "a million rows judged, resamples of two AUCs",
        ours=1000 / spent["ours"],
        peer=1 / spent["a draw of AUCs"],
        unit="draws/s",
        against="scikit-learn, a call a draw",
        seconds=round(spent["ours"], 1),
        peak_mib=round(peak),
        also="all other metrics and five slice dimensions on our side only",
    )
