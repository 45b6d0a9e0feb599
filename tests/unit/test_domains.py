"""Domain and task YAML: every mistake is one clear message with file, line and field."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from brewhouse.domains.loader import BUILT_IN, domain_path, load_domain
from brewhouse.errors import ConfigError
from brewhouse.tasks.suite import load_suite

Edit = Callable[[dict], None]


def folder_with(tmp_path: Path, domain: Edit | str | None = None, tasks: Edit | None = None) -> str:
    folder = tmp_path / "mine"
    shutil.copytree(domain_path("linkedin"), folder, ignore=shutil.ignore_patterns("*.py*"))
    if isinstance(domain, str):
        (folder / "domain.yaml").write_text(domain)
    elif domain:
        _edit(folder / "domain.yaml", domain)
    if tasks:
        _edit(folder / "tasks" / "jobs.yaml", tasks)
    return str(folder)


def _edit(path: Path, change: Edit) -> None:
    value = yaml.safe_load(path.read_text())
    change(value)
    path.write_text(yaml.safe_dump(value, sort_keys=False))


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_domains_are_valid(name: str) -> None:
    folder = load_domain(name)
    suite = load_suite(folder)
    assert suite.domain == name
    assert all(folder.domain.surfaces[t.surface].in_training or t.tier == "T2" for t in suite.tasks)


def test_linkedin_has_thirty_tasks_on_ten_surfaces() -> None:
    suite = load_suite(load_domain("linkedin"))
    assert len(suite.tasks) >= 30
    assert len({t.surface for t in suite.tasks}) >= 10
    assert len({t.surface for t in suite.tier("T2")}) >= 4


def _set(path: str, value: object) -> Edit:
    def change(root: dict) -> None:
        *parents, last = path.split(".")
        for key in parents:
            root = root[int(key) if isinstance(root, list) else key]
        root[last] = value

    return change


DOMAIN_MISTAKES: dict[str, tuple[Edit | str, str]] = {
    "no yaml": ("name: [linkedin\nversion: 1\n", r"domain.yaml:\d+: no valid YAML"),
    "unknown field": (_set("colour", "red"), r"domain.yaml:\d+: colour: Extra inputs"),
    "wrong type": (
        _set("version", "first"),
        r"domain.yaml:2: version: Input should be a valid int",
    ),
    "missing column": (_set("members.profile", "{salary}"), r"names column 'salary', known are"),
    "unknown action": (_set("surfaces.jobs.actions", ["none", "poked"]), r"unknown action 'poked'"),
    "bad duration": (
        _set("history.lag", "soon"),
        r"domain.yaml:\d+: history.lag: 'soon' is no dur",
    ),
    "two meanings": (_set("actions.saved.word", "viewed"), r"word 'viewed' stands for two things"),
    "production": (
        _set("production", "xgboost"),
        r"domain.yaml:\d+: production: Input should be 'popularity', 'member_mean', .*'lightgbm'",
    ),
    "region column": (_set("regions.column", "planet"), r"'planet' is no member column"),
}


@pytest.mark.parametrize(("change", "message"), DOMAIN_MISTAKES.values(), ids=DOMAIN_MISTAKES)
def test_domain_mistakes(tmp_path: Path, change: Edit | str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_domain(folder_with(tmp_path, change))


TASK_MISTAKES: dict[str, tuple[Edit, str]] = {
    "unknown action": (
        _set("tasks.0.positive", ["poked"]),
        r"jobs.yaml:\d+: task jobs_view: action",
    ),
    "both sides": (_set("tasks.0.negative", ["viewed", "none"]), r"count as yes and as no"),
    "unknown tier": (_set("tasks.0.tier", "T3"), r"jobs.yaml:\d+: tasks.0.tier: Input should be"),
    "twice": (_set("tasks.1.name", "jobs_view"), r"task 'jobs_view' is defined twice"),
    "held out": (_set("surface", "learning"), r"is T1 but surface 'learning' is held out"),
    "not held out": (_set("tasks.0.tier", "T2"), r"is T2 but surface 'jobs' is in training"),
    "unknown surface": (_set("surface", "moon"), r"surface 'moon' is not in domain linkedin"),
}


@pytest.mark.parametrize(("change", "message"), TASK_MISTAKES.values(), ids=TASK_MISTAKES)
def test_task_mistakes(tmp_path: Path, change: Edit, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_suite(load_domain(folder_with(tmp_path, tasks=change)))


def test_a_new_task_is_yaml_only(tmp_path: Path) -> None:
    def add(root: dict) -> None:
        root["tasks"].append(
            {
                "name": "jobs_any",
                "tier": "T1",
                "phrase": "Will they act?",
                "positive": ["viewed", "saved", "applied"],
            }
        )

    suite = load_suite(load_domain(folder_with(tmp_path, tasks=add)))
    task = next(t for t in suite.tasks if t.name == "jobs_any")
    assert task.negative == ("none", "dismissed")


def test_unknown_domain() -> None:
    with pytest.raises(ConfigError, match="neither built in .* nor a folder with a domain.yaml"):
        load_domain("nowhere")
