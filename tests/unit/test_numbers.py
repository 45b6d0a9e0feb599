"""Numbers become words by their rank in the training window, and only there."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pyarrow as pa
import pytest

from brewhouse.domains.loader import DomainFolder
from brewhouse.prompts.numbers import NumberWords, Quantiles
from brewhouse.prompts.verbalizer import Verbalizer

END = pa.scalar(datetime(2024, 3, 1, tzinfo=UTC), pa.timestamp("us", tz="UTC"))
MEMBERS = pa.table(
    {"member_id": ["m"], "valid_from": pa.array([END.as_py()], pa.timestamp("us", tz="UTC"))}
)


def items(reach: list[int | None], day: int) -> pa.Table:
    at = datetime(2024, 2, day, tzinfo=UTC) if day < 29 else datetime(2024, 6, 1, tzinfo=UTC)
    stamps = pa.array([at] * len(reach), pa.timestamp("us", tz="UTC"))
    return pa.table({"valid_from": stamps, "reach": pa.array(reach, pa.int64())})


def test_cut_points_ignore_what_came_after_training(linkedin: DomainFolder) -> None:
    known = items([1, 2, 3, 4, 5, None], 1)
    later = pa.concat_tables([known, items([10_000] * 50, 30)])
    one, two = (
        NumberWords.fit(linkedin.domain, members=MEMBERS, items=table, train_end=END)
        for table in (known, later)
    )
    assert one == two
    assert [one.items["reach"].word(v) for v in (1, 3, 5, 10_000)] == [
        "obscure",
        "known",
        "famous",
        "famous",
    ]


def test_missing_numbers_tell_nothing_and_the_json_form_is_whole() -> None:
    quantiles = Quantiles(words=("low", "high"), limits=(0.5,))
    assert quantiles.word(None) == quantiles.word(float("nan")) == ""
    numbers = NumberWords(members={}, items={"reach": quantiles})
    assert NumberWords.parse(json.loads(json.dumps(numbers.describe()))) == numbers


@pytest.mark.parametrize(("style", "told"), [("short", "famous"), ("digits", "900")])
def test_styles_choose_words_or_digits(linkedin: DomainFolder, style: str, told: str) -> None:
    numbers = NumberWords(
        members={}, items={"reach": Quantiles(words=("obscure", "famous"), limits=(10.0,))}
    )
    row = {
        "kind": "post",
        "title": "rust",
        "company": "",
        "format": "video",
        "area": "software",
        "topic": "rust",
        "reach": 900,
    }
    verbalizer = Verbalizer(linkedin.domain, style=style, numbers=numbers)
    assert verbalizer.question(row) == f"rust {told} video software"
