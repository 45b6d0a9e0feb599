"""Many decide at once, servers die: one stands and the chain verifies. SQLite and Postgres."""

from __future__ import annotations

import subprocess
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest

from brewhouse.errors import LifecycleError
from brewhouse.platform.ledger import Ledger
from brewhouse.registry.entries import Draft, Signer, check_chain
from brewhouse.registry.lifecycle import Act

CLIENTS, DECISIONS = 20, 200


def draft(act: Act, *, actor: str = "m", revision: int | None = None) -> Draft:
    return Draft(
        act=act, model="ranker", version="1", actor=actor, role="machine", revision=revision
    )


@pytest.fixture(params=["sqlite", "postgres"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'brewhouse.db'}"
    found = str(request.getfixturevalue("postgres"))
    name = f"t{time.time_ns()}"
    import psycopg

    plain = found.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return found.rsplit("/", 1)[0] + f"/{name}"


def _decide(job: tuple[str, str, int, int]) -> list[str]:
    """One client: some decisions on one revision of one version."""
    uri, key, client, count = job
    ledger = Ledger(uri, Signer.load(Path(key)))
    found = []
    for number in range(count):
        act = Act.APPROVE if (client + number) % 2 else Act.REJECT
        try:
            ledger.append([draft(act, actor=f"c{client}", revision=3)])
            found.append("stood")
        except LifecycleError as error:
            found.append(str(error))
    return found


@pytest.mark.slow
def test_of_two_hundred_decisions_one_stands(uri: str, tmp_path: Path) -> None:
    signer = Signer.load(tmp_path / "key.pem", create=True)
    ledger = Ledger(uri, signer)
    ledger.append([draft(act) for act in (Act.REGISTER, Act.EVALUATE, Act.SUBMIT)])
    jobs = [(uri, str(tmp_path / "key.pem"), c, DECISIONS // CLIENTS) for c in range(CLIENTS)]
    with get_context("spawn").Pool(CLIENTS) as pool:
        told = [line for lines in pool.map(_decide, jobs, chunksize=1) for line in lines]
    assert len(told) == DECISIONS
    assert told.count("stood") == 1
    assert all("changed since it was looked at" in line for line in told if line != "stood")
    entries = ledger.entries()
    assert len(entries) == 4
    assert check_chain(entries, {signer.fingerprint: signer.public}) == []


WRITER = """
import sys
from pathlib import Path
from brewhouse.platform.ledger import Ledger
from brewhouse.registry.entries import Draft, Signer
from brewhouse.registry.lifecycle import Act
ledger = Ledger(sys.argv[1], Signer.load(Path(sys.argv[2])))
print("ready", flush=True)
for number in range(10_000):
    ledger.append([
        Draft(act=act, model="ranker", version=f"{sys.argv[3]}-{number}", actor="m", role="machine")
        for act in (Act.REGISTER, Act.EVALUATE, Act.SUBMIT)
    ])
"""


@pytest.mark.slow
def test_a_server_killed_in_the_middle_leaves_a_valid_chain(uri: str, tmp_path: Path) -> None:
    signer = Signer.load(tmp_path / "key.pem", create=True)
    ledger = Ledger(uri, signer)
    before = 0
    for round_ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, uri, str(tmp_path / "key.pem"), str(round_)],
            stdout=subprocess.PIPE,
        )
        assert writer.stdout
        assert writer.stdout.readline().strip() == b"ready"
        time.sleep(0.3 + 0.11 * round_)
        writer.kill()
        writer.wait()
        entries = ledger.entries()
        assert len(entries) > before
        # Acts that were written as one are all there or none.
        assert len(entries) % 3 == 0
        assert check_chain(entries, {signer.fingerprint: signer.public}) == []
        before = len(entries)
