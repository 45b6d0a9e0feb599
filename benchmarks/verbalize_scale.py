"""(h) Many members told by Ray: prompts a second, their cost, and a memory line that stays flat.

A simulated network is imported, its log pulled through Feast, and every interaction told as a
prompt by workers of Ray on this machine, each holding one shard of members at a time. Memory is
that of the step and of all its workers, looked at four times a second. BREWHOUSE_SCALE_MEMBERS sets
the size (200,000 members make 20M interactions); a tenth of it is told first, so that growth shows.
`python benchmarks/verbalize_scale.py`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import common
import numpy as np
import psutil

MEMBERS = int(os.environ.get("BREWHOUSE_SCALE_MEMBERS", "200000"))
WORKERS = 2
WORLD: dict[str, Any] = {"weeks": 22, "sessions_per_week": 0.95, "names": 2000, "seed": 99}
TRAIN_END = "2024-05-20"


class Memory:
    """Resident memory of this process and of everything it started, MiB, over time."""

    def __init__(self) -> None:
        self.line: list[float] = []
        self.workers: list[float] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()

    def _watch(self) -> None:
        mine = psutil.Process()
        while not self.over.wait(0.25):
            sizes = []
            for process in (mine, *mine.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    told = process.memory_full_info()
                    told_by = " ".join(process.cmdline()[:2])
                    sizes.append((told.pss / 2**20, "ray::" in told_by))
            self.line.append(sum(size for size, _ in sizes))
            self.workers.append(max((size for size, worker in sizes if worker), default=0.0))

    def flatness(self) -> float:
        """Mean of the last quarter over that of the second, while workers were at work."""
        busy = np.array([t for t, w in zip(self.line, self.workers, strict=True) if w > 0])
        quarters = np.array_split(busy, 4)
        return float(quarters[3].mean() / quarters[1].mean()) if len(busy) >= 8 else float("nan")


def prepare(folder: str, members: int) -> int:
    """Simulate, import and fill the feature store; return the interactions."""
    from brewhouse.domains.importer import import_source
    from brewhouse.domains.linkedin.simulate import simulate
    from brewhouse.domains.linkedin.world import World
    from brewhouse.domains.loader import load_domain
    from brewhouse.stages import features

    work = Path(folder)
    raw = simulate(World(members=members, **WORLD), work / "raw", workers=1)
    cut = import_source(load_domain("linkedin").domain, raw, work / "snapshot")
    features.run(domain="linkedin", snapshot=cut.path, features_out=work / "features")
    return int(cut.manifest["rows"]["interactions"])


def told(folder: str, workers: int) -> dict[str, float]:
    """Tell everything by Ray."""
    from brewhouse.files import read_json
    from brewhouse.stages import verbalizing
    from brewhouse.stages.telling import TellingPlan

    work = Path(folder)
    start = time.perf_counter()
    began: list[float] = []
    real = verbalizing.tell_shards

    def timed(*args: Any, **kwargs: Any) -> Any:
        began.append(time.perf_counter())
        found = real(*args, **kwargs)
        began.append(time.perf_counter())
        return found

    verbalizing.tell_shards = timed
    with Memory() as memory:
        verbalizing.run(
            domain="linkedin",
            snapshot=work / "snapshot",
            features=work / "features",
            train_end=TRAIN_END,
            shards_out=work / f"shards-{workers}",
            plan=TellingPlan(engine="ray", workers=workers),
        )
    counts = read_json(work / f"shards-{workers}" / "manifest.json")["counts"]
    size = sum(p.stat().st_size for p in (work / f"shards-{workers}").rglob("*") if p.is_file())
    return {
        "seconds": time.perf_counter() - start,
        "telling": began[1] - began[0],
        "prompts": float(counts["train"]["leaves"] + counts["test"]["leaves"]),
        "tokens": float(counts["train"]["tokens"] + counts["test"]["tokens"]),
        "peak": max(memory.line),
        "worker": max(memory.workers),
        "flatness": memory.flatness(),
        "bytes": float(size),
    }


def run() -> Iterable[common.Result]:
    """Two sizes, and one worker beside two."""
    sizes = (max(1000, MEMBERS // 10), MEMBERS)
    found = {}
    for members in sizes:
        with tempfile.TemporaryDirectory(prefix="brewhouse-scale-") as folder:
            rows, _ = common.in_own_process(prepare, folder, members)
            for workers in (1, WORKERS) if members == sizes[0] else (WORKERS,):
                one, _ = common.in_own_process(told, folder, workers)
                found[members, workers] = one | {"rows": rows}
                _progress(members, workers, found[members, workers])
    small, large = found[sizes[0], WORKERS], found[sizes[1], WORKERS]
    alone = found[sizes[0], 1]
    rate = large["prompts"] / large["telling"]
    yield common.result(
        "interactions told by Ray",
        ours=large["rows"] / large["seconds"],
        peer=small["rows"] / small["seconds"],
        unit="rows/s",
        against="a tenth of them",
        rows=int(large["rows"]),
        members=sizes[1],
        prompts=int(large["prompts"]),
        seconds=round(large["seconds"]),
        seconds_of_workers=round(large["telling"]),
        workers=WORKERS,
        gib_written=round(large["bytes"] / 2**30, 2),
    )
    yield common.result(
        "growth of interactions over growth of peak memory",
        ours=large["rows"] / small["rows"],
        peer=large["peak"] / small["peak"],
        unit="times",
        against="memory of step and workers",
        peak_mib=round(large["peak"]),
        peak_of_a_tenth_mib=round(small["peak"]),
        worker_peak_mib=round(large["worker"]),
        worker_peak_of_a_tenth_mib=round(small["worker"]),
        last_quarter_over_second=round(large["flatness"], 3),
    )
    yield common.result(
        "workers: two against one",
        ours=small["prompts"] / small["telling"],
        peer=alone["prompts"] / alone["telling"],
        unit="prompts/s",
        against="one worker",
        core_seconds_a_million_prompts=round(1e6 * WORKERS / rate, 1),
    )


def _progress(members: int, workers: int, one: dict[str, float]) -> None:
    """Progress."""
    told = ", ".join(f"{key} {value:,.2f}" for key, value in one.items())
    print(f"{members:,} members, {workers} workers: {told}", flush=True)


if __name__ == "__main__":
    common.main("verbalize_scale", run)
