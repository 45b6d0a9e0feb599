"""The log through Feast into member shards: all of it, or what was known by a moment."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from brewhouse.data.rules import excluded_members
from brewhouse.data.schema import TIMESTAMP
from brewhouse.data.snapshot import Snapshot, shard_of
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import DataError
from brewhouse.stages import features
from brewhouse.stages.log_shards import LOG, pull_log


@pytest.fixture(scope="module")
def filled(tiny: Snapshot, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features")
    features.run(domain="linkedin", snapshot=tiny.path, features_out=out)
    return out


@pytest.mark.parametrize("known_by", [None, datetime(2024, 2, 20, tzinfo=UTC)])
def test_each_member_s_rows_are_in_one_shard(
    linkedin: DomainFolder, tiny: Snapshot, filled: Path, tmp_path: Path, known_by: datetime | None
) -> None:
    """By a moment of February, of which March's rows are all newer."""
    assert tiny.months()[-1] == "2024-03"
    logs = tmp_path / "logs"
    counts = pull_log(linkedin, "linkedin", tiny, filled, logs, shards=4, known_by=known_by)
    regions = linkedin.domain.regions
    assert regions is not None
    profiles = tiny.read("members", columns=["member_id", regions.column])
    out = excluded_members(profiles, regions.column, regions.allowed)
    log = tiny.read("interactions", columns=["interaction_id", "member_id", "created_at"])
    log = log.filter(pc.invert(pc.is_in(log.column("member_id"), pa.array(sorted(out)))))
    if known_by is not None:
        known = pc.less_equal(log.column("created_at"), pa.scalar(known_by, TIMESTAMP))
        log = log.filter(known)
    found = {
        int(folder.name): pq.read_table(folder / LOG, columns=["interaction_id", "member_id"])
        for folder in logs.iterdir()
    }
    ids = [i for table in found.values() for i in table.column("interaction_id").to_pylist()]
    assert sorted(ids) == sorted(log.column("interaction_id").to_pylist())
    assert counts["rows"] == len(ids) > 1000
    assert counts["members_outside_regions"] == len(out) > 0
    for number, table in found.items():
        assert {shard_of(m, 4) for m in table.column("member_id").to_pylist()} == {number}


def test_a_log_with_nobody_allowed_is_refused(
    linkedin: DomainFolder, tiny: Snapshot, filled: Path, tmp_path: Path
) -> None:
    regions = linkedin.domain.regions
    assert regions is not None
    nobody = linkedin.domain.model_copy(
        update={"regions": regions.model_copy(update={"allowed": ["Atlantis"]})}
    )
    with pytest.raises(DataError, match="no interactions of allowed members"):
        pull_log(
            replace(linkedin, domain=nobody), "linkedin", tiny, filled, tmp_path / "logs", shards=4
        )
