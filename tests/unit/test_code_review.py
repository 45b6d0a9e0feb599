"""The `code_review` import on made-up rows: profiles tell the years before, and nothing newer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.importer import import_source
from brewhouse.domains.loader import load_domain
from brewhouse.errors import ConfigError

ANN, BOB = "m0aaaaaaa", "m1bbbbbbb"
ITEMS = [
    # item, posted, author, subject, dirs
    ("i1", "2018-02-01", BOB, "mmc: fsl: Fix a hang", "drivers/mmc/core.c;include/mmc.h"),
    ("i2", "2018-03-01", BOB, "mmc: Tidy up", "drivers/mmc/core.c"),
    ("i3", "2018-12-30", BOB, "spi: Late in the year", "drivers/spi/core.c"),
    ("i4", "2019-06-01", ANN, "net: Something new", "net/eth-uclass.c"),
    ("i5", "2019-07-01", BOB, "fs: Another", "fs/ext4/read.c"),
]


def write_source(folder: Path) -> Path:
    folder.mkdir()
    day = pd.Timedelta(days=1)
    items = pd.DataFrame(ITEMS, columns=["item", "time_posted", "author", "subject", "dirs"])
    items["time_posted"] = pd.to_datetime(items["time_posted"])
    items["time_applied"] = items["time_posted"] + 4 * day
    items["body"], items["nfiles"] = "text", 1

    def rows(acts: list[tuple[str, str, str]]) -> pd.DataFrame:
        table = pd.DataFrame(acts, columns=["member", "item", "action"])
        table = table.merge(items[["item", "time_posted", "time_applied"]], on="item")
        return table.rename(columns={"time_applied": "time"})

    events = rows(
        [(ANN, "i1", "reviewed"), (ANN, "i2", "reviewed"), (ANN, "i3", "reviewed")]
        + [(ANN, "i4", "author"), (BOB, "i1", "author"), (BOB, "i5", "author")]
    )
    events["surface"] = events["action"]
    # Asked five times by the end of 2018, once with an answer; four requests are of 2019.
    asked = rows([(ANN, i, a) for i, a in (("i1", "reviewed"), ("i2", "none"), ("i5", "none"))])
    more = [asked[asked["item"] == item] for item in ("i2", "i5")]
    asked = pd.concat([asked, *more * 3])
    asked["y"], asked["surface"] = (asked["action"] != "none").astype(int), "review_request"
    seen = "2018-01-15 00:00:00"
    tables: dict[str, Any] = {
        "members": pd.DataFrame({"member": [ANN, BOB], "first_seen": seen}),
        "member_orgs": pd.DataFrame(
            {
                "member": [ANN, BOB],
                "org": ["example.org", "mail.example"],
                "public_mail": [0, 1],
                "first_seen": seen,
                "last_seen": "2019-12-01 00:00:00",
                "n": 3,
            }
        ),
        "items": items,
        "events": events,
        "impressions": asked,
    }
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv.gz", index=False)
    return folder


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("code_review")
    domain = load_domain("code_review").domain
    return import_source(domain, write_source(folder / "raw"), folder / "snapshot")


def test_a_profile_tells_the_years_before(cut: Snapshot) -> None:
    members = cut.read("members").to_pandas()
    ann = members[members.member_id == ANN].sort_values("valid_from")
    told = {str(row.valid_from)[:10]: row for row in ann.itertuples()}
    assert sorted(told) == ["2018-01-15", "2019-01-01", "2020-01-01"]
    assert told["2018-01-15"].usual == "nothing yet"
    # i3 was applied in January: what was done with it is known a year later. Most often first.
    bob = "m" + BOB[1:].translate(str.maketrans("0123456789", "ghijklopqr"))
    assert told["2019-01-01"].usual == f"{bob} mmc fsl include"
    assert told["2020-01-01"].usual.split()[:2] == [bob, "mmc"]
    assert {"spi", "net", "fsl"} < set(told["2020-01-01"].usual.split())
    # The member's own patch tells her own name, not that of whoever wrote about her.
    assert "fs" not in told["2020-01-01"].usual.split()
    assert told["2019-01-01"].employer == "example.org"


def test_answers_count_requests_of_the_years_before(cut: Snapshot) -> None:
    members = cut.read("members").to_pandas().sort_values("valid_from")
    ann = members[members.member_id == ANN].answers.tolist()
    # 1 of 5 by the end of 2018; 1 of 9 a year later; nobody asked Bob.
    assert ann == ["unknown", "sometimes", "seldom"]
    assert set(members[members.member_id == BOB].answers) == {"unknown"}


def test_items_tell_what_profiles_tell(cut: Snapshot) -> None:
    item = {row["item_id"]: row for row in cut.read("items").to_pylist()}["i1"]
    assert (item["topic"], item["parts"], item["title"]) == ("mmc fsl", "include mmc", "Fix a hang")
    assert item["dirs"] == "drivers/mmc include"


def test_a_view_that_fails_is_named(tmp_path: Path) -> None:
    domain = load_domain("code_review").domain
    views = {"patches": "SELECT nothing FROM items"}
    source = domain.source.model_copy(update={"views": views})
    broken = domain.model_copy(update={"source": source})
    with pytest.raises(ConfigError, match=r"code_review: source\.views\.patches: .*nothing"):
        import_source(broken, write_source(tmp_path / "raw"), tmp_path / "snapshot")
    assert not (tmp_path / "snapshot").exists()
