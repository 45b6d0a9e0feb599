"""Ray Data: the same work on many processes or machines, each worker made once.

Ray keeps what is going on in memory and spills beyond it; what is handed over here are names of
files, never rows, so that memory is that of the workers.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pydantic import Field

from brewhouse import offline
from brewhouse.domains.strict import Strict
from brewhouse.errors import BrewhouseError, PipelineError

Job = dict[str, Any]


class RayPlan(Strict):
    """Where and how wide work is spread with Ray."""

    address: str = Field(
        default="local",
        description="`local` starts Ray on this machine; `auto`, HOST:PORT or ray://HOST:10001 "
        "joins a cluster",
    )
    workers: int = Field(default=2, ge=1, description="Workers at once")
    cpus_per_worker: int = Field(default=1, ge=1, description="CPU cores that a worker counts on")
    gpus_per_worker: float = Field(default=0, ge=0, description="GPUs that a worker counts on")
    memory_gib_per_worker: float = Field(default=0, ge=0, description="Memory set aside; 0: none")
    object_store_gib: float = Field(
        default=0.25, gt=0, description="Ray's shared memory on this machine; `local` only"
    )


def spread(
    worker: type[Callable[[Job], Job]],
    arguments: dict[str, Any],
    jobs: Sequence[Job],
    plan: RayPlan,
) -> Iterator[Job]:
    """Do jobs by workers of a Ray cluster.

    Args:
        worker: Class whose objects do one job a call; each worker makes one.
        arguments: Keyword arguments of its constructor.
        jobs: Small dictionaries, such as names of files; workers must reach those files.
        plan: Cluster and workers.

    Yields:
        Results as they come, in any order.

    Raises:
        BrewhouseError: What a job raised, as it was.
        PipelineError: Ray is not installed, the cluster is not reached, or a worker died.
    """
    ray = _start(plan)
    resources: dict[str, Any] = {"num_cpus": plan.cpus_per_worker}
    if plan.gpus_per_worker:
        resources["num_gpus"] = plan.gpus_per_worker
    if plan.memory_gib_per_worker:
        resources["memory"] = int(plan.memory_gib_per_worker * 2**30)
    try:
        work = ray.data.from_items(list(jobs), override_num_blocks=len(jobs)).map(
            worker,
            fn_constructor_kwargs=arguments,
            compute=ray.data.ActorPoolStrategy(size=min(plan.workers, len(jobs))),
            **resources,
        )
        yield from work.iter_rows()
    except ray.exceptions.RayError as error:
        raise _told(error) from error
    finally:
        if plan.address == "local":
            ray.shutdown()


def _start(plan: RayPlan) -> Any:
    offline.silence()
    try:
        import ray
        import ray.data
    except ImportError as error:
        msg = "Ray is not installed; pip install 'brewhouse[ray]', or use the engine `process`"
        raise PipelineError(msg) from error
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.raise_original_map_exception = True
    # What a worker raises is told once, by us.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if plan.address == "local":
        given |= {
            "num_cpus": plan.workers * plan.cpus_per_worker,
            "include_dashboard": False,
            "object_store_memory": int(plan.object_store_gib * 2**30),
        }
        # A session of Ray that someone left in the environment is not this one.
        os.environ.pop("RAY_ADDRESS", None)
    try:
        if not ray.is_initialized():
            _reach(plan.address)
            ray.init(address=plan.address, **given)
    except (OSError, ValueError, RuntimeError) as error:
        lines = str(error).splitlines() or [repr(error)]
        msg = f"no Ray cluster at '{plan.address}': {lines[0]}; check the address and the head node"
        raise PipelineError(msg) from error
    return ray


def _reach(address: str) -> None:
    """Knock at an address first: Ray itself tries for five minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def _told(error: Exception) -> BrewhouseError:
    """The error of ours inside Ray's, or one that names what happened."""
    last: BaseException = error
    seen: BaseException | None = error
    while seen is not None:
        # Ray's own error pretends to be of our class as well; the one it carries is the real one.
        if isinstance(seen, BrewhouseError) and type(seen).__module__ == "brewhouse.errors":
            return seen
        last, seen = seen, getattr(seen, "cause", None) or seen.__cause__
    msg = f"a worker of Ray failed: {type(last).__name__}: {last}"
    return PipelineError(msg)
