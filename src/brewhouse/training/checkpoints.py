"""Checkpoints that are either complete or ignored: the mark is written after everything else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from brewhouse.files import read_json, write_json

MARK = "complete.json"


def complete_tags(folder: Path) -> list[str]:
    """Tags of complete checkpoints, oldest first."""
    marks = folder.glob(f"step-*/{MARK}")
    return sorted(mark.parent.name for mark in marks)


def tag_of(step: int) -> str:
    """Tag of a step; sorts by step."""
    return f"step-{step:09d}"


def mark_complete(folder: Path, tag: str, state: dict[str, Any], *, keep: int) -> None:
    """Mark a checkpoint complete, then drop all but the newest `keep` and every unfinished one."""
    write_json(folder / tag / MARK, state)
    complete = complete_tags(folder)
    kept = set(complete[-keep:])
    for path in folder.glob("step-*"):
        if path.name not in kept and path.name <= tag:
            shutil.rmtree(path)


def newest(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Newest complete checkpoint and the state its mark holds."""
    tags = complete_tags(folder)
    return (tags[-1], read_json(folder / tags[-1] / MARK)) if tags else None
