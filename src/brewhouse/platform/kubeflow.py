"""Runs in Kubeflow Pipelines: started once however often it is tried, watched, read, stopped.

Kubeflow Pipelines has no idempotency key. A run's name is ours: before each try, the first one too,
runs of that name are looked for, and after a start they are counted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from brewhouse.errors import ConfigError, PipelineError
from brewhouse.platform.kubeflow_client import sdk_client
from brewhouse.platform.kubeflow_orders import Order, checked, packaged
from brewhouse.platform.kubeflow_runs import Run, run_of

ACCOUNTS = {
    "train_and_evaluate": "brewhouse-train",
    "studies": "brewhouse-train",
    "promote": "brewhouse-promote",
    "monitor": "brewhouse-monitor",
}
"""Service account of each pipeline's runs, as in manifests/base."""
_BUSY = (0, 408, 429, 500, 502, 503, 504)
"""Answers that may be others a moment later; 0 is none at all."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where runs go.

    Attributes:
        host: API server of Kubeflow Pipelines.
        namespace: Namespace of the runs where it is multi-user, else empty.
        service_account: Account of the steps; that of the pipeline in `ACCOUNTS` if empty.
        pipeline_root: URI under which steps keep artifacts; the server's own if empty.
    """

    host: str
    namespace: str = ""
    service_account: str = ""
    pipeline_root: str = ""

    @classmethod
    def read(cls, host: str, **given: str) -> Place:
        """A host with what the environment says of it; what is given and not empty goes first."""
        found = {
            "namespace": os.environ.get("BREWHOUSE_KFP_NAMESPACE", ""),
            "service_account": os.environ.get("BREWHOUSE_KFP_SERVICE_ACCOUNT", ""),
            "pipeline_root": os.environ.get("BREWHOUSE_KFP_PIPELINE_ROOT", ""),
        }
        return cls(host=host, **found | {k: v for k, v in given.items() if v})


@dataclass
class Kubeflow:
    """A client of one server.

    Attributes:
        place: Where runs go.
        tell: Told of retries.
        patience_s: Seconds a server may be silent before a call is given up.
        pause: Waits; seconds.
    """

    place: Place
    tell: Callable[[str], None] = lambda _: None
    patience_s: float = 120.0
    pause: Callable[[float], None] = time.sleep
    _client: Any = field(default=None, init=False, repr=False)

    def submit(self, order: Order) -> Run:
        """Start a run, or return the one of this name.

        A connection that is lost after the server took the order leaves a run that is found by its
        name at the next try. Of two that were started at the same moment the younger is stopped.

        Raises:
            ConfigError: An argument is unknown or missing.
            PipelineError: The server refuses, or does not answer for `patience_s`.
        """
        with packaged(order) as package:
            arguments = checked(order.arguments, package)
            experiment = self._experiment(order.experiment)

            def attempt() -> Run:
                if there := self._named(order.run_name, experiment):
                    return there[0]
                client = self._connect()
                made = client.run_pipeline(
                    experiment_id=experiment,
                    job_name=order.run_name,
                    pipeline_package_path=str(package),
                    params=arguments,
                    pipeline_root=self.place.pipeline_root or None,
                    service_account=self._account(order.pipeline),
                )
                return run_of(made, fresh=True)

            started = self._again(attempt, f"submit {order.run_name}")
        there = self._again(lambda: self._named(order.run_name, experiment), "list runs")
        for younger in there[1:]:
            self.tell(f"run {younger.id} of the same name was started beside it: stopped")
            self.cancel(younger)
        if not there or there[0].id == started.id:
            return started
        return there[0]

    def find(self, run: str) -> Run:
        """A run with its steps, by id, or by name: the newest of that name.

        Raises:
            PipelineError: There is none, or the server does not answer.
        """
        if not _is_id(run):
            named = self._again(lambda: self._named(run, None), "list runs")
            if not named:
                msg = f"no run named '{run}' at {self.place.host}; `--run` takes a name or an id"
                raise PipelineError(msg)
            run = named[-1].id
        return run_of(self._again(lambda: self._connect().get_run(run), f"read run {run}"))

    def logs(self, run: Run, step: str) -> Iterator[str]:
        """What a step wrote, line by line.

        Raises:
            PipelineError: The run has no such step, or no pod of it left a log.
        """
        steps = {task.name: task for task in run.tasks}
        name = step.replace("_", "-")
        if name not in steps:
            msg = (
                f"run {run.name} has no step '{step}'; it has {', '.join(sorted(steps)) or 'none'}"
            )
            raise PipelineError(msg)
        found = False
        for pod in steps[name].pods:
            text = self._again(partial(self._log, run.id, pod), f"read the log of {pod}")
            if text is not None:
                found = True
                yield from text.splitlines()
        if not found:
            msg = (
                f"step {name} of run {run.name} is {steps[name].state} and left no log: it has not "
                "begun, was taken from the cache, or its pod is gone and logs are not archived"
            )
            raise PipelineError(msg)

    def cancel(self, run: Run) -> Run:
        """Stop a run; one that has ended stays as it is.

        Raises:
            PipelineError: The server refuses, or does not answer.
        """
        if not run.finished:
            self._again(lambda: self._connect().terminate_run(run.id), f"cancel run {run.id}")
        return self.find(run.id)

    def follow(self, run: str, every_s: float) -> Iterator[Run]:
        """The run each time that something of it changed, until it has ended.

        Raises:
            PipelineError: As for `find`.
        """
        seen: tuple[Any, ...] = ()
        while True:
            found = self.find(run)
            now = (found.state, tuple((task.name, task.state) for task in found.tasks))
            if now != seen:
                yield found
            if found.finished:
                return
            seen = now
            self.pause(every_s)

    def schedule(self, order: Order, cron: str) -> str:
        """Run a pipeline again and again; return the recurring run's id.

        One of this name that exists already is returned instead. Runs that were missed are not
        caught up on, and never two at once.

        Args:
            order: Its `run_name` names the recurring run. Steps are never taken from a cache.
            cron: Six fields, seconds first, as Kubeflow Pipelines reads them.

        Raises:
            ConfigError: The cron expression has not six fields, or an argument is wrong.
            PipelineError: The server refuses, or does not answer.
        """
        if len(cron.split()) != 6:
            msg = f"'{cron}' has {len(cron.split())} fields; write six, seconds first: 0 0 6 * * *"
            raise ConfigError(msg)
        with packaged(replace(order, fresh=True)) as package:
            arguments = checked(order.arguments, package)
            experiment = self._experiment(order.experiment)

            def attempt() -> str:
                if there := self._recurring(order.run_name, experiment):
                    return there
                made = self._connect().create_recurring_run(
                    experiment_id=experiment,
                    job_name=order.run_name,
                    cron_expression=cron,
                    max_concurrency=1,
                    no_catchup=True,
                    pipeline_package_path=str(package),
                    params=arguments,
                    pipeline_root=self.place.pipeline_root or None,
                    service_account=self._account(order.pipeline),
                )
                return str(made.recurring_run_id)

            return self._again(attempt, f"schedule {order.run_name}")

    def unschedule(self, name: str, experiment: str) -> str:
        """End the recurring runs of a name and return the first's id; empty if there is none.

        Runs that they started go on.

        Raises:
            PipelineError: The server refuses, or does not answer.
        """
        from kfp_server_api import ApiException

        ended = ""

        def attempt() -> str:
            nonlocal ended
            client = self._connect()
            try:
                inside = client.get_experiment(
                    experiment_name=experiment, namespace=self.place.namespace or None
                )
            except ValueError as error:
                if "Multiple" in str(error):
                    raise
                return ended  # There is no such experiment.
            # Two who scheduled at once left two. After a lost answer, whoever asks again (urllib3
            # does by itself) finds nothing there.
            while there := self._recurring(name, str(inside.experiment_id)):
                ended = ended or there
                try:
                    client.delete_recurring_run(there)
                except ApiException as error:
                    if error.status != 404:
                        raise
            return ended

        return self._again(attempt, f"unschedule {name}")

    def _account(self, pipeline: str) -> str:
        return self.place.service_account or ACCOUNTS[pipeline]

    def _connect(self) -> Any:
        if self._client is None:
            if not self.place.host.startswith(("http://", "https://")):
                msg = f"'{self.place.host}' is no address of an API server; write https://HOST"
                raise ConfigError(msg)
            self._client = sdk_client(self.place.host, self.place.namespace)
        return self._client

    def _experiment(self, name: str) -> str:
        made = self._again(
            lambda: self._connect().create_experiment(name, namespace=self.place.namespace or None),
            f"find experiment {name}",
        )
        return str(made.experiment_id)

    def _named(self, name: str, experiment: str | None) -> list[Run]:
        """Runs of a name, the oldest first; those that somebody stopped or that failed too."""
        found, page = [], ""
        while True:
            listed = self._connect().list_runs(
                experiment_id=experiment,
                namespace=None if experiment else self.place.namespace or None,
                page_token=page,
                page_size=50,
                filter=_equals("display_name", name),
            )
            found += [run_of(run) for run in listed.runs or [] if run.display_name == name]
            page = listed.next_page_token or ""
            if not page:
                return sorted(found, key=lambda run: (str(run.started), run.id))

    def _recurring(self, name: str, experiment: str) -> str:
        page = ""
        while True:
            listed = self._connect().list_recurring_runs(
                experiment_id=experiment, page_token=page, page_size=50
            )
            for job in listed.recurring_runs or []:
                if job.display_name == name:
                    return str(job.recurring_run_id)
            page = listed.next_page_token or ""
            if not page:
                return ""

    def _log(self, run: str, pod: str) -> str | None:
        """The log of a pod, from the cluster or from where the server archived it."""
        from kfp_server_api import ApiException

        api = self._connect()._run_api.api_client
        try:
            found = api.call_api(
                "/apis/v1alpha1/runs/{run}/nodes/{pod}/log",
                "GET",
                path_params={"run": run, "pod": pod},
                auth_settings=["Bearer"],
                response_type=None,
                _preload_content=False,
            )
        except ApiException as error:
            if error.status in (404, 500):
                return None
            raise
        return str(found.data.decode(errors="replace"))

    def _again(self, call: Callable[[], _T], what: str) -> _T:
        """A call's result, tried again while the server is away.

        Raises:
            PipelineError: It refused, or was away for longer than `patience_s`.
        """
        from kfp_server_api import ApiException
        from urllib3.exceptions import HTTPError

        began, waited, wait = time.monotonic(), 0.0, 0.5
        while True:
            try:
                return call()
            except (ApiException, HTTPError, OSError) as error:
                status = getattr(error, "status", 0) or 0
                # Calls that hang count like pauses do.
                spent = max(waited, time.monotonic() - began)
                if status not in _BUSY or spent >= self.patience_s:
                    raise self._told(error, what, status) from error
                self.tell(f"{what}: {_why(error)}; trying again in {wait:g} s")
                self.pause(wait)
                waited, wait = waited + wait, min(2 * wait, 15.0)

    def _told(self, error: Exception, what: str, status: int) -> PipelineError:
        if status in (401, 403):
            remedy = "sign in, or ask for the role brewhouse-run-starter in the namespace"
        elif status in _BUSY:
            remedy = f"check the address and the network policy; {self.patience_s:g} s were waited"
        else:
            remedy = "see the server's own message"
        return PipelineError(f"cannot {what} at {self.place.host}: {_why(error)}; {remedy}")


def _equals(key: str, value: str) -> str:
    import json

    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "stringValue": value}]})


def _is_id(text: str) -> bool:
    from uuid import UUID

    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def _why(error: Exception) -> str:
    """One line of what went wrong."""
    status = getattr(error, "status", None)
    if status:
        body = getattr(error, "body", "") or ""
        text = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
        return f"{status} {getattr(error, 'reason', '')}: {' '.join(text.split())[:300]}"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
