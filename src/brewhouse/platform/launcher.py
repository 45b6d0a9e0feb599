"""Starts the TrainJob of a run, or adopts the one that is there, and follows it to its end.

Nothing waits by the clock: a job in the queue may wait for days, and one that runs is given up only
when it has said nothing for longer than its heartbeat.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from brewhouse.errors import ConfigError, TrainingError
from brewhouse.platform.trainjob import (
    ANNOTATION_DIGEST,
    GROUP,
    NODE,
    PLURAL,
    VERSION,
    ClusterSpec,
)
from brewhouse.training.agent import RETRY_EXIT_CODE

JOB_LABEL = "jobset.sigs.k8s.io/jobset-name"
_INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
_TAIL = 15
_UNREACHABLE_S = 900.0
"""Seconds an API server may be silent before following it is given up."""
_GONE_S = 1800.0
"""Seconds a deleted job may take to go: its nodes write a checkpoint first."""


def connect(address: str = "") -> Any:
    """A client of the API server: in the cluster, by kubeconfig, or at an address (tests).

    Raises:
        ConfigError: There is no cluster to talk to.
    """
    from kubernetes import client, config

    if address:
        settings = client.Configuration()
        settings.host = address
        return client.ApiClient(settings)
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except (config.ConfigException, OSError) as error:
            msg = f"no cluster: {error}; run inside one or set KUBECONFIG"
            raise ConfigError(msg) from error
    return client.ApiClient()


class Launcher:
    """Starts or adopts the job of a run and follows it."""

    def __init__(self, api: Any, spec: ClusterSpec, *, tell: Callable[[str], None]) -> None:
        """Take a client.

        Args:
            api: `kubernetes.client.ApiClient`.
            spec: Cluster.
            tell: Told what happens, a line each.
        """
        from kubernetes import client

        self.jobs = client.CustomObjectsApi(api)
        self.core = client.CoreV1Api(api)
        self.spec, self.tell = spec, tell

    def launch(self, job: dict[str, Any]) -> dict[str, Any]:
        """Create the job, or adopt the one of the same run; a failed one is made anew.

        Raises:
            TrainingError: A job of this name does something else, or the server refuses ours.
        """
        from kubernetes.client.exceptions import ApiException

        name = job["metadata"]["name"]
        found = self._get(name)
        if found is not None and found["metadata"].get("deletionTimestamp"):
            self.tell(f"TrainJob {name} of an earlier try is being deleted; waiting")
            self._wait_until_gone(name)
            found = None
        asked = job["metadata"]["annotations"][ANNOTATION_DIGEST]
        if found is not None and _digest(found) == asked and _condition(found, "Failed"):
            self.tell(f"TrainJob {name} failed before; starting it again from its checkpoints")
            self._delete(name)
            self._wait_until_gone(name)
            found = None
        if found is None:
            try:
                made = self.jobs.create_namespaced_custom_object(
                    GROUP, VERSION, self.spec.namespace, PLURAL, job
                )
                self.tell(f"TrainJob {name} created in {self.spec.namespace}")
                return dict(made)
            except ApiException as error:
                if error.status != 409:
                    msg = (
                        f"TrainJob {name} was refused by the API server ({error.status}): "
                        f"{_message(error)}"
                    )
                    raise TrainingError(msg) from error
                found = self._get(name) or {}  # Someone else was faster by a moment.
        there = _digest(found)
        if there != asked:
            msg = (
                f"TrainJob {name} in {self.spec.namespace} is of this run but trains another thing "
                f"({there}, asked {asked}); delete it or start a run of another id"
            )
            raise TrainingError(msg)
        if found["spec"].get("suspend") and not self.spec.queue:
            self._patch(name, {"spec": {"suspend": False}})
        self.tell(f"TrainJob {name} is there already: adopted")
        return dict(found)

    def follow(self, name: str) -> None:
        """Wait for the end, telling phases and log lines; on a signal suspend or delete the job.

        Raises:
            TrainingError: The job failed, was deleted, or said nothing for too long.
        """
        phase, seen, heard, reached = "", ("", 0), time.monotonic(), time.monotonic()
        with self._stopping(name):
            while True:
                try:
                    job = self._get(name)
                    now = self._phase(job) if job else ""
                    fresh, seen = self._fresh_lines(name, seen)
                except _unreachable() as error:
                    # Days of following outlast an API server's restart, not a wrong role.
                    refused = 400 <= (getattr(error, "status", None) or 500) < 500
                    if refused or time.monotonic() - reached > _UNREACHABLE_S:
                        msg = f"TrainJob {name} cannot be followed: {error!r:.300}"
                        raise TrainingError(msg) from error
                    self.tell(f"TrainJob {name}: the API server did not answer ({error!r:.80})")
                    time.sleep(self.spec.poll_s)
                    continue
                reached = time.monotonic()
                if job is None:
                    msg = f"TrainJob {name} was deleted by someone else; start the step again"
                    raise TrainingError(msg)
                if now != phase:
                    self.tell(f"TrainJob {name}: {now}")
                    phase, heard = now, time.monotonic()
                for line in fresh:
                    heard = time.monotonic()
                    if line.startswith(("train", "error")):
                        self.tell(line)
                if _condition(job, "Complete"):
                    return
                if _condition(job, "Failed"):
                    raise TrainingError(self._why(job))
                silent = time.monotonic() - heard
                if phase.startswith("running") and silent > 60 * self.spec.heartbeat_minutes:
                    self._cancel(name)
                    msg = (
                        f"TrainJob {name} said nothing for {silent / 60:.1f} minutes while running "
                        f"and was stopped ({self.spec.on_cancel}); see its logs, or raise "
                        f"heartbeat_minutes ({self.spec.heartbeat_minutes:g})"
                    )
                    raise TrainingError(msg)
                time.sleep(self.spec.poll_s)

    def _phase(self, job: dict[str, Any]) -> str:
        if _condition(job, "Complete"):
            return "complete"
        if _condition(job, "Failed"):
            return "failed"
        if job["spec"].get("suspend") or _condition(job, "Suspended"):
            queue = job["metadata"].get("labels", {}).get("kueue.x-k8s.io/queue-name")
            return f"waiting in queue {queue}" if queue else "suspended"
        pods = self._pods(job["metadata"]["name"])
        running = sum(pod.status.phase == "Running" for pod in pods)
        if running:
            return f"running on {running} of {self.spec.nodes} nodes"
        for pod in pods:
            for condition in pod.status.conditions or []:
                if condition.type == "PodScheduled" and condition.status == "False":
                    return f"pending: {condition.message}"
            for status in pod.status.container_statuses or []:
                if status.state and status.state.waiting:
                    return f"pending: {status.state.waiting.reason}"
        return "pending"

    def _pods(self, name: str) -> list[Any]:
        found = self.core.list_namespaced_pod(
            self.spec.namespace, label_selector=f"{JOB_LABEL}={name}"
        ).items
        # A Job keeps pods that ended beside those that took their place: the newest of each node.
        newest: dict[str, Any] = {}
        for pod in sorted(found, key=lambda p: str(p.metadata.creation_timestamp or "")):
            node = (pod.metadata.labels or {}).get(_INDEX_LABEL, pod.metadata.name)
            newest[str(node)] = pod
        return [newest[node] for node in sorted(newest)]

    def _fresh_lines(self, name: str, seen: tuple[str, int]) -> tuple[list[str], tuple[str, int]]:
        """Lines of the first node's log beyond those seen; all of them from a new pod."""
        pods = [p for p in self._pods(name) if p.status.phase not in (None, "Pending")]
        if not pods:
            return [], seen
        pod = str(pods[0].metadata.name)
        lines = self._log(pods[0]).splitlines()
        at = seen[1] if seen[0] == pod and len(lines) >= seen[1] else 0
        return lines[at:], (pod, len(lines))

    def _log(self, pod: Any, **options: Any) -> str:
        from kubernetes.client.exceptions import ApiException

        try:
            return str(
                self.core.read_namespaced_pod_log(
                    pod.metadata.name,
                    self.spec.namespace,
                    container=NODE,
                    _preload_content=False,
                    **options,
                ).data.decode(errors="replace")
            )
        except ApiException:
            return ""

    def _why(self, job: dict[str, Any]) -> str:
        """What failed: the condition, and the last lines of the node that ended badly first."""
        name = job["metadata"]["name"]
        condition = _condition(job, "Failed") or {}
        said = f"TrainJob {name} failed: {condition.get('message', 'no reason given')}"
        broken = []
        for pod in self._pods(name):
            for status in pod.status.container_statuses or []:
                ended = status.state.terminated if status.state else None
                if ended is not None and ended.exit_code not in (0, None, RETRY_EXIT_CODE):
                    broken.append((str(ended.finished_at), pod, ended.exit_code))
        if not broken:
            return f"{said}; no pod of it is left to ask"
        _, pod, code = min(broken, key=lambda b: (b[0], b[1].metadata.name))
        lines = [line for line in self._log(pod).splitlines() if line.strip()]
        ours = [line for line in lines if "error: " in line] or lines
        return f"{said}; {pod.metadata.name} ended with {code}: " + " | ".join(ours[-_TAIL:])

    def _get(self, name: str) -> dict[str, Any] | None:
        from kubernetes.client.exceptions import ApiException

        try:
            return dict(
                self.jobs.get_namespaced_custom_object(
                    GROUP, VERSION, self.spec.namespace, PLURAL, name
                )
            )
        except ApiException as error:
            if error.status == 404:
                return None
            msg = f"TrainJob {name}: the API server answered {error.status}: {_message(error)}"
            if error.status and error.status >= 500:
                raise ConnectionError(msg) from error
            raise TrainingError(msg) from error

    def _patch(self, name: str, patch: dict[str, Any]) -> None:
        self.jobs.patch_namespaced_custom_object(
            GROUP, VERSION, self.spec.namespace, PLURAL, name, patch
        )

    def _delete(self, name: str) -> None:
        self.jobs.delete_namespaced_custom_object(
            GROUP, VERSION, self.spec.namespace, PLURAL, name, propagation_policy="Foreground"
        )

    def _wait_until_gone(self, name: str) -> None:
        deadline = time.monotonic() + _GONE_S
        while time.monotonic() < deadline:
            if self._get(name) is None:
                return
            time.sleep(min(5.0, self.spec.poll_s))
        msg = f"TrainJob {name} is being deleted and does not go; look at its finalizers"
        raise TrainingError(msg)

    def _cancel(self, name: str) -> None:
        if self.spec.on_cancel == "suspend":
            self._patch(name, {"spec": {"suspend": True}})
            self.tell(f"TrainJob {name} suspended")
        else:
            self._delete(name)
            self.tell(f"TrainJob {name} deleted")

    @contextmanager
    def _stopping(self, name: str) -> Iterator[None]:
        """While following, a termination signal ends the job before it ends us."""

        def stop(number: int, _frame: object) -> None:
            raise SystemExit(128 + number)

        before = {s: signal.signal(s, stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        except SystemExit:
            self._cancel(name)
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _digest(job: dict[str, Any]) -> str | None:
    found = job.get("metadata", {}).get("annotations", {}).get(ANNOTATION_DIGEST)
    return None if found is None else str(found)


def _condition(job: dict[str, Any], kind: str) -> dict[str, Any] | None:
    """A condition that holds."""
    for condition in job.get("status", {}).get("conditions", []):
        if condition["type"] == kind and condition["status"] == "True":
            return dict(condition)
    return None


def _message(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return str(error.reason)


def _unreachable() -> tuple[type[Exception], ...]:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    return (ApiException, HTTPError, OSError)
