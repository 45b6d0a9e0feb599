"""Applies a policy to results. Same inputs, same bytes: no clock, no chance, no hash order."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from brewhouse.domains.spec import Strict
from brewhouse.errors import GateError
from brewhouse.evaluation.results import Results, TaskResult
from brewhouse.files import sha256_json
from brewhouse.gates import policy as p


class Outcome(StrEnum):
    """What a rule, or the gate as a whole, found."""

    PASS = "PASS"  # an outcome, no secret
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


class RuleOutcome(Strict):
    """One rule and why it came out as it did."""

    rule: dict[str, Any]
    outcome: Outcome
    reason: str


class Verdict(Strict):
    """The gate's answer, and digests of what it was computed from."""

    schema_version: int = 1
    outcome: Outcome
    policy: str
    results_digest: str
    champion_digest: str | None
    rules: list[RuleOutcome]


def decide(policy: p.Policy, results: Results, champion: Results | None = None) -> Verdict:
    """Compute the verdict: FAIL if a rule fails, else INCONCLUSIVE if one is, else PASS."""
    outcomes = []
    for rule in policy.rules:
        outcome, reason = _apply(rule, results, champion)
        outcomes.append(
            RuleOutcome(rule=rule.model_dump(mode="json"), outcome=outcome, reason=reason)
        )
    found = {one.outcome for one in outcomes}
    overall = next((o for o in (Outcome.FAIL, Outcome.INCONCLUSIVE) if o in found), Outcome.PASS)
    return Verdict(
        outcome=overall,
        policy=f"{policy.name}@{policy.version}",
        results_digest=_digest(results),
        champion_digest=_digest(champion) if champion else None,
        rules=outcomes,
    )


def _digest(results: Results) -> str:
    return "sha256:" + sha256_json(results.model_dump(mode="json"))


def _apply(rule: Any, results: Results, champion: Results | None) -> tuple[Outcome, str]:
    match rule:
        case p.MeanFloor():
            return _mean_floor(rule, results)
        case p.MeanLift():
            return _mean_lift(rule, results)
        case p.Calibration():
            return _calibration(rule, results)
        case p.EnoughRows():
            return _enough_rows(rule, results)
        case p.CheckPassed():
            return _check(rule, results)
        case p.TiersProved():
            proofs = len(results.proofs)
            tasks = {task.name for task in results.tasks}
            if proofs < len(tasks):
                return Outcome.FAIL, f"{proofs} proofs for {len(tasks)} tasks"
            return Outcome.PASS, f"gap or absence proved for all {len(tasks)} tasks"
        case p.NonInferior():
            return _non_inferior(rule, results, champion)
    msg = f"rule kind {rule.kind} has no implementation"
    raise GateError(msg)


def _compare(value: float, limit: float, text: str) -> tuple[Outcome, str]:
    return (Outcome.PASS if value >= limit else Outcome.FAIL), text


def _mean_floor(rule: p.MeanFloor, results: Results) -> tuple[Outcome, str]:
    mean = results.mean_auc("ranker", rule.tier)
    if mean is None:
        return Outcome.INCONCLUSIVE, f"no {rule.tier or 'task'} with both classes"
    text = f"mean AUC {mean:.4f} over {rule.tier or 'all'} tasks, floor {rule.at_least:.4f}"
    return _compare(mean, rule.at_least, text)


def _mean_lift(rule: p.MeanLift, results: Results) -> tuple[Outcome, str]:
    gaps = [
        task.difference[rule.over].value
        for task in _tier(results, rule.tier)
        if rule.over in task.difference
    ]
    known = [g for g in gaps if g is not None]
    if not known:
        return Outcome.INCONCLUSIVE, f"no task has both the ranker and {rule.over}"
    mean = sum(known) / len(known)
    text = (
        f"mean AUC {mean:+.4f} against {rule.over} over {len(known)} tasks, "
        f"required {rule.at_least:+.4f}"
    )
    return _compare(mean, rule.at_least, text)


def _calibration(rule: p.Calibration, results: Results) -> tuple[Outcome, str]:
    values = [
        (task.scorers["ranker"].ece, task.name)
        for task in _tier(results, "T1")
        if not task.sampled_negatives and task.scorers["ranker"].ece is not None
    ]
    if not values:
        return Outcome.INCONCLUSIVE, "no T1 task with natural negatives"
    mean = sum(v for v, _ in values if v is not None) / len(values)
    worst = max((v or 0.0, n) for v, n in values)
    text = (
        f"mean ECE {mean:.4f} over {len(values)} tasks (worst {worst[0]:.4f}, {worst[1]}), "
        f"limit {rule.at_most:.4f}"
    )
    return (Outcome.PASS if mean <= rule.at_most else Outcome.FAIL), text


def _enough_rows(rule: p.EnoughRows, results: Results) -> tuple[Outcome, str]:
    tasks = _tier(results, rule.tier)
    short = [task for task in tasks if task.n < task.n_min]
    have = len(tasks) - len(short)
    needed = rule.share * len(tasks)
    if tasks and have >= needed:
        return Outcome.PASS, f"{have} of {len(tasks)} tasks have their minimum of rows"
    missing = ", ".join(f"{t.name} lacks {t.n_min - t.n}" for t in short[:5])
    return Outcome.INCONCLUSIVE, f"{have} of {len(tasks)} tasks have their rows; {missing}"


def _check(rule: p.CheckPassed, results: Results) -> tuple[Outcome, str]:
    for check in results.checks:
        if check.name == rule.name:
            outcome = Outcome.PASS if check.passed else Outcome.FAIL
            return outcome, f"{check.name}: {check.detail}"
    return Outcome.INCONCLUSIVE, f"check '{rule.name}' was not run"


def _non_inferior(
    rule: p.NonInferior, results: Results, champion: Results | None
) -> tuple[Outcome, str]:
    if champion is None:
        return Outcome.PASS, "no champion yet, nothing to fall behind"
    theirs = {
        (t.name, t.version, t.horizon_weeks): t.scorers["ranker"].auc.value for t in champion.tasks
    }
    gaps = []
    for task in results.tasks:
        ours = task.scorers["ranker"].auc.value
        other = theirs.get((task.name, task.version, task.horizon_weeks))
        if ours is not None and other is not None:
            gaps.append(ours - other)
    if not gaps:
        return Outcome.INCONCLUSIVE, "champion and candidate share no task version"
    mean = sum(gaps) / len(gaps)
    text = f"mean AUC {mean:+.4f} against the champion over {len(gaps)} tasks, margin {rule.margin}"
    return _compare(mean, -rule.margin, text)


def _tier(results: Results, tier: str | None) -> list[TaskResult]:
    return [task for task in results.tasks if tier is None or task.tier == tier]
