"""Versions kept elsewhere than on this machine's disk: any store that fsspec reaches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from uuid import uuid4

import fsspec
import mlflow
import pytest
from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from brewhouse.errors import ConfigError, RegistryError, StoreError
from brewhouse.files import digest_tree
from brewhouse.platform import services
from brewhouse.platform.checks import Check, State
from brewhouse.platform.stores import open_store
from brewhouse.platform.tracking import Tracker
from brewhouse.registry.approvals import Actor
from brewhouse.registry.lifecycle import Act
from brewhouse.release.choosing import chosen_model
from brewhouse.release.store import VersionFolder
from brewhouse.release.watching import trained_until
from brewhouse.stages.common import publish
from tests.release.conftest import MODEL, House


@pytest.fixture
def memory() -> str:
    fsspec.filesystem("memory").store.clear()
    return "memory://models"


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def another(uri: str) -> AbstractFileSystem:
    """The store as somebody else has it open, who knows nothing of what we have listed."""
    return fsspec.filesystem(uri.split(":")[0], skip_instance_cache=True)


def test_a_version_lives_in_an_object_store(house: House, store: str) -> None:
    version = house.register(1, store=store)
    assert version.source.startswith(f"{store}/ranker/")
    release = house.release()
    assert release.verify() == []
    bob = Actor(name="bob", via="cli")
    for act in (Act.APPROVE, Act.ORDER):
        release.decide(act, "1", bob, reason="kept far away")
    assert release.promote("1").state == "CHAMPION"
    with chosen_model("champion", release.settings) as chosen:
        assert (chosen.path / "model.safetensors").is_file()
        assert chosen.source == f"{version.source}/model"
    assert not chosen.path.exists()


def test_tampering_in_an_object_store_is_found(house: House, store: str) -> None:
    version = house.register(1, store=store)
    assert house.release().verify() == []
    files, root = another(version.source), version.source
    files.pipe_file(f"{root}/model/config.json", b"{}")
    files.rm_file(f"{root}/dossier/LICENCE.txt")
    files.pipe_file(f"{root}/dossier/more.txt", b"x")
    found = house.release().verify()
    for told in ("config.json was changed", "LICENCE.txt is gone", "more.txt was added"):
        assert any(told in line for line in found), (told, found)


MLFLOW = "mlflow-artifacts:/"


@pytest.fixture
def served(mlflow_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A registry that is a server; tests share it under names of their own."""
    monkeypatch.setenv("BREWHOUSE_TRACKING_URI", mlflow_server)
    monkeypatch.setenv("BREWHOUSE_MODEL_NAME", f"ranker-{uuid4().hex[:6]}")
    return mlflow_server


def test_a_server_of_mlflow_keeps_versions_itself(house: House, served: str) -> None:
    version = house.register(1, store=MLFLOW)
    assert re.fullmatch(r"mlflow-artifacts:/\d+/\w+/artifacts/\w+", version.source)
    again = house.register(1, store=MLFLOW)
    assert (again.version, again.source) == (version.version, version.source)
    release = house.release()
    assert release.verify() == []
    bob = Actor(name="bob", via="cli")
    for act in (Act.APPROVE, Act.ORDER):
        release.decide(act, version.version, bob, reason="kept by the server")
    assert release.promote(version.version).state == "CHAMPION"
    # The ledger's excerpt is written anew with every decision.
    assert version.folder.read_json("dossier/decisions.json")[-1]["after"] == "CHAMPION"
    with chosen_model("champion", release.settings) as chosen:
        assert digest_tree(chosen.path, pattern="*.safetensors") == digest_tree(
            MODEL, pattern="*.safetensors"
        )
    # Whoever has MLflow alone has the model.
    client = MlflowClient(tracking_uri=served, registry_uri=served)
    uri = client.get_model_version_download_uri(release.model, version.version)
    listed = mlflow.artifacts.list_artifacts(f"{uri}/model", tracking_uri=served)
    assert "model.safetensors" in {PurePosixPath(one.path).name for one in listed}
    with version.folder.local("dossier") as dossier:
        found = {p.relative_to(dossier).as_posix() for p in dossier.rglob("*") if p.is_file()}
    sealed = version.folder.read_json("manifest.json")["files"]
    # The excerpt of the ledger is no part of what is sealed.
    wanted = {name.removeprefix("dossier/") for name in sealed if name.startswith("dossier/")}
    assert found - {"decisions.json"} == wanted
    files, root = open_store(version.source, tracking_uri=served)
    files.pipe_file(f"{root}/model/config.json", b"{}")
    files.rm_file(f"{root}/dossier/LICENCE.txt")
    found = release.verify()
    for told in ("config.json was changed", "LICENCE.txt is gone"):
        assert any(told in line for line in found), (told, found)


def test_files_of_a_server_are_files(served: str) -> None:
    files, root = open_store("mlflow-artifacts:/some/where", tracking_uri=served)
    assert not files.exists(root)
    assert files.exists("")
    for name in ("a.txt", "deep/b.txt"):
        files.pipe_file(f"{root}/{name}", name.encode())
    assert files.find(root) == ["some/where/a.txt", "some/where/deep/b.txt"]
    assert files.info(f"{root}/a.txt") == {"name": f"{root}/a.txt", "size": 5, "type": "file"}
    with files.open(f"{root}/deep/b.txt", "rb") as handle:
        assert (handle.read(4), handle.read()) == (b"deep", b"/b.txt")
    files.pipe_file(f"{root}/a.txt", b"anew")
    assert files.cat_file(f"{root}/a.txt") == b"anew"
    assert files.cat_file(f"{root}/a.txt", 1, 3) == b"ne"
    files.rm_file(f"{root}/a.txt")
    assert files.ls(root, detail=False) == ["some/where/deep"]
    for gone in (files.cat_file, files.info, files.ls):
        with pytest.raises(FileNotFoundError):
            gone(f"{root}/a.txt")
    with pytest.raises(NotImplementedError, match="written whole"):
        files.open(f"{root}/c.txt", "wb")
    with pytest.raises(ValueError, match="name a file"):
        files.rm_file("")


class Down(MemoryFileSystem):
    """A store that knows its files and hands none out, with an error of its own kind."""

    protocol = "down"

    def find(self, path: str, *_: object, **__: object) -> list[str]:
        raise Outage(503)

    def cat_file(self, path: str, *_: object, **__: object) -> bytes:
        raise Outage(503)

    def pipe_file(self, path: str, value: bytes, *_: object, **__: object) -> None:
        raise Outage(503)


class Outage(Exception):  # noqa: N818 - clients of stores have such
    pass


def test_a_store_that_is_down_is_not_taken_for_a_broken_one(
    house: House, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = house.register(1, store=memory)
    release = house.release()
    bob = Actor(name="bob", via="cli")
    release.decide(Act.APPROVE, "1", bob, reason="holds on every slice")
    for name in ("find", "cat_file", "pipe_file"):
        monkeypatch.setattr(MemoryFileSystem, name, getattr(Down, name))
    kept = version.folder
    for call in (
        lambda: kept.check(version.entries[0].artifact),
        kept.names,
        lambda: kept.read("manifest.json"),
        lambda: kept.write("dossier/decisions.json", b""),
        release.verify,
        lambda: trained_until(kept),
    ):
        with pytest.raises(StoreError, match="does not answer: Outage: 503"):
            call()
    refused = [r for r in release.ledger.refusals() if r["version"] == "1"]
    assert refused == []


def test_a_server_that_is_down_is_no_file_that_is_gone(
    house: House, served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = house.register(1, store=MLFLOW)
    release = house.release()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    away = VersionFolder(version.source, tracking_uri="http://127.0.0.1:9")
    for call in (
        away.exists,
        away.names,
        lambda: away.check("sha256:0"),
        lambda: away.read("manifest.json"),
        lambda: away.put(MODEL),
    ):
        with pytest.raises(StoreError, match="does not answer"):
            call()
    files, root = open_store(version.source, tracking_uri=served)
    # Nor is a version that was registered built anew, as another one.
    files.rm_file(f"{root}/manifest.json")
    with pytest.raises(RegistryError, match="was registered with these results and is gone"):
        house.register(1, store=MLFLOW)
    runs = release.registry.runs("brewhouse", 9)
    assert next(run.status for run in runs if run.name == "candidate") == "FAILED"


@pytest.fixture
def on_disk(served: str) -> Iterator[None]:
    """The server's experiment keeps artifacts in a folder; another one takes its name after."""
    client = MlflowClient(tracking_uri=served)

    def away() -> None:
        if found := client.get_experiment_by_name("brewhouse"):
            client.rename_experiment(found.experiment_id, f"brewhouse-{uuid4().hex[:6]}")

    away()
    client.create_experiment("brewhouse", artifact_location="/mlruns")
    yield
    away()


def test_artifacts_on_somebody_s_disk_are_no_store(
    house: House, served: str, on_disk: None
) -> None:
    with pytest.raises(RegistryError, match="keeps artifacts in .*/mlruns.*disk of whoever's"):
        house.register(1, store=MLFLOW)
    found = _store_check(served, MLFLOW)
    assert (found.state, "/mlruns, a folder" in found.value) == (State.MISSING, True)


def test_what_fails_is_told_even_where_mlflow_does_not_hear_of_it(
    served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deaf(*_: object, **__: object) -> None:
        raise MlflowException(str(503))

    tracker = Tracker(served, experiment="brewhouse")
    monkeypatch.setattr(tracker.client, "set_terminated", deaf)
    down = StoreError("the store is down")
    with pytest.raises(StoreError, match="down"), tracker.running("candidate", {}):
        raise down


def test_a_registry_in_sqlite_keeps_versions_beside_its_file(house: House) -> None:
    version = house.register(1, store=MLFLOW)
    assert Path(version.source).is_relative_to(house.home / "mlflow-artifacts")
    assert house.release().verify() == []
    tracking_uri = house.release().settings.tracking_uri
    assert _store_check(tracking_uri, MLFLOW).state is State.OK


def _store_check(tracking_uri: str, store: str) -> Check:
    checks = services.examine(
        kfp_host="", tracking_uri=tracking_uri, database_uri="", signing_key="", store=store
    )
    return next(c for c in checks if c.name == "object store")


def test_a_store_on_premises_is_tried_and_its_absence_told(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "PAUSE_S", 0.0)
    assert _store_check("", f"{s3}/ranker").state is State.OK
    assert another(s3).find(s3) == []
    absent = _store_check("", "s3://nobody-made-this/ranker")
    assert absent.state is State.MISSING
    assert "bucket does not exist" in absent.value
    assert "Secret brewhouse-store" in absent.remedy
    (tmp_path / "page.html").write_text("<p>told")
    publish({"deep/page.html": tmp_path / "page.html"}, f"{s3}/run")
    assert another(s3).cat_file(f"{s3}/run/deep/page.html") == b"<p>told"


def test_where_a_version_cannot_be_kept_is_told_before_a_run(
    house: House, served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "PAUSE_S", 0.0)
    assert _store_check(served, MLFLOW).state is State.OK
    for number, store in enumerate((str(tmp_path / "models"), f"{MLFLOW}models"), 2):
        refused = _store_check(served, store)
        assert refused.state is State.MISSING
        assert f"takes no version from {store}" in refused.value
        assert "mlflow-artifacts:/ for" in refused.remedy
        # It is MLflow itself that does not.
        with pytest.raises(RegistryError, match="did not take .*Invalid model version source"):
            house.register(number, store=store)
    with pytest.raises(ConfigError, match="is kept by a server of MLflow, and 'sqlite.*is none"):
        open_store(MLFLOW, tracking_uri="sqlite:///mlflow.db")
    monkeypatch.chdir(tmp_path)
    nowhere = _store_check("", MLFLOW)
    assert (nowhere.state, "and '' is none" in nowhere.value) == (State.MISSING, True)
    assert list(tmp_path.glob("mlflow.db")) == []
