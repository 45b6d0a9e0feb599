"""What an approver reads of a version, taken from the files that the ledger names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from brewhouse.errors import BrewhouseError
from brewhouse.evaluation.judge import RANKER
from brewhouse.evaluation.results import Estimate, Results, SliceResult, TaskResult
from brewhouse.gates.verdict import Verdict
from brewhouse.release.dossier import PARTS
from brewhouse.release.verifying import check_judgement
from brewhouse.release.versions import Version

SLICES = 10
TYPES = {".json": "application/json", ".txt": "text/plain", ".md": "text/plain"}


@dataclass(frozen=True, kw_only=True)
class TaskLine:
    """One task: the ranker beside production."""

    name: str
    tier: str
    n: int
    ranker: Estimate
    production: Estimate | None
    difference: Estimate | None


@dataclass(frozen=True, kw_only=True)
class SliceLine:
    """Part of a task's rows where the ranker is worse."""

    task: str
    part: SliceResult


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A version's evidence.

    Attributes:
        problems: What is not as the ledger says; nothing should be decided while there is any.
        means: Mean AUC by tier and scorer, of those worth a column.
        tasks: At every horizon.
        worse: Slices whose interval lies below production, the worst first.
    """

    problems: list[str]
    results: Results | None
    verdict: Verdict | None
    means: dict[str, dict[str, float | None]]
    tasks: list[TaskLine]
    worse: list[SliceLine]


def evidence(version: Version) -> Evidence:
    """Read what a version was judged by."""
    problems = check_judgement(version)
    results = verdict = None
    try:
        results = Results.model_validate(version.folder.read_json("dossier/results.json"))
        verdict = Verdict.model_validate(version.folder.read_json("dossier/verdict.json"))
    except (BrewhouseError, ValueError) as error:
        problems = problems or [str(error).splitlines()[0]]
    return Evidence(
        problems=problems,
        results=results,
        verdict=verdict,
        means=_means(results) if results else {},
        tasks=[_line(t, results.production) for t in results.tasks] if results else [],
        worse=_worse(results.tasks) if results else [],
    )


def _means(results: Results) -> dict[str, dict[str, float | None]]:
    names = [RANKER, *([results.production] if results.production else [])]
    if any("oracle" in t.scorers for t in results.tasks):
        names.append("oracle")
    tiers = sorted({t.tier for t in results.tasks})
    return {tier: {name: results.mean_auc(name, tier) for name in names} for tier in tiers}


def _line(task: TaskResult, production: str) -> TaskLine:
    other = task.scorers.get(production)
    return TaskLine(
        name=task.name,
        tier=task.tier,
        n=task.n,
        ranker=task.scorers[RANKER].auc,
        production=other.auc if other else None,
        difference=task.difference.get(production, {}).get("auc"),
    )


def _worse(tasks: Sequence[TaskResult]) -> list[SliceLine]:
    found = [
        SliceLine(task=task.name, part=part)
        for task in tasks
        for part in task.slices
        if part.difference.high is not None and part.difference.high < 0
    ]
    return sorted(found, key=lambda line: line.part.difference.value or 0.0)[:SLICES]


def part(version: Version, name: str) -> tuple[bytes, str]:
    """A file of the dossier and its media type; anything but the report is shown as text.

    Raises:
        KeyError: The dossier has no such part.
        RegistryError: It cannot be read.
    """
    if name not in PARTS:
        raise KeyError(name)
    suffix = name[name.rindex(".") :]
    return version.folder.read(f"dossier/{name}"), TYPES.get(suffix, "text/html")
