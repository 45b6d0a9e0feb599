"""Decisions about versions: who may, what follows what, what is found when it was touched."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from brewhouse.errors import (
    ConfigError,
    LifecycleError,
    PermissionDenied,
    RegistryError,
    TamperError,
)
from brewhouse.registry.approvals import Actor, ApprovalPolicy, load_approvals
from brewhouse.registry.entries import Draft
from brewhouse.registry.lifecycle import Act, State, after
from brewhouse.release import service
from brewhouse.release.dossier import SMOKE_LIMIT, smoke
from brewhouse.release.service import open_ledger
from brewhouse.release.settings import CHAMPION, Settings
from tests.release.conftest import House

WHY = "the figures hold on every task"
ANN, BOB, WIM, RITA = (Actor(name=n, via="cli") for n in ("ann", "bob", "wim", "rita"))
Make = Callable[..., ApprovalPolicy]


@pytest.mark.parametrize("act", list(Act))
@pytest.mark.parametrize("before", [None, *State])
def test_moves(act: Act, before: State | None) -> None:
    """The whole table: what is not listed is an error that says what would be allowed."""
    legal = {
        (Act.REGISTER, None): "CANDIDATE",
        (Act.EVALUATE, "CANDIDATE"): "EVALUATED",
        (Act.SUBMIT, "EVALUATED"): "PENDING_APPROVAL",
        (Act.WAIVE, "EVALUATED"): "PENDING_APPROVAL",
        (Act.APPROVE, "PENDING_APPROVAL"): "APPROVED",
        (Act.REJECT, "EVALUATED"): "REJECTED",
        (Act.REJECT, "PENDING_APPROVAL"): "REJECTED",
        (Act.REJECT, "APPROVED"): "REJECTED",
        (Act.ORDER, "APPROVED"): "APPROVED",
        (Act.ORDER, "RETIRED"): "RETIRED",
        (Act.PROMOTE, "APPROVED"): "CHAMPION",
        (Act.PROMOTE, "RETIRED"): "CHAMPION",
        (Act.RETIRE, "CHAMPION"): "RETIRED",
        (Act.EXPIRE, "PENDING_APPROVAL"): "EXPIRED",
        (Act.EXPIRE, "APPROVED"): "EXPIRED",
    }
    expected = legal.get((act, before))
    if expected:
        assert after(act, before, version="1") == expected
    else:
        with pytest.raises(LifecycleError, match=f"{act.value} is only for a version that is"):
            after(act, before, version="1")


def test_from_candidate_to_champion_and_back(house: House, make_policy: Make) -> None:
    first, second = house.register(1), house.register(2)
    assert (first.version, second.version) == ("1", "2")
    release = house.release(make_policy())
    for number in ("1", "2"):
        release.decide(Act.APPROVE, number, BOB, reason=WHY)
        if number == "1":
            release.decide(Act.ORDER, number, RITA, reason=WHY)
            assert release.promote("1").state is State.CHAMPION
            assert release.registry.alias("ranker", CHAMPION) == "1"
    release.decide(Act.ORDER, "2", RITA, reason=WHY)
    assert release.promote("2").state is State.CHAMPION
    assert release.version("1").state is State.RETIRED
    assert release.registry.alias("ranker", CHAMPION) == "2"
    with pytest.raises(LifecycleError, match="nobody ordered"):
        release.promote("1")
    release.decide(Act.ORDER, "1", RITA, reason="errors in the feed since the release")
    assert release.promote("1").state is State.CHAMPION
    assert release.promote("1").state is State.CHAMPION
    assert (release.champion(), release.registry.alias("ranker", CHAMPION)) == ("1", "1")
    assert release.version("2").state is State.RETIRED
    assert release.verify() == []
    assert release.registry.version("ranker", "2").tags["brewhouse.state"] == "RETIRED"


def test_a_version_registered_again_is_the_same(house: House) -> None:
    house.register(1)
    assert house.register(1).version == "1"
    assert len(house.release().ledger.entries()) == 3


def test_the_champion_changed_since_the_approval(house: House, make_policy: Make) -> None:
    house.register(1), house.register(2)
    release = house.release(make_policy())
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    release.decide(Act.APPROVE, "2", BOB, reason=WHY)
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    release.promote("1")
    with pytest.raises(LifecycleError, match="approved beside champion none, and the champion is"):
        release.decide(Act.ORDER, "2", RITA, reason=WHY)
    assert release.version("2").entries[-1].after == State.EXPIRED


def test_an_old_approval_expires(house: House, make_policy: Make) -> None:
    house.register(1)
    release = house.release(make_policy(approval_days=14))
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    house.clock.pass_days(14.1)
    with pytest.raises(LifecycleError, match="approval is 14.1 days old"):
        release.promote("1")
    assert release.version("1").state is State.EXPIRED
    assert release.version("1").acts == ()
    assert release.verify() == []


def test_without_a_pass_only_a_waiver_helps(house: House, make_policy: Make) -> None:
    assert house.register(1, passes=False).state is State.EVALUATED
    release = house.release(make_policy())
    with pytest.raises(LifecycleError, match="approve is only for a version that is PENDING"):
        release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    for until, told in (("soon", "YYYY-MM-DD"), ("2027-01-01", "may end from"), ("", "YYYY")):
        with pytest.raises(ConfigError, match=told):
            release.decide(Act.WAIVE, "1", WIM, reason=WHY, until=until)
    waived = release.decide(Act.WAIVE, "1", WIM, reason=WHY, until="2026-03-20")
    assert waived.state is State.PENDING_APPROVAL
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    house.clock.pass_days(13)
    assert release.version("1").state is State.APPROVED
    house.clock.pass_days(6)
    assert "approval is 19.0 days old" in release.version("1").expiry


def test_a_waiver_and_a_wait_end(house: House, make_policy: Make) -> None:
    house.register(1, passes=False), house.register(2)
    release = house.release(make_policy(approval_days=30))
    release.decide(Act.WAIVE, "1", WIM, reason=WHY, until="2026-03-06")
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    house.clock.pass_days(5)
    assert release.version("1").expiry == "its waiver ended on 2026-03-06"
    house.clock.pass_days(55)
    assert release.version("2").expiry == ""
    house.clock.pass_days(1)
    assert "the wait for a decision is 61.0 days old" in release.version("2").expiry


def test_a_model_that_scores_otherwise_is_not_promoted(
    house: House, make_policy: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digests are right, but what runs here gives other scores: another library, say."""
    from safetensors.torch import load_file, save_file

    version = house.register(1)
    other = tmp_path / "other"
    shutil.copytree(Path(version.source) / "model", other)
    kept = Path(version.source) / "dossier" / "smoke"
    assert smoke(other, kept) <= SMOKE_LIMIT
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] *= 1.05
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    assert smoke(other, kept) > SMOKE_LIMIT
    release = house.release(make_policy())
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    monkeypatch.setattr(service, "smoke", lambda _model, folder: smoke(other, folder))
    with pytest.raises(TamperError, match="its scores differ by .* from those of its registration"):
        release.promote("1")
    assert release.champion() == ""


def test_two_champions_at_once_are_found(house: House) -> None:
    house.register(1), house.register(2)
    release = house.release()
    for number in ("1", "2"):
        for act in (Act.APPROVE, Act.PROMOTE):
            release.ledger.append(
                [Draft(act=act, model="ranker", version=number, actor="eve", role="machine")]
            )
    assert any("versions 1, 2 are champion at once" in line for line in release.verify())


@pytest.mark.parametrize(
    ("act", "actor", "told"),
    [
        (Act.APPROVE, WIM, "wim lacks the role approver"),
        (Act.APPROVE, ANN, "ann started its run and may not approve it: .*four eyes"),
        (Act.REJECT, RITA, "rita lacks the role approver"),
        (Act.WAIVE, BOB, "bob lacks the role waiver"),
        (Act.ORDER, BOB, "bob lacks the role releaser"),
    ],
)
def test_who_may_not_is_refused_and_recorded(
    house: House, make_policy: Make, act: Act, actor: Actor, told: str
) -> None:
    house.register(1)
    release = house.release(make_policy())
    with pytest.raises(PermissionDenied, match=told):
        release.decide(act, "1", actor, reason=WHY, address="10.0.0.7")
    assert release.version("1").state is State.PENDING_APPROVAL
    (refused,) = release.ledger.refusals()
    assert (refused["actor"], refused["act"], refused["address"]) == (actor.name, act, "10.0.0.7")


def test_a_decision_on_what_was_seen_before(house: House, make_policy: Make) -> None:
    seen = house.register(1).revision
    release = house.release(make_policy())
    release.decide(Act.APPROVE, "1", BOB, reason=WHY, revision=seen)
    with pytest.raises(LifecycleError, match=r"changed since it was looked at.*bob did approve"):
        release.decide(Act.REJECT, "1", BOB, reason=WHY, revision=seen)
    assert [r["act"] for r in release.ledger.refusals()] == ["reject"]


def test_a_reason_is_asked_for(house: House, make_policy: Make) -> None:
    house.register(1)
    with pytest.raises(ConfigError, match="reason of at least 10 characters, got 'ok'"):
        house.release(make_policy()).decide(Act.APPROVE, "1", BOB, reason="  ok ")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model/model.safetensors", "model.safetensors was changed"),
        ("dossier/results.json", "results.json was changed"),
        ("dossier/verdict.json", "verdict.json was changed"),
        ("dossier/smoke/scores.parquet", "scores.parquet was changed"),
        ("manifest.json", "manifest.json is not the one that the ledger names"),
    ],
)
def test_a_touched_file_is_named_and_stops_promotion(
    house: House, make_policy: Make, name: str, told: str
) -> None:
    version = house.register(1)
    release = house.release(make_policy())
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    path = Path(version.source) / name
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1) + b" ")
    assert any(told in line for line in release.verify())
    with pytest.raises(TamperError, match=told):
        release.promote("1")
    assert release.champion() == ""


def test_files_added_or_gone_are_named(house: House) -> None:
    version = house.register(1)
    (Path(version.source) / "model" / "extra.bin").write_bytes(b"x")
    (Path(version.source) / "dossier" / "report.html").unlink()
    found = house.release().verify()
    assert any("extra.bin was added" in line for line in found)
    assert any("report.html is gone" in line for line in found)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE ledger SET actor = 'eve' WHERE number = 2", "content is not what was hashed"),
        ("UPDATE ledger SET reason = 'x' WHERE number = 4", "entry 4 .*not what was hashed"),
        ("DELETE FROM ledger WHERE number = 2", "entries are missing or were put in"),
        ("UPDATE ledger SET signature = '' WHERE number = 3", "entry 3 .*signature is wrong"),
        ("UPDATE ledger SET key = 'eve' WHERE number = 1", "key eve, which is not trusted"),
    ],
)
def test_a_touched_row_is_found(house: House, make_policy: Make, change: str, told: str) -> None:
    import re

    house.register(1)
    release = house.release(make_policy())
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    with sqlite3.connect(house.home / "brewhouse.db") as db:
        with pytest.raises(sqlite3.IntegrityError, match="ledger is append-only"):
            db.execute(change)
        for trigger in ("update", "delete"):
            db.execute(f"DROP TRIGGER ledger_no_{trigger}")
        db.execute(change)
    assert any(re.search(told, line) for line in release.verify())
    with pytest.raises(TamperError):
        release.promote("1")


def test_an_end_that_was_cut_off_is_found(house: House, make_policy: Make) -> None:
    """The shorter chain is whole in itself; the dossier and MLflow know of what is missing."""
    house.register(1)
    release = house.release(make_policy())
    release.decide(Act.REJECT, "1", BOB, reason=WHY)
    assert release.verify() == []
    with sqlite3.connect(house.home / "brewhouse.db") as db:
        db.execute("DROP TRIGGER ledger_no_delete")
        db.execute("DELETE FROM ledger WHERE number = 4")
    found = release.verify()
    assert any("holds 4 entries of version 1, the ledger 3" in line for line in found)


def test_a_mirror_that_lags_is_no_finding_and_one_that_lies_is(
    house: House, make_policy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.register(1)
    release = house.release(make_policy())
    with monkeypatch.context() as broken:
        broken.setattr(release, "_mirror", lambda _number: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    assert release.version("1").state is State.APPROVED
    assert release.verify() == []
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    release.registry.set_state("ranker", "1", "CHAMPION")
    assert release.verify() == ["MLflow says CHAMPION of version 1, not APPROVED"]


def test_a_run_that_died_before_the_alias_moved_is_finished(
    house: House, make_policy: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.register(1)
    release = house.release(make_policy())
    release.decide(Act.APPROVE, "1", BOB, reason=WHY)
    release.decide(Act.ORDER, "1", RITA, reason=WHY)
    with monkeypatch.context() as broken:
        broken.setattr(release, "_point", lambda _number: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            release.promote("1")
    assert release.registry.alias("ranker", CHAMPION) == ""
    assert any("alias champion names version none, the ledger 1" in f for f in release.verify())
    release.promote("1")
    assert release.registry.alias("ranker", CHAMPION) == "1"
    assert release.verify() == []
    assert [e.act for e in release.version("1").entries].count("promote") == 1


def test_no_key_is_made_beside_a_server(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BREWHOUSE_DATABASE_URI", "postgresql+psycopg://brew@127.0.0.1:1/x")
    with pytest.raises(ConfigError, match="no signing key .*brewhouse ledger key"):
        open_ledger(Settings.read(house.home))
    assert not (house.home / "keys").exists()


def test_a_ledger_signed_by_another_is_not_trusted(house: House) -> None:
    house.register(1)
    for key in (house.home / "keys" / "trusted").iterdir():
        key.unlink()
    settings_keys = house.home / "keys" / "trusted"
    release = house.release()
    for key in settings_keys.iterdir():
        key.unlink()
    assert any("which is not trusted" in line for line in release.verify())


def test_policies_that_ship(tmp_path: Path) -> None:
    assert load_approvals("local").four_eyes is False
    strict = load_approvals("strict")
    assert strict.four_eyes
    assert not strict.holds(BOB, "approver")
    with pytest.raises(ConfigError, match="no approval policy 'lax'; give one of local, strict"):
        load_approvals("lax")
    (tmp_path / "p.yaml").write_text("name: p\nversion: 1\nroles: {aprover: [bob]}\n")
    with pytest.raises(ConfigError, match=r"p.yaml:3: roles.aprover"):
        load_approvals(str(tmp_path / "p.yaml"))


def test_an_unknown_version_is_named(house: House) -> None:
    house.register(1)
    with pytest.raises(RegistryError, match="ranker has no version 9; it has 1"):
        house.release().version("9")
