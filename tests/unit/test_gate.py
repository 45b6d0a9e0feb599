"""The gate: a table of results and what each policy makes of them."""

from __future__ import annotations

import pytest

from brewhouse.errors import ConfigError, LeakError
from brewhouse.evaluation.results import Check, Estimate, Results, ScorerResult, TaskResult
from brewhouse.files import canonical_json
from brewhouse.gates.policy import Policy, load_policy
from brewhouse.gates.verdict import Outcome, decide
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.questions import QuestionBook
from brewhouse.prompts.shards_manifest import ShardsManifest, prove_tiers
from brewhouse.tasks.spec import Task


def scorer(auc: float | None, ece: float = 0.01) -> ScorerResult:
    return ScorerResult(
        auc=Estimate(value=auc),
        gauc=None,
        ndcg_at_10=None,
        log_loss=None,
        normalised_entropy=None,
        ece=ece,
    )


def task(
    name: str,
    auc: float | None,
    base: float = 0.6,
    *,
    n: int = 500,
    tier: str = "T1",
    ece: float = 0.01,
) -> TaskResult:
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
        higher_is_better=True,
        base_rate=0.1,
        sampled_negatives=False,
        scorers={"ranker": scorer(auc, ece), "popularity": scorer(base)},
        difference={"popularity": Estimate(value=None if auc is None else auc - base)},
        slices=[],
        reliability={},
    )


def results(*tasks: TaskResult, canary: bool = True) -> Results:
    return Results(
        domain="d",
        domain_version=1,
        snapshot="sha256:0",
        model={"digest": "sha256:1"},
        split={"gap_days": 2},
        seed=1,
        resamples=10,
        code="0",
        tasks=list(tasks),
        checks=[
            Check(
                name="canary",
                value=0.5 if canary else 0.9,
                limit=0.5,
                passed=canary,
                detail="planted",
            )
        ],
        cost={},
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


def test_champion() -> None:
    rules = policy({"kind": "non_inferior_to_champion", "margin": 0.01})
    candidate = results(task("a", 0.70))
    assert decide(rules, candidate).outcome is Outcome.PASS
    assert decide(rules, candidate, results(task("a", 0.705))).outcome is Outcome.PASS
    assert decide(rules, candidate, results(task("a", 0.75))).outcome is Outcome.FAIL
    assert decide(rules, candidate, results(task("b", 0.7))).outcome is Outcome.INCONCLUSIVE


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
        metric="auc",
        higher_is_better=True,
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
