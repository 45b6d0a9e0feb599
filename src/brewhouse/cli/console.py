"""Output rules of the command line: results on stdout, progress on stderr, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

_NARROW, _LONGEST = 110, 100_000
"""Columns that a table has even where a terminal tells of fewer, and more than any needs."""


def emit(value: Any, as_json: bool, human: Callable[[], None]) -> None:
    """Print a result: JSON for machines, or what `human` prints."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2, sort_keys=True, default=str) + "\n")
    else:
        human()


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table; columns after the first `left` are numbers.

    Nothing is cut off: a terminal that is too narrow has text folded, and what is no terminal
    (a pipe, a log) gets lines as long as they need to be.
    """
    from rich.console import Console
    from rich.table import Table

    out = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        text = number < left
        whole = number == 0 or not text
        out.add_column(column, justify="left" if text else "right", no_wrap=whole, overflow="fold")
    for row in rows:
        out.add_row(*row)
    console = Console()
    needs = Console(width=_LONGEST).measure(out)
    width = console.width if console.is_terminal else needs.maximum
    # Numbers and names are not folded: where they are wider than the terminal, that folds lines.
    Console(width=max(width, needs.minimum, min(needs.maximum, _NARROW))).print(out)


def number(value: float | None, digits: int = 3) -> str:
    """A number or n/a."""
    return "n/a" if value is None else f"{value:.{digits}f}"
