"""The manifest of token shards: proof of what a model was trained on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

from brewhouse.errors import LeakError, TrainingError
from brewhouse.files import read_json, sha256_json, write_json
from brewhouse.prompts.numbers import NumberWords
from brewhouse.prompts.questions import Question, QuestionBook, Reading
from brewhouse.tasks.spec import Task


@dataclass(frozen=True, kw_only=True)
class ShardsManifest:
    """What went into token shards.

    Attributes:
        domain: Name and digest of the domain's YAML.
        snapshot: Digest of the snapshot.
        split: The temporal split.
        surfaces: Surfaces that occur in trunks or leaves of training, that of `base` included.
        tasks: Key of every task that was trained, likewise.
        last_known: Latest moment (ISO, UTC) at which any training evidence or label became known.
        first_test: Earliest moment at which a test row was shown, empty without test rows.
        counts: Trees, leaves, tokens, members, and what was removed and why.
        book: Questions and readings.
        answers: First token of every answer of every question.
        history: Event and token limits of a trunk.
        style: Style of test prompts and serving.
        numbers: Quantiles by which numbers are told as words.
        base: Snapshot of the model that training starts from, empty for none.
    """

    FILE: ClassVar[str] = "manifest.json"

    domain: dict[str, str]
    snapshot: str
    split: dict[str, Any]
    surfaces: list[str]
    tasks: list[str]
    last_known: str
    first_test: str
    counts: dict[str, Any]
    book: QuestionBook
    answers: list[list[int]]
    history: dict[str, int]
    style: str
    numbers: NumberWords
    base: str = ""

    def write(self, folder: Path) -> None:
        """Write the manifest; its presence marks the shards as complete."""
        value = self._json()
        write_json(folder / self.FILE, value | {"digest": "sha256:" + sha256_json(value)})

    def _json(self) -> dict[str, Any]:
        value = {k: v for k, v in vars(self).items() if k not in ("book", "numbers")}
        value["numbers"] = self.numbers.describe()
        value["questions"] = [asdict(q) for q in self.book.questions]
        value["readings"] = {k: asdict(r) for k, r in self.book.readings.items()}
        return value

    @classmethod
    def read(cls, folder: Path) -> ShardsManifest:
        """Read and check a manifest.

        Raises:
            TrainingError: Absent (the shards are unfinished) or changed by hand.
        """
        return cls.read_file(folder / cls.FILE)

    @classmethod
    def read_file(cls, path: Path) -> ShardsManifest:
        """Read and check a manifest under any file name."""
        if not path.is_file():
            msg = f"{path}: no manifest, so the shards are unfinished; run the verbalize step again"
            raise TrainingError(msg)
        value = read_json(path)
        digest = value.pop("digest", None)
        if digest != "sha256:" + sha256_json(value):
            msg = f"{path}: the manifest does not match its digest; run the verbalize step again"
            raise TrainingError(msg)
        questions = tuple(
            Question(**{**q, "answers": tuple(q["answers"])}) for q in value.pop("questions")
        )
        readings = {
            name: Reading(
                **{**r, "positive": tuple(r["positive"]), "negative": tuple(r["negative"])}
            )
            for name, r in value.pop("readings").items()
        }
        numbers = NumberWords.parse(value.pop("numbers"))
        book = QuestionBook(questions=questions, readings=readings)
        return cls(**value, book=book, numbers=numbers)


def prove_tiers(manifest: ShardsManifest, tasks: Iterable[Task]) -> list[str]:
    """Prove from the manifest that T1 tasks have their gap and T2 tasks were never trained on.

    Returns:
        One line of proof a task.

    Raises:
        LeakError: A T2 task or its surface occurs in training, or training evidence reaches past
            `train_end`.
    """
    proofs = []
    end, gap = manifest.split["train_end"], manifest.split["gap_days"]
    tests_from = (datetime.fromisoformat(end) + timedelta(days=gap)).isoformat()
    if manifest.last_known and manifest.last_known >= end:
        msg = (
            f"training evidence became known at {manifest.last_known}, not before train_end {end}; "
            "rebuild the shards"
        )
        raise LeakError(msg)
    if manifest.first_test and manifest.first_test < tests_from:
        msg = (
            f"a test row was shown at {manifest.first_test}, before train_end plus the gap "
            f"({tests_from}); rebuild the shards"
        )
        raise LeakError(msg)
    trained = set(manifest.tasks)
    for task in tasks:
        if task.tier == "T1":
            proofs.append(
                f"{task.name}: T1, newest evidence {manifest.last_known} < train_end {end},"
                f" first test row {manifest.first_test or 'none'} >= {tests_from}"
            )
            continue
        if task.surface in manifest.surfaces:
            msg = (
                f"task {task.name} is T2 but surface '{task.surface}' occurs in the training shards"
            )
            raise LeakError(msg)
        if any(key.split("@")[0] == task.name for key in trained):
            msg = f"task {task.name} is T2 but is listed among the trained tasks of the manifest"
            raise LeakError(msg)
        proofs.append(f"{task.name}: T2, neither the task nor surface '{task.surface}' in training")
    return proofs
