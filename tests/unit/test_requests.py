"""Requests of batch scoring: what is read, and what is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from brewhouse.data.requests import as_interactions, check_requests, cross, read_requests
from brewhouse.data.rules import excluded_members
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.timelines import log_from_table
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import BrewhouseError, ConfigError, DataError

AT = datetime(2024, 5, 1, tzinfo=UTC)


def _csv(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_rows_of_one_member_surface_and_moment_are_a_request(tmp_path: Path) -> None:
    path = _csv(
        tmp_path / "r.csv",
        "member_id,item_id,surface,at\n7,1,jobs,2024-05-01\n8,1,jobs,2024-05-01\n"
        "7,2,jobs,2024-05-01\n7,2,feed,2024-05-01\n7,3,jobs,2024-05-02\n",
    )
    found = read_requests(path)
    assert found.column("request_id").to_pylist() == ["0", "1", "0", "2", "3"]
    assert found.column("member_id").to_pylist() == ["7", "8", "7", "7", "7"]
    assert found.column("at")[0].as_py() == AT


def test_what_the_file_does_not_say_is_given(tmp_path: Path) -> None:
    path = tmp_path / "r.parquet"
    pq.write_table(pa.table({"member_id": ["a", "a"], "item_id": ["1", "2"]}), path)
    found = read_requests(path, surface="jobs", at=AT)
    assert set(found.column("surface").to_pylist()) == {"jobs"}
    assert set(found.column("at").to_pylist()) == {AT}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("member_id,item_id,at\na,1,2024-05-01\n", "no column 'surface'; add it, or name"),
        ("member_id,item_id,surface\na,1,jobs\n", "no column 'at'; add it, or give"),
        ("member_id,surface,at\na,jobs,2024-05-01\n", "column 'item_id' is missing"),
        ("member_id,item_id,surface,at\na,1,jobs,soon\n", "column 'at' is string"),
        ("member_id,item_id,surface,at\n", "holds no candidate"),
        (
            "request_id,member_id,item_id,surface,at\nr,a,1,jobs,2024-05-01\nr,b,1,jobs,2024-05-01\n",
            r"request r names several members.*\(1 such requests\)",
        ),
    ],
)
def test_mistakes_in_a_file_are_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(BrewhouseError, match=told):
        read_requests(_csv(tmp_path / "r.csv", text))


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.parquet cannot be read .*; give Parquet or CSV"):
        read_requests(tmp_path / "no.parquet")


def test_every_member_with_every_item(tmp_path: Path) -> None:
    members = _csv(tmp_path / "m.csv", "member_id\na\nb\na\n")
    items = _csv(tmp_path / "i.csv", "item_id\n1\n2\n")
    found = cross(members, items, surface="jobs", at=AT)
    pairs = list(
        zip(found.column("member_id").to_pylist(), found.column("item_id").to_pylist(), strict=True)
    )
    assert pairs == [("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")]
    assert found.column("request_id").to_pylist() == ["0", "0", "1", "1"]


def test_members_and_items_must_be_known_and_allowed(
    tiny: Snapshot, linkedin: DomainFolder
) -> None:
    members, items = tiny.read("members"), tiny.read("items")
    outside = members.filter(pc.equal(members.column("country"), "DE"))
    inside = members.filter(pc.equal(members.column("country"), "US"))
    good = inside.column("member_id")[0].as_py()
    item = items.column("item_id")[0].as_py()
    cases = {
        (good, item, "jobs"): None,
        ("nobody", item, "jobs"): "1 of 1 .*'nobody': it is not among the members",
        (good, "nothing", "jobs"): "'nothing': it is not among the items",
        (good, item, "cafeteria"): "'cafeteria': no task asks about it; the tasks ask about jobs",
        (outside.column("member_id")[0].as_py(), item, "jobs"): "outside the allowed regions",
    }
    excluded = excluded_members(members, "country", linkedin.domain.regions.allowed)
    for (member, thing, surface), told in cases.items():
        table = pa.table({"member_id": [member], "item_id": [thing], "surface": [surface]})
        if told is None:
            check_requests(table, tiny, {"jobs"}, excluded)
        else:
            with pytest.raises(DataError, match=told):
                check_requests(table, tiny, {"jobs"}, excluded)


def test_requests_are_no_evidence(tmp_path: Path) -> None:
    path = _csv(tmp_path / "r.csv", "member_id,item_id,surface,at\na,1,jobs,2024-05-01\n")
    asked = read_requests(path).append_column("row", pa.array(["0"]))
    log = log_from_table(as_interactions(asked, action="none"))
    assert log.logged.tolist() == [False]
    assert log.interaction_id.tolist() == ["0"]
