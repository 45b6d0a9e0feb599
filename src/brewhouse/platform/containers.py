"""Steps of a local run as containers of their images, by Docker or by podman's service.

The SDK's own way lets a container be removed as soon as it ends, and takes one that is gone for
one that ended well (kubeflow/pipelines#13332). Here it is waited for, then removed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from brewhouse.errors import PipelineError


@dataclass(frozen=True, kw_only=True)
class ContainerPlan:
    """How containers run: as a cluster would have them.

    Attributes:
        network: `none`, for steps that need no service; `host` for those that do.
        memory: Limit of a step, such as `8g`; none if empty.
        environment: Variables beyond the image's own.
        volumes: Folders of this machine, with where steps see them: what a cluster's claims and
            secrets hold; `:ro` at the end for what they may not write to.
        hosts: Names that steps may call, with addresses: what a cluster's Services are.
    """

    network: str = "none"
    memory: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: Mapping[str, str] = field(default_factory=dict)
    hosts: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def container_runner(plan: ContainerPlan) -> Iterator[Any]:
    """The SDK's runner of containers, with statuses that are true, for as long as a block lasts.

    Raises:
        PipelineError: No service of Docker or podman answers.
    """
    try:
        import docker
        from docker.types import Ulimit
    except ImportError as error:
        msg = "steps in containers need the package docker; pip install 'brewhouse[containers]'"
        raise PipelineError(msg) from error
    from kfp import local
    from kfp.local import docker_task_handler

    try:
        docker.from_env().ping()
    except docker.errors.DockerException as error:
        msg = (
            f"no service of containers answers: {error}; start Docker, or "
            "`podman system service --time=0 unix:///tmp/podman.sock` and set "
            "DOCKER_HOST=unix:///tmp/podman.sock"
        )
        raise PipelineError(msg) from error
    limits: dict[str, Any] = {"mem_limit": plan.memory} if plan.memory else {}
    if os.geteuid():
        # What steps write belongs to whoever runs them.
        limits["user"] = f"{os.getuid()}:{os.getgid()}"
    runner = local.DockerRunner(
        network_mode=plan.network,
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        tmpfs={"/tmp": "rw,mode=1777"},  # noqa: S108 - of the container
        # Named, because podman asks for more than an unprivileged service may give.
        ulimits=[
            Ulimit(name="nofile", soft=1024, hard=1024),
            Ulimit(name="nproc", soft=4096, hard=4096),
        ],
        extra_hosts=dict(plan.hosts),
        **limits,
    )
    theirs = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = partial(_run_container, plan)
    # Folders are made here and written to by the image's own user.
    mask = os.umask(0)
    try:
        yield runner
    finally:
        os.umask(mask)
        docker_task_handler.run_docker_container = theirs


def _bound(target: str) -> dict[str, str]:
    path, _, mode = target.partition(":")
    return {"bind": path, "mode": mode or "rw"}


def _run_container(
    plan: ContainerPlan,
    client: Any,
    image: str,
    command: list[str],
    volumes: dict[str, Any],
    *,
    environment: Mapping[str, str] | None = None,
    **arguments: Any,
) -> int:
    """Run one to its end; return its exit code."""
    import docker

    try:
        container = client.containers.run(
            image=image,
            command=command,
            detach=True,
            volumes=volumes | {at: _bound(to) for at, to in plan.volumes.items()},
            environment={**plan.environment, **(environment or {})},
            **arguments,
        )
    except docker.errors.ImageNotFound as error:
        msg = f"there is no image {image}; build it (`make image`) and tag it so"
        raise PipelineError(msg) from error
    try:
        # In whole lines: what comes is cut anywhere, and who reads the log looks at lines.
        rest = b""
        for part in container.logs(stream=True, follow=True):
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                print(line.decode(errors="replace"))
        if rest:
            print(rest.decode(errors="replace"))
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True)
