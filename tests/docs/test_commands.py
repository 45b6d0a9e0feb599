"""Every command of the docs exists, with options that exist; every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.kube.test_manifests import _understood

PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "monitoring").rglob("*.md"),
        *(ROOT / "components").rglob("*.md"),
    ]
)


def _blocks(text: str) -> list[str]:
    """Lines of shell in fenced blocks, put together where they go on."""
    lines = []
    for language, body in re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S):
        if language in ("", "bash", "console", "sh"):
            lines += body.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if line.strip()]


def _commands() -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        for line in _blocks(page.read_text()):
            words = line.removeprefix("$ ")
            first = words.split()[0]
            ours = first in ("make", "brewhouse") or first.startswith(("tools/", ".ci/"))
            if ours or words.startswith("kubectl apply"):
                found.append((page.relative_to(ROOT).as_posix(), words))
    return found


@pytest.fixture(scope="module")
def group() -> Any:
    from typer.main import get_command

    from brewhouse.cli.main import app

    return get_command(app)


def test_there_are_commands_to_check() -> None:
    assert len(_commands()) > 80
    assert len({page for page, _ in _commands()}) > 15


@pytest.mark.parametrize(("page", "line"), _commands(), ids=lambda value: value[:60])
def test_a_command_is_understood(page: str, line: str, group: Any) -> None:
    words = shlex.split(line, comments=True)
    for stop in ("&&", "|", ">", "&", ";"):
        words = words[: words.index(stop)] if stop in words else words
    assert words, line
    if words[0] == "make":
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
        assert {word for word in words[1:] if "=" not in word} <= targets
    elif words[0] == "brewhouse":
        _understood(group, words[1:])
    elif words[0] == "kubectl":
        text = (ROOT / page).read_text()
        # There, or written by the page itself; tests/kube/test_install.py types them.
        if "-f" in words:
            assert f"# {words[words.index('-f') + 1]}\n" in text
        else:
            named = f"{words[words.index('-k') + 1]}/kustomization.yaml"
            assert (ROOT / named).is_file() or f"> {named}" in text
    else:
        assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (page.parent / target).exists(), target
