"""The limit of open files: raised as far as the system lets it, told where it does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 900))
from brewhouse.errors import ConfigError
from brewhouse.processes import allow_open_files
try:
    allow_open_files(int(sys.argv[1]), what="shards")
except ConfigError as error:
    print(error)
else:
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (40, "300"),
        (500, "756"),
        (700, "900"),
        (
            860,
            "shards: 924 files would be open at once and the system allows 900; make them fewer, "
            "or raise the limit (ulimit -Hn)",
        ),
    ],
)
def test_open_files(wanted: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(wanted)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == told
