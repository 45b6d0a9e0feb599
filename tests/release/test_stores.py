"""Versions kept elsewhere than on this machine's disk: any store that fsspec reaches."""

from __future__ import annotations

import fsspec
import pytest

from brewhouse.registry.approvals import Actor
from brewhouse.registry.lifecycle import Act
from brewhouse.release.choosing import chosen_model
from tests.release.conftest import House


@pytest.fixture
def store() -> str:
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    return "memory://models"


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
    memory = fsspec.filesystem("memory")
    root = version.source.removeprefix("memory:/")
    memory.pipe_file(f"{root}/model/config.json", b"{}")
    memory.rm_file(f"{root}/dossier/LICENCE.txt")
    memory.pipe_file(f"{root}/dossier/more.txt", b"x")
    found = house.release().verify()
    for told in ("config.json was changed", "LICENCE.txt is gone", "more.txt was added"):
        assert any(told in line for line in found), (told, found)
