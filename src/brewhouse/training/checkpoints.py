"""Checkpoints that are either complete or ignored: the mark is written after everything else.

Every rank writes its own shard into `step-*`; rank 0 marks the folder once all have. A checkpoint
that another number of ranks wrote is turned into DeepSpeed's universal layout and read from that.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from brewhouse.errors import TrainingError
from brewhouse.files import atomic_dir, read_json, write_json

MARK = "complete.json"
UNIVERSAL = "universal"


def complete_tags(folder: Path) -> list[str]:
    """Tags of complete checkpoints, oldest first."""
    marks = folder.glob(f"step-*/{MARK}")
    return sorted(mark.parent.name for mark in marks)


def tag_of(step: int) -> str:
    """Tag of a step; sorts by step."""
    return f"step-{step:09d}"


def mark_complete(
    folder: Path, tag: str, state: dict[str, Any], *, keep: int, busy: Iterable[str] = ()
) -> None:
    """Mark a checkpoint complete, then drop those that are neither new nor the best, nor whole.

    Args:
        folder: Folder of checkpoints.
        tag: The one that every rank has written.
        state: What resuming needs; a checkpoint with the lowest `loss` is kept besides.
        keep: How many of the newest are kept.
        busy: Tags that something still reads.
    """
    write_json(folder / tag / MARK, state)
    prune(folder, keep=keep, busy=busy)


def tell_again(folder: Path, tag: str, state: dict[str, Any]) -> None:
    """Write a checkpoint's mark anew: what it holds is the same, where the run stands is not."""
    write_json(folder / tag / MARK, read_json(folder / tag / MARK) | state)


def clear(folder: Path, tag: str) -> None:
    """Remove what an earlier try left under a tag, the mark first."""
    (folder / tag / MARK).unlink(missing_ok=True)
    shutil.rmtree(folder / tag, ignore_errors=True)


def prune(folder: Path, *, keep: int, busy: Iterable[str] = ()) -> None:
    """Drop complete checkpoints but the newest `keep` and the best, and unfinished older ones."""
    complete = complete_tags(folder)
    kept = {*complete[-keep:], *busy}
    top = best(folder)
    if top is not None:
        kept.add(top)
    for path in folder.glob("step-*"):
        if complete and path.name not in kept and path.name <= complete[-1]:
            shutil.rmtree(path)
    for path in folder.glob(f"{UNIVERSAL}-*"):
        if path.name.removeprefix(f"{UNIVERSAL}-") not in kept:
            shutil.rmtree(path)


def newest(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """Newest complete checkpoint and the state its mark holds."""
    tags = complete_tags(folder)
    return (tags[-1], read_json(folder / tags[-1] / MARK)) if tags else None


def best(folder: Path) -> str | None:
    """Complete checkpoint of the latest stage whose steps had the lowest mean loss."""
    found = []
    for tag in complete_tags(folder):
        state = read_json(folder / tag / MARK)
        if state.get("loss") is not None:
            found.append((-state["stage"], state["loss"], tag))
    return min(found)[2] if found else None


def to_universal(folder: Path, tag: str) -> Path:
    """Turn a checkpoint into DeepSpeed's universal layout, which any number of ranks can read.

    Returns:
        Folder of the universal checkpoint, beside `tag`; made once.

    Raises:
        TrainingError: DeepSpeed cannot convert it.
    """
    from deepspeed.checkpoint import ds_to_universal

    target = folder / f"{UNIVERSAL}-{tag}"
    if target.is_dir():
        return target
    said = io.StringIO()
    try:
        with atomic_dir(target) as scratch, contextlib.redirect_stdout(said):
            ds_to_universal.main(
                argparse.Namespace(
                    input_folder=str(folder / tag),
                    output_folder=str(scratch),
                    num_extract_workers=1,
                    num_merge_workers=1,
                    keep_temp_folder=False,
                    strict=True,
                    inject_missing_state=True,
                )
            )
    except (AssertionError, KeyError, OSError, ValueError, RuntimeError) as error:
        msg = (
            f"checkpoint {tag} cannot be read by another number of ranks: {error}; start as many "
            "ranks as wrote it"
        )
        raise TrainingError(msg) from error
    return target
