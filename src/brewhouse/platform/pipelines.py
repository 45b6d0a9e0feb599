"""Pipelines: compile, and run on this machine; `kubeflow` runs them in a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from brewhouse import errors, offline
from brewhouse.errors import BrewhouseError, ConfigError, PipelineError
from brewhouse.platform.containers import ContainerPlan, container_runner

PIPELINES = ("train_and_evaluate", "studies", "promote", "monitor")
_ERROR = re.compile(r"^\s*brewhouse\.errors\.(\w+): (.*)$")
_PLAIN_ERROR = re.compile(r"^\s*([A-Za-z_.]+(?:Error|Exception)): (.*)$")


def load_pipeline(name: str) -> Any:
    """Import a pipeline function.

    Raises:
        ConfigError: Unknown name.
    """
    if name not in PIPELINES:
        msg = f"unknown pipeline '{name}'; choose one of {', '.join(PIPELINES)}"
        raise ConfigError(msg)
    offline.silence()
    warnings.filterwarnings("ignore", module="kfp")
    from importlib import import_module

    return getattr(import_module(f"brewhouse.pipelines.{name}.pipeline"), name)


def compile_pipeline(name: str, path: Path) -> Path:
    """Compile a pipeline to YAML."""
    from kfp import compiler

    path.parent.mkdir(parents=True, exist_ok=True)
    compiler.Compiler().compile(load_pipeline(name), str(path))
    return path


@dataclass(frozen=True, kw_only=True)
class LocalRun:
    """Where a local run keeps its files."""

    out: Path
    cache_key: str

    @property
    def log(self) -> Path:
        """Everything that steps and libraries said."""
        return self.out / "pipeline.log"


def run_local(
    name: str,
    arguments: dict[str, Any],
    run: LocalRun,
    *,
    marker: str,
    containers: ContainerPlan | None = None,
) -> None:
    """Run a pipeline with kfp.local: one subprocess or container a step, finished steps cached.

    A run that was stopped at any step goes on from the last finished one when started again with
    the same arguments and the same code.

    Args:
        name: Pipeline.
        arguments: Its arguments.
        run: Where files go; the cache key stands for the version of the code.
        marker: Prefix of lines that are progress for people; they go to stderr.
        containers: Steps run in containers of their images, which see the run's artifacts and the
            plan's volumes alone: there lie the folders among the arguments. Subprocesses if None.

    Raises:
        BrewhouseError: The error a step raised, under its own class and exit code.
        PipelineError: A step failed otherwise, with its last error line.
    """
    pipeline = load_pipeline(name)
    run.out.mkdir(parents=True, exist_ok=True)
    # Steps are started as `python3`; let them find this environment's.
    path = str(Path(sys.executable).parent)
    if path not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = path + os.pathsep + os.environ.get("PATH", "")
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    with _runner(containers) as runner:
        _init(runner, run)
        # Steps write to stdout and stderr alike; what people should see goes to the real stderr.
        people = sys.stderr
        with run.log.open("a", encoding="utf-8") as log:
            began = log.tell()
            tee = _Tee(log, marker, lambda line: print(line, file=people, flush=True))
            try:
                with contextlib.redirect_stdout(tee), contextlib.redirect_stderr(tee):
                    pipeline(**arguments)
            except RuntimeError as error:
                log.flush()
                raise _cause(run.log, began, str(error)) from error
            finally:
                logging.getLogger().handlers.clear()


@contextlib.contextmanager
def _runner(containers: ContainerPlan | None) -> Iterator[Any]:
    from kfp import local

    if containers is None:
        yield local.SubprocessRunner(use_venv=False)
        return
    with container_runner(containers) as runner:
        yield runner


def _init(runner: Any, run: LocalRun) -> None:
    from kfp import local

    artifacts = run.out / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    if isinstance(runner, local.DockerRunner):
        # Steps make their folders in it, as the image's own user.
        artifacts.chmod(0o777)
    local.init(
        runner=runner,
        pipeline_root=str(artifacts),
        raise_on_error=True,
        enable_caching=True,
        cache_root=str(run.out / "cache" / run.cache_key),
    )


class _Tee:
    """Writes everything to a log and hands progress lines on."""

    def __init__(self, log: IO[str], marker: str, tell: Callable[[str], None]) -> None:
        self._log, self._marker, self._tell = log, marker, tell
        self._partial = ""

    def write(self, text: str) -> int:
        self._log.write(text)
        *lines, self._partial = (self._partial + text).split("\n")
        for line in lines:
            before, marker, after = line.partition(self._marker)
            if marker and not before.strip():
                self._tell(after)
        return len(text)

    def flush(self) -> None:
        self._log.flush()

    def isatty(self) -> bool:
        return False


def _cause(log: Path, began: int, fallback: str) -> BrewhouseError:
    """The last error a step printed, as the exception it was."""
    with log.open(encoding="utf-8") as handle:
        handle.seek(began)
        lines = handle.read().splitlines()
    for index in range(len(lines) - 1, -1, -1):
        found = _ERROR.match(lines[index])
        if found:
            kind = getattr(errors, found.group(1), PipelineError)
            rest = []
            for line in lines[index + 1 :]:
                if (
                    not line.strip()
                    or line.lstrip().startswith(("Task ", "Traceback"))
                    or re.match(r"^\S*\d\d:\d\d", line.strip())
                ):
                    break
                rest.append("  " + line.strip())
            error: BrewhouseError = kind("\n".join([found.group(2), *rest]))
            return error
    for line in reversed(lines):
        if found := _PLAIN_ERROR.match(line):
            return PipelineError(f"{found.group(1)}: {found.group(2)}; the log is {log}")
    return PipelineError(f"{fallback}; the log is {log}")
