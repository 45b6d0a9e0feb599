"""A console over a registry with versions: in this process, and as a server of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from starlette.testclient import TestClient

from brewhouse.console.app import create_app
from brewhouse.console.config import ConsoleConfig
from brewhouse.registry.approvals import ApprovalPolicy, load_approvals
from tests.release.conftest import House, house, make_policy  # noqa: F401

PROXY = "10.1.2.3"
KUBEFLOW = {
    "identity": {"kind": "proxy", "trusted": ["10.1.0.0/16"]},
    "hosts": ["console.test"],
}


@pytest.fixture
def console(house: House) -> Callable[..., TestClient]:  # noqa: F811
    """Makes a client of a console: `address` is where its connections come from."""

    def make(
        config: dict[str, Any] | None = None,
        *,
        policy: ApprovalPolicy | None = None,
        address: str = PROXY,
        actor: str = "",
    ) -> TestClient:
        given = ConsoleConfig.model_validate(KUBEFLOW if config is None else config)
        app = create_app(given, house.release(policy or load_approvals("local")))
        headers = {"kubeflow-userid": actor} if actor else {}
        return TestClient(
            app,
            base_url="https://console.test",
            client=(address, 5000),
            headers=headers,
            follow_redirects=False,
        )

    return make


def wait_for(url: str, process: subprocess.Popen[Any], log: Path) -> None:
    """Until a server answers; fails with its log if it ends or takes a minute."""
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(f"{url}/readyz", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(f"no answer in a minute: {log.read_text()}")


@contextmanager
def served(home: Path, config: dict[str, Any] | None = None) -> Iterator[tuple[str, Any]]:
    """`brewhouse console` in a process of its own; its address and the process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("brewhouse")), "console"]
    command += ["--home", str(home), "--port", str(port)]
    if config:
        path = home / "console.yaml"
        path.write_text(yaml.safe_dump(config))
        command += ["--config", str(path)]
    log = home / "console.log"
    with log.open("wb") as out, ExitStack() as stack:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env=os.environ | {"BREWHOUSE_ACTOR": "olga"}
        )
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        wait_for(url, process, log)
        yield url, process


@pytest.fixture
def today(house: House) -> House:  # noqa: F811
    """The house with the time that it is, for servers that tell time themselves."""
    house.clock.now = datetime.now(UTC)
    return house
