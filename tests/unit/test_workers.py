"""The tests themselves: in two processes, those of a file share one and its fixtures."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.conftest import ROOT


@pytest.mark.slow
def test_a_file_s_tests_share_a_worker() -> None:
    files = ("tests/unit/test_plan.py", "tests/unit/test_tasks.py", "tests/unit/test_metrics.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-n", "2", "--no-loadscope-reorder", *files],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-2000:]
    told = re.findall(r"^\[(gw\d)\].* PASSED (\S+?)::", run.stdout, flags=re.MULTILINE)
    assert {file for _, file in told} == set(files)
    assert len({worker for worker, _ in told}) == 2
    assert len(set(told)) == len(files)
