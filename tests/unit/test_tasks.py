"""Tasks: what a suite holds, and what each mistake in a file is told as."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from brewhouse.domains.loader import domain_path, load_domain
from brewhouse.errors import ConfigError
from brewhouse.tasks.suite import Suite, load_suite

FILE = """\
surface: jobs
owner: me
licence: Apache-2.0
tasks:
  - name: jobs_touch
    version: 1
    tier: T1
    positive: [viewed, saved]
    negative: [none]
    question: null
    answers: null
    phrase: Will the member touch this job?
    candidates: logged
    history: {at_least: 1, at_most: 50}
    slices: [history, seniority]
    metrics:
      - {name: auc, margin: 0.02, higher_is_better: true}
      - {name: ece, margin: 0.01}
    n_min: 100
"""
TYPOS = {
    "surface": ("surface: jobs", "surface: job", r":\d+: surface 'job' is not in domain linkedin"),
    "owner": ("owner: me", "owner: [me]", r":2: owner: Input should be a valid string"),
    "licence": ("licence: A", "license: A", r":3: license: Extra inputs are not permitted"),
    "name": ("name: jobs_touch", "name: Jobs", r":5: tasks.0.name: String should match pattern"),
    "version": ("version: 1", "version: 0", r":6: tasks.0.version: .*greater than or equal to 1"),
    "tier": ("tier: T1", "tier: T3", r":7: tasks.0.tier: Input should be 'T1' or 'T2'"),
    "wrong tier": ("tier: T1", "tier: T2", r"is T2 but surface 'jobs' is in training"),
    "positive": (
        "[viewed, saved]",
        "[vieved]",
        r"action 'vieved' does not occur on",
    ),
    "negative": ("[none]", "[viewed]", r"\['viewed'\] count as yes and as no; keep one side"),
    "question": ("question: null", "question: [a]", r":10: tasks.0.question: .*valid string"),
    "answers": ("answers: null", "answers: [yes]", r":11: tasks.0.answers"),
    "phrase": (
        "phrase: Will the member touch this job?",
        "phrase: ''",
        r":12: tasks.0.phrase: .*1 c",
    ),
    "candidates": ("candidates: logged", "candidates: sampled", r"but those of 'jobs' are logged"),
    "prior": ("n_min: 100", "prior: 0.1", r"prior 0.1 is for sampled negatives"),
    "history": (
        "at_most: 50",
        "at_most: 0",
        r":14: tasks.0.history: at_most \(0\) is below",
    ),
    "slices": (
        "seniority]",
        "senority]",
        r"slice 'senority' is not in .*known: .*seni",
    ),
    "metric": ("name: auc", "name: auk", r":17: tasks.0.metrics.0.name: .*'auc'"),
    "margin": ("margin: 0.02", "margin: -1", r":17: tasks.0.metrics.0.margin: .*greater than 0"),
    "direction": ("true}", "false}", r":17: tasks.0.metrics.0: auc has higher_is_better: true"),
    "n_min": ("n_min: 100", "n_min: none", r":19: tasks.0.n_min: Input should be a valid integer"),
    "unknown": ("n_min: 100", "nmin: 100", r":19: tasks.0.nmin: Extra inputs are not permitted"),
    "missing": (
        "    phrase: Will the member touch this job?\n",
        "",
        r"tasks.0.phrase: Field required",
    ),
}


def suite_of(text: str, tmp_path: Path) -> Suite:
    (tmp_path / "tasks").mkdir()
    shutil.copy(domain_path("linkedin") / "domain.yaml", tmp_path)
    (tmp_path / "tasks" / "own.yaml").write_text(text)
    return load_suite(load_domain(str(tmp_path)))


def test_what_is_left_out_is_filled(tmp_path: Path) -> None:
    task = suite_of(FILE, tmp_path).tasks[0]
    assert task.candidates == "logged"
    assert (task.owner, task.licence, task.negative) == ("me", "Apache-2.0", ("none",))
    assert [(m.name, m.margin, m.sign) for m in task.metrics] == [
        ("auc", 0.02, 1),
        ("ece", 0.01, -1),
    ]


@pytest.mark.parametrize(("right", "wrong", "message"), TYPOS.values(), ids=TYPOS)
def test_a_typo_in_each_field(right: str, wrong: str, message: str, tmp_path: Path) -> None:
    assert right in FILE
    with pytest.raises(ConfigError, match=message):
        suite_of(FILE.replace(right, wrong, 1), tmp_path)


def test_the_suite_of_the_network() -> None:
    suite = load_suite(load_domain("linkedin"))
    assert len(suite.tasks) >= 32
    assert len({task.surface for task in suite.tasks}) >= 10
    unseen = suite.tier("T2")
    assert len({task.surface for task in unseen}) >= 4
    assert all(task.licence and task.owner for task in suite.tasks)
