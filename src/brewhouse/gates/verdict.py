"""Applies a policy to results. Same inputs, same bytes: no clock, no chance, no hash order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from brewhouse.domains.strict import Strict
from brewhouse.errors import GateError
from brewhouse.evaluation.results import Results
from brewhouse.files import read_json, sha256_json
from brewhouse.gates.outcome import Outcome, worst
from brewhouse.gates.policy import RULES, Policy
from brewhouse.gates.rules import apply


class RuleOutcome(Strict):
    """One rule and why it came out as it did."""

    rule: dict[str, Any]
    outcome: Outcome
    reason: str
    details: list[str] = []


class Verdict(Strict):
    """The gate's answer, and digests of what it was computed from."""

    schema_version: int = 2
    outcome: Outcome
    policy: str
    policy_digest: str
    results_digest: str
    champion_digest: str | None
    rules: list[RuleOutcome]

    def lines(self) -> list[str]:
        """For people: the outcome, then one line a rule."""
        return [
            f"{self.outcome} by {self.policy}",
            *(f"  {one.outcome:<12} {one.rule['kind']}: {one.reason}" for one in self.rules),
        ]


def read_verdict(path: Path) -> Verdict:
    """Read a verdict.json.

    Raises:
        GateError: There is none, or of another schema.
    """
    try:
        return Verdict.model_validate(read_json(path))
    except (OSError, ValueError) as error:
        msg = f"{path}: no verdict can be read: {error}; run `brewhouse gate check --out` again"
        raise GateError(msg) from error


def told_rule(rule: dict[str, Any]) -> str:
    """A rule in words: what its kind asks, and its settings."""
    summary = (RULES[rule["kind"]].__doc__ or "").split("\n")[0]
    settings = ", ".join(f"{k} {v}" for k, v in rule.items() if k != "kind" and v not in (None, []))
    return f"{rule['kind']} ({settings}): {summary}" if settings else f"{rule['kind']}: {summary}"


def decide(policy: Policy, results: Results, champion: Results | None = None) -> Verdict:
    """Compute the verdict: FAIL if a rule fails, else INCONCLUSIVE if one is, else PASS.

    Raises:
        GateError: The policy requires a champion or a task that is not there, or the champion
            belongs to another domain.
    """
    _refuse(policy, results, champion)
    outcomes = []
    for rule in policy.rules:
        outcome, reason, details = apply(rule, results, champion)
        outcomes.append(
            RuleOutcome(
                rule=rule.model_dump(mode="json"), outcome=outcome, reason=reason, details=details
            )
        )
    return Verdict(
        outcome=worst([one.outcome for one in outcomes]),
        policy=f"{policy.name}@{policy.version}",
        policy_digest="sha256:" + sha256_json(policy.model_dump(mode="json")),
        results_digest=_digest(results),
        champion_digest=_digest(champion) if champion else None,
        rules=outcomes,
    )


def _refuse(policy: Policy, results: Results, champion: Results | None) -> None:
    if champion is None and policy.champion == "required":
        msg = (
            f"policy {policy.name} requires a champion and none was given; give its results.json "
            "with --champion, or set champion: optional for a first candidate"
        )
        raise GateError(msg)
    if champion is not None and champion.domain != results.domain:
        msg = (
            f"the champion's results are of domain {champion.domain}, the candidate's of "
            f"{results.domain}; give results of the same domain"
        )
        raise GateError(msg)
    present = {task.name for task in results.tasks}
    named = {name for rule in policy.rules for name in getattr(rule, "tasks", [])}
    for name in (*policy.required_tasks, *sorted(named)):
        if name not in present:
            msg = (
                f"policy {policy.name} requires task {name}, which the results do not hold; "
                "evaluate it, or take it out of the policy"
            )
            raise GateError(msg)


def _digest(results: Results) -> str:
    return "sha256:" + sha256_json(results.model_dump(mode="json"))
