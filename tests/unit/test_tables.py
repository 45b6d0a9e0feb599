"""Tables of the command line: nothing of what they say is cut off."""

from __future__ import annotations

import io
from typing import Any

import pytest
import rich.console

from brewhouse.cli.console import table

REMEDY = "kubectl create secret generic brewhouse-release -n ranker --from-env-file=release.env"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("terminal", [True, False])
def test_a_remedy_is_there_to_its_last_word(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = _Terminal() if terminal else io.StringIO()
    theirs = rich.console.Console

    def console(**given: Any) -> rich.console.Console:
        return theirs(file=out, **{"width": 80} | given)

    monkeypatch.setattr(rich.console, "Console", console)
    monkeypatch.setenv("TERM", "dumb")
    remedy = f"{REMEDY}, then {REMEDY}"
    table("found", ["part", "value", "state", "remedy"], [["a", "b", "missing", remedy]], left=4)
    _, head, *lines = out.getvalue().splitlines()
    start = head.index("remedy")
    assert "missing" in lines[0]
    told = [line[start:].strip() for line in lines]
    assert "".join(told).replace(" ", "") == remedy.replace(" ", "")
    # A terminal is kept to; what is none gets a line as long as it needs to be.
    assert (len(lines) > 1) == terminal


def test_a_number_is_there_to_its_last_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many columns of them there are."""
    out = _Terminal()
    theirs = rich.console.Console
    monkeypatch.setattr(
        rich.console, "Console", lambda **given: theirs(file=out, **{"width": 80} | given)
    )
    numbers = [f"0.{i}{'5' * 10}" for i in range(10)]
    table("scores", ["task", *(f"scorer {i}" for i in range(10))], [["click", *numbers]])
    assert out.getvalue().splitlines()[-1].split() == ["click", *numbers]
