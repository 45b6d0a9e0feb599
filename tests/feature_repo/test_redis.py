"""Environment `staging` as a cluster has it: online store in Redis, a registry that others read."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from feast import FeatureStore

from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.loader import DomainFolder, domain_path
from brewhouse.errors import ConfigError, DataError
from brewhouse.platform.feast_environment import FeastEnvironment, feature_repo
from brewhouse.platform.feast_store import FeastStore
from brewhouse.stages import features, publishing
from tests.conftest import ROOT

NOW = "2024-03-10"


@pytest.fixture(autouse=True)
def staging(redis: str, postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWHOUSE_FEAST_ENV", "staging")
    monkeypatch.setenv("BREWHOUSE_FEAST_REDIS", redis)
    monkeypatch.setenv("BREWHOUSE_FEAST_REGISTRY", postgres)


def _rows(store: FeatureStore, members: list[str]) -> dict[str, list[object]]:
    rows: dict[str, list[object]] = store.get_online_features(
        features=store.get_feature_service("ranker_v1"),
        entity_rows=[{"member_id": member} for member in members],
    ).to_dict()
    return rows


def _fill(domain: str, cut: Snapshot, out: Path, *, env: str = "", now: str = NOW) -> FeastStore:
    at, own = out / "features", out / "served"
    features.run(
        domain=domain, snapshot=cut.path, features_out=at, now=now, env=env, histories=True
    )
    return publishing.run(domain=domain, features=at, out=own, env=env)


def _served(domain: str, members: list[str]) -> dict[str, list[object]]:
    """What a server tells: it knows nothing of the run and opens the environment as it stands."""
    return _rows(FeastEnvironment("staging", domain=domain).open(), members)


def test_a_run_fills_redis_and_the_shared_registry(tiny: Snapshot, tmp_path: Path) -> None:
    there = tmp_path / "there"
    _fill("linkedin", tiny, there)
    members = sorted(set(tiny.read("members").column("member_id").to_pylist()))[:40]
    served = _served("linkedin", members)
    assert served == _rows(_fill("linkedin", tiny, tmp_path / "here", env="local").store, members)
    assert any(served["items"])
    assert not list(there.rglob("online.db"))
    told = (there / "served" / "feature_store.yaml").read_text()
    assert yaml.safe_load(told)["online_store"]["connection_string"] == "${BREWHOUSE_FEAST_REDIS}"


def test_a_store_that_is_new_is_filled_from_what_was_built(
    tiny: Snapshot, tmp_path: Path, redis: str
) -> None:
    """The offline store comes from a cache, the online store lost all it had."""
    from redis import Redis

    _fill("linkedin", tiny, tmp_path)
    members = sorted(set(tiny.read("members").column("member_id").to_pylist()))[:40]
    before = _served("linkedin", members)
    host, port = redis.split(",")[0].split(":")
    Redis(host, int(port), password=redis.partition("password=")[2]).flushall()
    assert not any(_served("linkedin", members)["items"])
    publishing.run(domain="linkedin", features=tmp_path / "features", out=tmp_path / "again")
    assert _served("linkedin", members) == before


def test_domains_lie_side_by_side(tiny: Snapshot, tmp_path: Path) -> None:
    members = sorted(set(tiny.read("members").column("member_id").to_pylist()))[:40]
    _fill("linkedin", tiny, tmp_path / "one")
    before = _served("linkedin", members)
    other = tmp_path / "other"
    shutil.copytree(domain_path("linkedin"), other)
    told = (other / "domain.yaml").read_text()
    assert told.count("\nname: linkedin\n") + told.startswith("name: linkedin\n") == 1
    (other / "domain.yaml").write_text(told.replace("name: linkedin\n", "name: other\n", 1))
    # Two weeks earlier its members had done less.
    _fill(str(other), tiny, tmp_path / "two", now="2024-02-25")
    assert _served("other", members)["items"] != before["items"]
    assert _served("linkedin", members) == before
    projects = FeastEnvironment("staging", domain="other").open().list_projects()
    assert {p.name for p in projects} >= {"brewhouse_linkedin", "brewhouse_other"}


def test_features_without_histories_fill_nothing(tiny: Snapshot, tmp_path: Path) -> None:
    features.run(domain="linkedin", snapshot=tiny.path, features_out=tmp_path / "f", now=NOW)
    with pytest.raises(DataError, match="holds no histories.* online = true"):
        publishing.run(domain="linkedin", features=tmp_path / "f", out=tmp_path / "o")


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
        project = yaml.safe_load(path.read_text(encoding="utf-8"))["project"]
        assert project.replace("${BREWHOUSE_FEAST_DOMAIN}", "linkedin") == served


def test_runs_side_by_side_read_their_own_files(
    tiny: Snapshot, linkedin: DomainFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later run's paths in the shared registry lead no earlier one astray."""
    one, two = tmp_path / "one", tmp_path / "two"
    for out in (one, two):
        _fill("linkedin", tiny, out)
    one = one / "features"
    shutil.rmtree(two)
    # A step that reads has its own stores: those of the environment may be away.
    monkeypatch.setenv("BREWHOUSE_FEAST_REDIS", "127.0.0.1:1")
    monkeypatch.setenv("BREWHOUSE_FEAST_REGISTRY", "postgresql+psycopg://nobody@127.0.0.1:1/x")
    reader = FeastStore(
        one,
        domain=linkedin.domain,
        domain_path="linkedin",
        state=tmp_path / "own",
        reads_only=True,
    )
    reader.apply()
    assert reader.store.config.online_store.type == "sqlite"
    frame = tiny.read("members").to_pandas()
    moments = frame.valid_from.astype("datetime64[us, UTC]").astype("int64").to_numpy() + 1
    assert len(reader.profiles_at(frame.member_id.tolist(), moments)) == len(frame)
