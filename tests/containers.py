"""The image of the steps, and a service of containers that has it.

Needs root, podman, runc, mmdebstrap and the wheels of `make wheels`; the first build takes
minutes. Set `BREWHOUSE_STEPS_IMAGE` to test an image that is there already.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest
from brewhouse.components.images import FAMILIES
from brewhouse.components.images import image as image_of

from tests.conftest import ROOT


@pytest.fixture(scope="session")
def image() -> str:
    if given := os.environ.get("BREWHOUSE_STEPS_IMAGE"):
        return given
    absent = [tool for tool in ("podman", "runc", "mmdebstrap") if shutil.which(tool) is None]
    if absent or os.geteuid():
        pytest.skip(f"no image can be built here: needs root and {', '.join(absent) or 'podman'}")
    if not (ROOT / "build" / "wheels" / "steps").is_dir():
        pytest.skip("no wheels: run `make wheels`")
    subprocess.run(
        ["tools/image.sh", "steps"], cwd=ROOT, env=os.environ | {"BASE": "local"}, check=True
    )
    return "localhost/brewhouse/steps:dev"


@pytest.fixture(scope="module")
def service(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """podman's service on a socket, with the image under the names that components ask for."""
    for family in FAMILIES:
        # Training on CPUs needs nothing that the image of the steps lacks.
        subprocess.run(["podman", "tag", image, image_of(family)], check=True)
    folder = tmp_path_factory.mktemp("podman")
    (folder / "containers.conf").write_text('[engine]\nruntime = "runc"\n')
    socket = folder / "podman.sock"
    before = {name: os.environ.get(name) for name in ("DOCKER_HOST", "CONTAINERS_CONF")}
    os.environ["CONTAINERS_CONF"] = str(folder / "containers.conf")
    process = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"])
    os.environ["DOCKER_HOST"] = f"unix://{socket}"
    try:
        for _ in range(100):
            if socket.exists():
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
