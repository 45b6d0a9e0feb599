"""Environment `staging` as a cluster has it: online store in Redis, a registry that others read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.loader import DomainFolder
from brewhouse.errors import ConfigError
from brewhouse.platform.feast_environment import FeastEnvironment, feature_repo
from brewhouse.platform.feast_store import FeastStore
from brewhouse.stages import features
from tests.conftest import ROOT

NOW = "2024-03-10"


@pytest.fixture(autouse=True)
def staging(redis: str, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWHOUSE_FEAST_ENV", "staging")
    monkeypatch.setenv("BREWHOUSE_FEAST_REDIS", redis)
    monkeypatch.setenv("BREWHOUSE_FEAST_REGISTRY", postgres)


def _rows(store: FeastStore, members: list[str]) -> dict[str, list[object]]:
    rows: dict[str, list[object]] = store.store.get_online_features(
        features=store.store.get_feature_service("ranker_v1"),
        entity_rows=[{"member_id": member} for member in members],
    ).to_dict()
    return rows


def test_a_run_fills_redis_and_the_shared_registry(
    tiny: Snapshot, linkedin: DomainFolder, tmp_path: Path
) -> None:
    features.run(domain="linkedin", snapshot=tiny.path, features_out=tmp_path / "there", now=NOW)
    members = sorted(set(tiny.read("members").column("member_id").to_pylist()))[:40]
    # A server knows nothing of the run: it opens the environment as it stands.
    server = FeastEnvironment("staging").open()
    served = server.get_online_features(
        features=server.get_feature_service("ranker_v1"),
        entity_rows=[{"member_id": member} for member in members],
    ).to_dict()
    files = features.run(
        domain="linkedin", snapshot=tiny.path, features_out=tmp_path / "here", now=NOW, env="local"
    )
    assert served == _rows(files, members)
    assert any(served["items"])
    assert not (tmp_path / "there" / "online.db").exists()
    told = (tmp_path / "there" / "feature_store.yaml").read_text()
    assert "told" not in told
    assert yaml.safe_load(told)["online_store"]["connection_string"] == "${BREWHOUSE_FEAST_REDIS}"


def test_what_is_missing_is_named(
    tiny: Snapshot, linkedin: DomainFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BREWHOUSE_FEAST_REDIS")
    store = FeastStore(tmp_path, domain=linkedin.domain, domain_path="linkedin")
    with pytest.raises(ConfigError, match="'staging' .* needs BREWHOUSE_FEAST_REDIS; .* secret"):
        store.apply()


def test_steps_fill_the_project_that_is_served() -> None:
    served = yaml.safe_load(
        (ROOT / "manifests/components/features/featurestore.yaml").read_text(encoding="utf-8")
    )["spec"]["feastProject"]
    for env in ("staging", "prod"):
        path = feature_repo() / "environments" / env / "feature_store.yaml"
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["project"] == served


def test_runs_side_by_side_read_their_own_files(
    tiny: Snapshot, linkedin: DomainFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run's paths in the shared registry lead no earlier one astray."""
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        features.run(domain="linkedin", snapshot=tiny.path, features_out=out, now=NOW)
    shutil.rmtree(two)
    # A step that reads has its own stores: those of the environment may be away.
    monkeypatch.setenv("BREWHOUSE_FEAST_REDIS", "127.0.0.1:1")
    monkeypatch.setenv("BREWHOUSE_FEAST_REGISTRY", "postgresql+psycopg://nobody@127.0.0.1:1/x")
    reader = FeastStore(one, domain=linkedin.domain, domain_path="linkedin", state=tmp_path / "own")
    reader.apply()
    assert reader.store.config.online_store.type == "sqlite"
    frame = tiny.read("members").to_pandas()
    moments = frame.valid_from.astype("datetime64[us, UTC]").astype("int64").to_numpy() + 1
    assert len(reader.profiles_at(frame.member_id.tolist(), moments)) == len(frame)
