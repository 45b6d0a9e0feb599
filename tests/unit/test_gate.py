"""The gate: a table of results and what each policy makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import evidence
from brewhouse.errors import ConfigError, GateError, LeakError
from brewhouse.evaluation.results import (
    Check,
    Estimate,
    MetricRule,
    ProbeResult,
    Results,
    ScorerResult,
    SliceResult,
    TaskResult,
)
from brewhouse.files import canonical_json
from brewhouse.gates.outcome import Outcome
from brewhouse.gates.policy import Policy, load_policy
from brewhouse.gates.verdict import decide
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.shards_manifest import ShardsManifest, prove_tiers
from brewhouse.tasks.spec import HistoryRule, MetricSpec, Task

NOTHING = Estimate(value=None)
RESAMPLES = 400


def scorer(auc: float | None, ece: float = 0.01) -> ScorerResult:
    return ScorerResult(
        auc=Estimate(value=auc),
        gauc=NOTHING,
        ndcg_at_10=NOTHING,
        log_loss=NOTHING,
        normalised_entropy=Estimate(value=0.9),
        ece=Estimate(value=ece),
    )


def drawn(value: float | None, error: float, seed: int) -> list[int]:
    """Resamples around a value, as results carry them."""
    if value is None:
        return []
    noise = np.random.default_rng(seed).normal(0, 1, RESAMPLES)
    noise = (noise - noise.mean()) / noise.std()
    return [round(1e6 * (value + error * e)) for e in noise]


def task(
    name: str,
    auc: float | None,
    base: float = 0.6,
    *,
    n: int = 500,
    tier: str = "T1",
    ece: float = 0.01,
    error: float = 0.002,
    production: float | None = None,
    slices: tuple[SliceResult, ...] = (),
) -> TaskResult:
    scorers = {"ranker": scorer(auc, ece), "popularity": scorer(base)}
    draws = {"ranker": {"auc": drawn(auc, error, seed=len(name))}}
    if production is not None:
        scorers["lightgbm"] = scorer(production)
        draws["lightgbm"] = {"auc": drawn(production, 0.0, seed=0)}
    gap = Estimate(value=None if auc is None else auc - base)
    return TaskResult(
        name=name,
        version=1,
        tier=tier,
        surface="jobs",
        phrase="?",
        horizon_weeks=0,
        n=n,
        positives=50,
        excluded=0,
        members=20,
        groups=5,
        n_min=200,
        metrics=[MetricRule(name="auc", margin=0.01, higher_is_better=True)],
        base_rate=0.1,
        sampled_negatives=False,
        scorers=scorers,
        difference={"popularity": {"auc": gap}},
        rows_digest="sha256:r",
        draws=draws,
        slices=list(slices),
        reliability={},
    )


def part(value: str, difference: float, error: float = 0.01, n: int = 400) -> SliceResult:
    """A slice of history, the ranker at .7."""

    def about(centre: float) -> Estimate:
        return Estimate(value=centre, low=centre - 1.96 * error, high=centre + 1.96 * error)

    return SliceResult(
        dimension="history",
        value=value,
        n=n,
        positives=n // 5,
        auc={"ranker": 0.7},
        ranker=about(0.7),
        difference=about(difference),
    )


def probe(name: str, cost: float, error: float = 0.005) -> ProbeResult:
    return ProbeResult(
        name=name,
        kind="history",
        tasks=3,
        rows=900,
        auc=0.7 - cost,
        ordinary_auc=0.7,
        cost=Estimate(value=cost, low=cost - 2 * error, high=cost + 2 * error),
        by_task={},
        ordinary_by_task={},
    )


def results(
    *tasks: TaskResult,
    canary: bool = True,
    probes: tuple[ProbeResult, ...] = (),
    tokens: float = 50,
) -> Results:
    return Results(
        domain="d",
        domain_version=1,
        production="lightgbm",
        snapshot="sha256:0",
        model={"digest": "sha256:1"},
        split={"gap_days": 2},
        seed=1,
        resamples=RESAMPLES,
        draws_digest="sha256:d",
        code="0",
        tasks=list(tasks),
        probes=list(probes),
        checks=[
            Check(
                name="canary",
                value=0.5 if canary else 0.9,
                limit=0.5,
                passed=canary,
                detail="planted",
            )
        ],
        cost={"tokens_per_leaf": tokens, "ms_per_leaf": 1.0},
        proofs=[t.name for t in tasks],
        notes=[],
    )


def policy(*rules: dict[str, object]) -> Policy:
    return Policy.model_validate({"name": "p", "version": 1, "rules": list(rules)})


LIFT = {"kind": "mean_lift", "over": "popularity", "at_least": 0.05}
CASES = {
    "lift reached": (policy(LIFT), results(task("a", 0.7)), "PASS"),
    "lift missed": (policy(LIFT), results(task("a", 0.62)), "FAIL"),
    "lift on average": (policy(LIFT), results(task("a", 0.72), task("b", 0.6)), "PASS"),
    "nothing to compare": (policy(LIFT), results(task("a", None)), "INCONCLUSIVE"),
    "floor": (policy({"kind": "mean_floor", "at_least": 0.8}), results(task("a", 0.7)), "FAIL"),
    "rows": (policy({"kind": "enough_rows"}), results(task("a", 0.7, n=150)), "INCONCLUSIVE"),
    "calibration": (
        policy({"kind": "calibration", "at_most": 0.05}),
        results(task("a", 0.7, ece=0.2)),
        "FAIL",
    ),
    "canary": (policy({"kind": "check", "name": "canary"}), results(canary=False), "FAIL"),
    "check not run": (policy({"kind": "check", "name": "x"}), results(), "INCONCLUSIVE"),
    "task floor": (
        policy({"kind": "task_floor", "limit": 0.65}),
        results(task("a", 0.7), task("b", 0.6)),
        "FAIL",
    ),
    "a ceiling": (
        policy({"kind": "task_floor", "metric": "ece", "limit": 0.05}),
        results(task("a", 0.7, ece=0.02)),
        "PASS",
    ),
    "cost": (policy({"kind": "cost", "tokens_at_most": 40}), results(task("a", 0.7)), "FAIL"),
    "history is read": (
        policy({"kind": "probe", "name": "shuffled_labels", "at_least": 0.02}),
        results(probes=(probe("shuffled_labels", 0.05),)),
        "PASS",
    ),
    "history may be read": (
        policy({"kind": "probe", "name": "shuffled_labels", "at_least": 0.02}),
        results(probes=(probe("shuffled_labels", 0.025),)),
        "INCONCLUSIVE",
    ),
    "wording matters": (
        policy({"kind": "probe", "name": "reworded", "at_most": 0.02}),
        results(probes=(probe("reworded", 0.05),)),
        "FAIL",
    ),
    "probe not run": (
        policy({"kind": "probe", "name": "x", "at_most": 0.02}),
        results(),
        "INCONCLUSIVE",
    ),
    "as good as production": (
        policy({"kind": "non_inferior", "to": "production"}),
        results(task("a", 0.7, production=0.702)),
        "PASS",
    ),
    "behind production": (
        policy({"kind": "non_inferior", "to": "production"}),
        results(task("a", 0.7, production=0.702), task("b", 0.7, production=0.75)),
        "FAIL",
    ),
    "undecided": (
        policy({"kind": "non_inferior", "to": "production"}),
        results(task("a", 0.7, production=0.702, error=0.01)),
        "INCONCLUSIVE",
    ),
    "no production": (
        policy({"kind": "non_inferior", "to": "production"}),
        results(task("a", 0.7)),
        "INCONCLUSIVE",
    ),
    "one success is enough": (
        policy({"kind": "success", "over": "production", "measures": ["T1", "T2"]}),
        results(task("a", 0.7, production=0.7), task("b", 0.7, production=0.69, tier="T2")),
        "PASS",
    ),
    "no success": (
        policy({"kind": "success", "over": "production", "measures": ["suite"]}),
        results(task("a", 0.7, production=0.7)),
        "INCONCLUSIVE",
    ),
    "cold members gain": (
        policy({"kind": "success", "over": "production", "measures": ["cold"]}),
        results(task("a", 0.7, production=0.7, slices=(part("1-4", 0.05), part("100+", -0.3)))),
        "PASS",
    ),
    "one task is worse": (
        policy({"kind": "no_deterioration", "to": "production"}),
        results(task("a", 0.7, production=0.7), task("b", 0.7, production=0.71)),
        "FAIL",
    ),
    "worse by chance": (
        policy({"kind": "no_deterioration", "to": "production"}),
        results(*(task(n, 0.7, production=0.704) for n in "abcdefgh")),
        "PASS",
    ),
    "a slice lost": (
        policy({"kind": "slices", "to": "production", "at_most": 0.02}),
        results(task("a", 0.7, production=0.7, slices=(part("0", -0.08), part("1-4", 0.0)))),
        "FAIL",
    ),
    "a small slice": (
        policy({"kind": "slices", "to": "production", "at_most": 0.02}),
        results(task("a", 0.7, production=0.7, slices=(part("0", -0.08, n=50), part("1-4", 0.0)))),
        "PASS",
    ),
    "fail beats inconclusive": (
        policy({"kind": "enough_rows"}, LIFT),
        results(task("a", 0.5, n=1)),
        "FAIL",
    ),
}


@pytest.mark.parametrize(("rules", "found", "expected"), CASES.values(), ids=CASES)
def test_verdicts(rules: Policy, found: Results, expected: str) -> None:
    verdict = decide(rules, found)
    assert verdict.outcome == expected
    assert all(rule.reason for rule in verdict.rules)


def test_missing_rows_are_counted() -> None:
    verdict = decide(policy({"kind": "enough_rows"}), results(task("a", 0.7, n=150)))
    assert verdict.rules[0].reason == "0 of 1 tasks have their rows; a lacks 50"


def test_rows_that_would_decide_are_counted() -> None:
    rules = policy({"kind": "non_inferior", "to": "production"})
    found = results(task("a", 0.7, production=0.7, error=0.01, n=500))
    reason = decide(rules, found).rules[0].reason
    # (1.96 + 0.84) * 0.01 is 2.8 times the margin: 7.85 times the rows.
    assert re.search(
        r"a auc \+0.0000 \[-0.0\d+, \+0.0\d+\], margin 0.01, 3,4\d\d more rows", reason
    )


def test_a_metric_where_less_is_better() -> None:
    rules = policy({"kind": "non_inferior", "to": "champion", "metric": "ece", "margin": 0.01})

    def of(ece: float) -> Results:
        one = task("a", 0.7, ece=ece)
        one.draws["ranker"]["ece"] = drawn(ece, 0.001, seed=1)
        return results(one)

    ahead = decide(rules, of(0.02), of(0.05))
    assert ahead.outcome is Outcome.PASS
    # More is better in what a gate tells, whatever the metric.
    assert "a ece +0.0300 [+0.0" in ahead.rules[0].details[0]
    assert decide(rules, of(0.05), of(0.02)).outcome is Outcome.FAIL


def test_champion() -> None:
    rules = policy({"kind": "mean_non_inferior", "to": "champion", "margin": 0.01})
    candidate = results(task("a", 0.70))
    assert decide(rules, candidate).outcome is Outcome.PASS
    assert decide(rules, candidate, results(task("a", 0.705))).outcome is Outcome.PASS
    assert decide(rules, candidate, results(task("a", 0.75))).outcome is Outcome.FAIL
    assert decide(rules, candidate, results(task("b", 0.7))).outcome is Outcome.INCONCLUSIVE
    slices = policy({"kind": "slices", "to": "champion", "at_most": 0.02})
    ours = results(task("a", 0.7, slices=(part("0", 0.0),)))
    theirs = ours.model_copy(deep=True)
    assert decide(slices, ours, theirs).outcome is Outcome.PASS
    theirs.tasks[0].slices[0].ranker = Estimate(value=0.8, low=0.79, high=0.81)
    assert decide(slices, ours, theirs).outcome is Outcome.FAIL
    costly = policy({"kind": "cost", "ratio_at_most": 1.2})
    assert decide(costly, candidate, results(task("a", 0.7), tokens=30)).outcome is Outcome.FAIL


def test_paired_resamples_decide_sooner() -> None:
    """The same draws on both sides cancel; independent ones do not."""
    rules = policy({"kind": "non_inferior", "to": "champion"})
    ours, theirs = (results(task("a", 0.7, error=0.02)) for _ in range(2))
    assert decide(rules, ours, theirs).outcome is Outcome.PASS
    theirs.tasks[0].draws["ranker"]["auc"] = drawn(0.7, 0.02, seed=77)
    theirs.tasks[0].rows_digest = "sha256:other"
    assert decide(rules, ours, theirs).outcome is Outcome.INCONCLUSIVE


@pytest.mark.parametrize(
    ("rules", "champion", "message"),
    [
        (
            Policy.model_validate(
                {"name": "p", "version": 1, "champion": "required", "rules": [LIFT]}
            ),
            None,
            "policy p requires a champion and none was given; give its results.json",
        ),
        (
            Policy.model_validate(
                {"name": "p", "version": 1, "required_tasks": ["z"], "rules": [LIFT]}
            ),
            None,
            "policy p requires task z, which the results do not hold; evaluate it",
        ),
        (
            policy({"kind": "task_floor", "limit": 0.5, "tasks": ["y"]}),
            None,
            "requires task y",
        ),
        (policy(LIFT), "other", "the champion's results are of domain other, the candidate's of d"),
    ],
)
def test_what_is_missing_is_told(rules: Policy, champion: str | None, message: str) -> None:
    theirs = results(task("a", 0.7))
    with pytest.raises(GateError, match=message):
        decide(
            rules,
            results(task("a", 0.7)),
            theirs.model_copy(update={"domain": champion}) if champion else None,
        )


def test_results_of_another_schema_are_told(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    results(task("a", 0.7)).write(path)
    assert Results.read(path).tasks[0].name == "a"
    text = path.read_text()
    for change, message in (
        (
            ('"schema_version": 2', '"schema_version": 1'),
            "schema version 1, but this release reads 2",
        ),
        (('"rows_digest"', '"row_digest"'), r"tasks.0.rows_digest: Field required; evaluate"),
    ):
        assert change[0] in text
        path.write_text(text.replace(*change))
        with pytest.raises(ConfigError, match=message):
            Results.read(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="no results can be read"):
        Results.read(path)


@pytest.mark.slow
def test_false_passes_at_the_margin_are_rare() -> None:
    """Of candidates that are worse by just the margin at most one in twenty passes."""
    assert evidence.passing(evidence.MARGIN)[0] <= 0.05
    assert evidence.passing(0.0)[0] >= 0.7


def test_same_inputs_same_bytes() -> None:
    rules, found = load_policy("default"), results(task("a", 0.7), task("b", 0.66))
    one, two = (canonical_json(decide(rules, found).model_dump(mode="json")) for _ in range(2))
    assert one == two


def test_policy_mistakes_name_the_line(tmp_path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("name: p\nversion: 1\nrules:\n  - {kind: mean_flaw, at_least: 1}\n")
    with pytest.raises(ConfigError, match=r"p.yaml:4: rules.0: .*mean_flaw"):
        load_policy(str(path))


def manifest(**changes: object) -> ShardsManifest:
    base: dict[str, object] = {
        "domain": {},
        "snapshot": "",
        "surfaces": ["jobs"],
        "tasks": ["jobs_view@1"],
        "split": {"train_end": "2024-04-01T00:00:00+00:00", "gap_days": 2},
        "last_known": "2024-03-31T23:00:00+00:00",
        "first_test": "2024-04-03T01:00:00+00:00",
        "counts": {},
        "book": QuestionBook(questions=(), readings={}),
        "answers": [],
        "history": {},
        "style": "standard",
        "numbers": NumberWords(members={}, items={}),
    }
    return ShardsManifest(**(base | changes))  # type: ignore[arg-type]


def spec(name: str, tier: str, surface: str) -> Task:
    return Task(
        name=name,
        version=1,
        tier=tier,
        surface=surface,
        owner="o",
        positive=("a",),
        negative=("b",),
        question=None,
        answers=None,
        phrase="?",
        licence="l",
        candidates="logged",
        prior=None,
        history=HistoryRule(),
        slices=(),
        metrics=(MetricSpec(name="auc"),),
        n_min=1,
    )


def test_tiers_are_proved_from_the_manifest() -> None:
    proofs = prove_tiers(
        manifest(), [spec("jobs_view", "T1", "jobs"), spec("learn", "T2", "learning")]
    )
    assert "first test row 2024-04-03T01:00:00+00:00 >= 2024-04-03" in proofs[0]
    assert "neither the task nor surface 'learning'" in proofs[1]


@pytest.mark.parametrize(
    ("changes", "task_", "message"),
    [
        (
            {"surfaces": ["jobs", "learning"]},
            spec("learn", "T2", "learning"),
            "occurs in the training",
        ),
        ({"tasks": ["learn@1"]}, spec("learn", "T2", "learning"), "listed among the trained tasks"),
        (
            {"last_known": "2024-04-01T00:00:00+00:00"},
            spec("jobs_view", "T1", "jobs"),
            "not before train_end",
        ),
        (
            {"first_test": "2024-04-02T23:59:59+00:00"},
            spec("jobs_view", "T1", "jobs"),
            "before train_end plus the gap",
        ),
    ],
    ids=[
        "T2 surface in training",
        "T2 task in training",
        "evidence past train_end",
        "test row inside the gap",
    ],
)
def test_a_broken_tier_is_a_leak(changes: dict[str, object], task_: Task, message: str) -> None:
    with pytest.raises(LeakError, match=message):
        prove_tiers(manifest(**changes), [task_])


def test_a_manifest_changed_by_hand_is_refused(tmp_path) -> None:
    from brewhouse.errors import TrainingError

    manifest().write(tmp_path)
    assert ShardsManifest.read(tmp_path) == manifest()
    path = tmp_path / ShardsManifest.FILE
    path.write_text(path.read_text().replace("jobs_view@1", "jobs_save@1"))
    with pytest.raises(TrainingError, match="does not match its digest"):
        ShardsManifest.read(tmp_path)
