"""A registry, a ledger and versions of the shipped model, without a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from benchmarks.evidence import judged_results
from brewhouse.files import digest_tree, read_json, write_json, write_text
from brewhouse.gates.policy import Policy
from brewhouse.gates.verdict import decide
from brewhouse.model.shipped import locate
from brewhouse.platform.database import Database
from brewhouse.platform.drift_log import DriftLog
from brewhouse.platform.ledger import Ledger
from brewhouse.prompts.shards import read_trees, write_trees
from brewhouse.registry.approvals import ApprovalPolicy, load_approvals
from brewhouse.registry.entries import Signer
from brewhouse.release.dossier import Evidence
from brewhouse.release.service import Release
from brewhouse.release.settings import Settings
from brewhouse.release.versions import Version
from brewhouse.stages import registering

MODEL = Path(locate("linkedin-tiny"))


@dataclass
class Clock:
    """Time that tests move."""

    now: datetime = field(default_factory=lambda: datetime(2026, 3, 2, 9, tzinfo=UTC))

    def __call__(self) -> datetime:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += timedelta(days=days)


@dataclass
class House:
    """A home folder with all that releasing needs."""

    home: Path
    shards: Path
    clock: Clock

    def release(self, policy: ApprovalPolicy | None = None) -> Release:
        settings = Settings.read(self.home)
        signer = Signer.load(settings.signing_key, create=True)
        settings.trusted_keys.mkdir(parents=True, exist_ok=True)
        (settings.trusted_keys / f"{signer.fingerprint}.pub").write_bytes(signer.public_pem())
        ledger = Ledger(settings.database_uri, signer, clock=self.clock)
        return Release(settings, ledger=ledger, policy=policy or load_approvals("local"))

    def drift(self) -> DriftLog:
        settings = Settings.read(self.home)
        return DriftLog(Database(settings.database_uri), settings.model_name, clock=self.clock)

    def register(
        self, seed: int = 0, *, passes: bool = True, author: str = "ann", store: str = ""
    ) -> Version:
        work = self.home / "work" / str(seed)
        results = judged_results(0.0 if passes else 0.2, seed=seed).model_copy(
            update={
                "domain": "linkedin",
                "split": {
                    "train_start": "2024-01-01T00:00:00+00:00",
                    "train_end": "2024-03-01T00:00:00+00:00",
                    "gap_days": 2,
                },
                "model": {
                    "digest": "sha256:" + digest_tree(MODEL, pattern="*.safetensors"),
                    **read_json(MODEL / "training.json"),
                },
            }
        )
        results.write(work / "results.json")
        rule = {"kind": "non_inferior", "to": "production", "margin": 0.1}
        policy = Policy.model_validate({"name": "p", "version": 1, "rules": [rule]})
        write_json(work / "verdict.json", decide(policy, results).model_dump(mode="json"))
        write_text(work / "report.html", "<!doctype html><title>r</title>")
        return registering.run(
            domain="linkedin",
            evidence=Evidence(
                results=work / "results.json",
                verdict=work / "verdict.json",
                report=work / "report.html",
                model=MODEL,
                shards=self.shards,
            ),
            model_store=store or str(self.home / "models"),
            registration_out=work / "registration.json",
            home=str(self.home),
            author=author,
            clock=self.clock,
        )


@pytest.fixture
def house(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    for name in ("HOME", "TRACKING_URI", "DATABASE_URI", "SIGNING_KEY", "APPROVALS"):
        monkeypatch.delenv(f"BREWHOUSE_{name}", raising=False)
    trees = list(read_trees(shards / "train" / "shard-0000.parquet"))[:40]
    write_trees(tmp_path / "shards" / "test" / "shard-0000.parquet", trees)
    return House(home=tmp_path / "home", shards=tmp_path / "shards", clock=Clock())


@pytest.fixture
def make_policy() -> Callable[..., ApprovalPolicy]:
    def make(**changes: object) -> ApprovalPolicy:
        value = {
            "name": "team",
            "version": 3,
            "roles": {"approver": ["bob", "ann"], "waiver": ["wim"], "releaser": ["rita"]},
        }
        return ApprovalPolicy.model_validate(value | changes)

    return make
