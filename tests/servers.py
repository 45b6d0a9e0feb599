"""Servers of our own on loopback, as fixtures that any test may ask for by name."""

from __future__ import annotations

import logging
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """A Postgres of our own on loopback.

    Its folder is not among pytest's: another session that starts meanwhile closes those to all
    users but its own, and Postgres is another one.
    """
    if shutil.which("initdb") is None and not Path("/usr/lib/postgresql").is_dir():
        pytest.skip("Postgres is not on this machine: apt-get install postgresql")
    found = shutil.which("initdb") or str(next(Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    tools = Path(found).resolve().parent
    folder = Path(tempfile.mkdtemp(prefix="brewhouse-postgres-"))
    try:
        with _postgres_in(folder, tools) as uri:
            yield uri
    finally:
        shutil.rmtree(folder)


@contextmanager
def _postgres_in(folder: Path, tools: Path) -> Iterator[str]:
    data = folder / "data"
    user: dict[str, object] = {}
    if os.geteuid() == 0:
        # Postgres refuses to run as root.
        account = pwd.getpwnam("postgres" if _has("postgres") else "nobody")
        user = {"user": account.pw_uid, "group": account.pw_gid}
        os.chown(folder, account.pw_uid, account.pw_gid)
    port = _free_port()
    run = {"check": True, "cwd": folder, "capture_output": True, **user}
    subprocess.run([tools / "initdb", "-D", data, "-U", "brew", "-A", "trust"], **run)
    server = subprocess.Popen(
        [tools / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", str(folder)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **user,
    )
    try:
        _await(port)
        yield f"postgresql+psycopg://brew@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def _has(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _await(port: int) -> None:
    import psycopg

    for _ in range(100):
        try:
            psycopg.connect(f"host=127.0.0.1 port={port} user=brew dbname=postgres").close()
        except psycopg.OperationalError:
            time.sleep(0.1)
        else:
            return
    msg = "Postgres did not start"
    raise RuntimeError(msg)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of our own on loopback, with a password."""
    server = shutil.which("redis-server")
    if server is None:
        pytest.skip("redis-server is not on this machine: apt-get install redis-server")
    port = _free_port()
    process = subprocess.Popen(
        [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--requirepass", "told"],
        cwd=tmp_path_factory.mktemp("redis"),
        stdout=subprocess.DEVNULL,
    )
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"127.0.0.1:{port},password=told"
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow of our own on loopback, which hands artifacts on; its address."""
    folder = tmp_path_factory.mktemp("mlflow")
    port = _free_port()
    command = [
        str(Path(sys.executable).with_name("mlflow")),
        *("server", "--host=127.0.0.1", f"--port={port}", "--workers=1"),
        f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}",
        f"--artifacts-destination={folder / 'artifacts'}",
    ]
    with (folder / "log").open("w") as log:
        # A session of its own: its workers end with it.
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            pytest.fail((folder / "log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 of our own on loopback, reached as one on premises is; its URI."""
    import boto3
    from brewhouse.pipelines.secrets import STORE
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    values = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "brew",
        "AWS_SECRET_ACCESS_KEY": "told",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }
    for name in STORE:
        monkeypatch.setenv(name, values[name])
    monkeypatch.delenv("AWS_REGION", raising=False)
    try:
        bucket = f"brewhouse-{uuid4().hex[:8]}"
        boto3.client("s3").create_bucket(
            Bucket=bucket,
            CreateBucketConfiguration={"LocationConstraint": "eu-central-1"},
        )
        yield f"s3://{bucket}"
    finally:
        # Clients are kept by what they were asked for, and a later server is another one.
        S3FileSystem.clear_instance_cache()
        server.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
