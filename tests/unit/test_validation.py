"""Bad input: each fault blocks with one clear message; nothing half-written, nothing trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from brewhouse.domains.importer import import_source
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import DataError, ValidationBlocked
from brewhouse.stages import validating

Spoil = Callable[[Path], None]


def _members(change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Spoil:
    return lambda raw: _change(sorted((raw / "members").glob("*"))[0], change)


def _items(change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Spoil:
    return lambda raw: _change(raw / "items.parquet", change)


def _log(change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> Spoil:
    return lambda raw: _change(sorted((raw / "interactions").glob("*"))[0], change)


def _change(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame | None]) -> None:
    frame = pd.read_parquet(path)
    changed = change(frame)
    (frame if changed is None else changed).to_parquet(
        path, coerce_timestamps="us", allow_truncated_timestamps=True
    )


def _set(column: str | list[str], value: object) -> Callable[[pd.DataFrame], None]:
    def change(frame: pd.DataFrame) -> None:
        frame.loc[5, column] = value

    return change


def _older(frame: pd.DataFrame) -> None:
    first = frame["shown_at"].min()
    frame.loc[5, "shown_at"] = first - pd.Timedelta(days=400)


FAULTS: dict[str, tuple[Spoil, str]] = {
    "unknown action": (_log(_set("action", "poked")), r"unknown action\): 1 of"),
    "unknown surface": (_log(_set("surface", "moon")), r"unknown surface\): 1 of"),
    "impossible pair": (
        _log(_set(["surface", "action"], ["groups", "applied"])),
        "the action is possible on its surface",
    ),
    "negative age": (_log(_older), r"negative age\): 1 rows, item i"),
    "duplicate interaction": (
        _log(lambda f: pd.concat([f, f.head(1)])),
        r"interaction ids are unique \(duplicate ids\)",
    ),
    "duplicate item": (_items(lambda f: pd.concat([f, f.head(1)])), r"one version a moment \(dup"),
    "duplicate member": (
        _members(lambda f: pd.concat([f, f.head(1)])),
        r"profile version a moment",
    ),
    "empty text": (_items(_set("title", "   ")), "title is not empty text: 1 of"),
    "mail address": (_items(_set("title", "write to jo@example.org")), "no mail address"),
    "phone number": (_items(_set("title", "call +41 44 668 18 00")), "or phone number"),
    "unknown region": (_members(_set("country", None)), "country is required"),
    "time runs back": (
        _log(_set("event_at", pd.Timestamp("2023-01-01", tz="UTC"))),
        "an event follows its impression",
    ),
    "unknown item": (_log(_set("item_id", "i99999999")), "names a known item: 1 rows"),
    "unknown member": (_log(_set("member_id", "m9999999")), "names a known member: 1 rows"),
    "outside a closed set": (_members(_set("seniority", "emperor")), "seniority is one of junior"),
}


@pytest.fixture
def run(linkedin: DomainFolder, tiny_raw: Path, tmp_path: Path) -> Callable[[Spoil | None], list]:
    def import_and_validate(spoil: Spoil | None) -> list:
        raw = tmp_path / "raw"
        shutil.copytree(tiny_raw, raw)
        if spoil:
            spoil(raw)
        import_source(linkedin.domain, raw, tmp_path / "snapshot")
        return validating.run(
            domain="linkedin",
            snapshot=tmp_path / "snapshot",
            train_end="",
            report_out=tmp_path / "v.json",
            docs_out=tmp_path / "docs",
        )

    return import_and_validate


def test_clean_data_passes_and_docs_tell_no_member(
    run: Callable[[Spoil | None], list], tmp_path: Path
) -> None:
    assert run(None) == []
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert len(pages) >= 4
    for page in pages:
        text = page.read_text()
        assert "m00000" not in text
        assert "https://cdn" not in text
        assert 'src="http' not in text


@pytest.mark.parametrize(("spoil", "message"), FAULTS.values(), ids=FAULTS)
def test_faults_block(run: Callable[[Spoil | None], list], spoil: Spoil, message: str) -> None:
    with pytest.raises(ValidationBlocked, match=message):
        run(spoil)


def test_a_wrong_type_stops_the_import(run: Callable[[Spoil | None], list], tmp_path: Path) -> None:
    def text_times(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(shown_at="yesterday")

    with pytest.raises(DataError, match="column 'shown_at' is .*string"):
        run(lambda raw: [_change(p, text_times) for p in (raw / "interactions").glob("*")] and None)
    assert not (tmp_path / "snapshot").exists()
    assert not list(tmp_path.glob(".snapshot*"))
