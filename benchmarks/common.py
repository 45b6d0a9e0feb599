"""What all benchmarks share: a result's form, the machine, peak memory, the table."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from brewhouse import offline

offline.silence()

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True, kw_only=True)
class Result:
    """One comparison. `ratio` is how many times better ours is: above 1 is ours.

    Attributes:
        name: What was compared.
        ours, peer: Measured values in `unit`.
        ratio: `ours / peer`.
        unit: Of both values; more is better.
        against: The peer, with its version.
        detail: Sizes, peak memory in MiB, parity.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    against: str
    detail: dict[str, Any] = field(default_factory=dict)
    machine: str = ""
    commit: str = ""


def result(
    name: str, *, ours: float, peer: float, unit: str, against: str, **detail: Any
) -> Result:
    """A result with its ratio, machine and commit."""
    return Result(
        name=name,
        ours=round(ours, 3),
        peer=round(peer, 3),
        ratio=round(ours / peer, 2),
        unit=unit,
        against=against,
        detail=detail,
        machine=machine(),
        commit=commit(),
    )


def machine() -> str:
    """Processor, threads, the GPU if there is one, and PyTorch."""
    import torch

    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {torch.get_num_threads()} threads{gpu}, PyTorch {torch.__version__}"


def commit() -> str:
    """Commit of the tree, marked if it has changes; BREWHOUSE_COMMIT where there is no git."""
    if "BREWHOUSE_COMMIT" in os.environ:
        return os.environ["BREWHOUSE_COMMIT"]

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        return found.stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain") else "")


@dataclass(frozen=True, kw_only=True)
class On:
    """Where and how both sides of a comparison run.

    Attributes:
        device, dtype: Of the model, for both.
        batch: Prompts, or packed rows of them, that a peer takes in a step.
        warm: Whether a peer runs once before it is timed: kernels are then there.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch: int = 8
    warm: bool = False

    def wait(self) -> None:
        """Until the device has done what it was given."""
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_mib(self) -> float:
        """Most memory that the device's tensors took; 0 on CPUs, where the process is measured."""
        import torch

        return torch.cuda.max_memory_allocated() / 2**20 if self.device == "cuda" else 0.0


CPU = On()


def sized(name: str) -> str:
    """Make `SIZE:LAYERS` known as a size of so many layers; returns the name."""
    from brewhouse.model.sizes import SIZES

    size, _, layers = name.partition(":")
    if layers:
        SIZES[name] = SIZES[size] | {"num_hidden_layers": int(layers)}
    return name


def build(name: str, *, vocabulary: int, on: On) -> Any:
    """A decoder with fresh weights, the same in every process."""
    import torch

    from brewhouse.model.build import build_decoder

    if on.device == "cpu":
        torch.set_num_threads(2)
    with torch.device(on.device):
        decoder = build_decoder(sized(name), vocab_size=vocabulary, begin=1, pad=0, seed=0)
    for parameter in decoder.parameters():  # Buffers keep float32, as in training.
        parameter.data = parameter.data.to(getattr(torch, on.dtype))
    if on.device == "cuda":  # What drawing the weights took is nobody's.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return decoder


def best_of(repeats: int, work: Callable[[], Any]) -> float:
    """Seconds of the fastest of several runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def in_own_process(work: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """Result of a module-level function and the peak memory of its process in MiB.

    A fresh process, so that one side's memory is not the other's.
    """
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(_with_peak, (work, arguments))


def _with_peak(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Any, float]:
    found = work(*arguments)
    return found, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def keep(file: str, results: Iterable[Result]) -> None:
    """Write the results of one benchmark, if it could measure anything here."""
    found = list(results)
    if not found:
        return
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{file}.json").write_text(json.dumps([asdict(r) for r in found], indent=2) + "\n")


def kept(file: str, results: Iterable[Result]) -> list[Result]:
    """Results as they come, written to their file even where a later one fails."""
    found = []
    try:
        for one in results:
            found.append(one)
    finally:
        keep(file, found)
    return found


def show(results: Iterable[Result]) -> None:
    """Print a table."""
    for r in results:
        detail = "  ".join(f"{k} {v}" for k, v in r.detail.items())
        print(
            f"{r.name:<44} {r.ours:>12,.1f} {r.peer:>12,.1f} {r.unit:<14} "
            f"x{r.ratio:<8.2f} {r.against}\n    {detail}",
            flush=True,
        )


def header() -> None:
    """Print the head of the table."""
    print(f"{'what':<44} {'ours':>12} {'peer':>12} {'unit':<14} ratio     against")


def main(file: str, work: Callable[[], Iterable[Result]]) -> None:
    """Run one benchmark as a program."""
    header()
    sys.stdout.flush()
    found = kept(file, work())
    print("\nAll together:")
    show(found)
