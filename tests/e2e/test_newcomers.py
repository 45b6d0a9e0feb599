"""Newcomers have more requests than other changed forms, and baselines are asked them too."""

from __future__ import annotations

from pathlib import Path

import pytest

from brewhouse.data.snapshot import Snapshot
from brewhouse.model.shipped import locate
from brewhouse.prompts.shards import read_folder
from brewhouse.stages import baselines, evaluating, features, verbalizing

pytestmark = pytest.mark.slow


def test_newcomers_have_requests_of_their_own(
    tiny: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verbalizing, "PROBE_SESSIONS", 60)
    monkeypatch.setattr(verbalizing, "NEWCOMER_SESSIONS", 240)
    shards = tmp_path / "shards"
    told = {"domain": "linkedin", "snapshot": tiny.path, "features": tmp_path / "features"}
    features.run(domain="linkedin", snapshot=tiny.path, features_out=tmp_path / "features")
    verbalizing.run(**told, train_end="", shards_out=shards, model="linkedin-tiny")
    few = {row for tree in read_folder(shards / "probes" / "newest_4") for row in tree.row_N}
    more = {row for tree in read_folder(shards / "probes" / "newcomer") for row in tree.row_N}
    assert few < more
    scorers = ("popularity", "lightgbm")
    baselines.run(**told, shards=shards, baselines_out=tmp_path / "baselines", scorers=scorers)
    results = evaluating.run(
        domain="linkedin",
        shards=shards,
        model=Path(locate("linkedin-tiny")),
        baselines=tmp_path / "baselines",
        oracle=tmp_path / "none",
        results_out=tmp_path / "results.json",
        report_out=tmp_path / "report.html",
        resamples=20,
    )
    probes = {p.name: p for p in results.probes}
    newcomers = probes.pop("newcomer")
    assert newcomers.rows > 2 * probes["newest_4"].rows
    assert set(newcomers.peers) == set(scorers)
    assert not any(p.peers for p in probes.values())
    assert len({p.rows for p in probes.values()}) == 1
    report = (tmp_path / "report.html").read_text()
    few = f"{newcomers.rows:,} rows of these tasks with no more than 4 interactions of a member"
    assert few in report
    assert f"The same {probes['newest_4'].rows:,} rows" in report
    assert "newcomer" not in report
