"""A stand-in for Kubeflow Pipelines' API server: experiments, runs, recurring runs, logs.

It keeps what it is sent, answers as v2beta1 does, asks for rights as a multi-user one does, and
loses connections when told to: before an order is taken, or after.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml

from tests.conftest import ROOT
from tools.access_table import rights

Value = dict[str, Any]
BEGAN = datetime(2026, 5, 1, tzinfo=UTC)
_ROUTES = [
    ("GET", r"/apis/v2beta1/healthz", None, "healthz"),
    ("GET", r"/apis/v2beta1/experiments", ("experiments", "list"), "experiments"),
    ("POST", r"/apis/v2beta1/experiments", ("experiments", "create"), "experiment"),
    ("GET", r"/apis/v2beta1/runs", ("runs", "list"), "runs"),
    ("POST", r"/apis/v2beta1/runs", ("runs", "create"), "run"),
    ("GET", r"/apis/v2beta1/runs/(?P<run>[^/:]+)", ("runs", "get"), "one"),
    ("POST", r"/apis/v2beta1/runs/(?P<run>[^/:]+):terminate", ("runs", "terminate"), "stop"),
    ("GET", r"/apis/v2beta1/recurringruns", ("jobs", "list"), "recurring"),
    ("POST", r"/apis/v2beta1/recurringruns", ("jobs", "create"), "recur"),
    ("DELETE", r"/apis/v2beta1/recurringruns/(?P<job>[^/:]+)", ("jobs", "delete"), "end"),
    (
        "GET",
        r"/apis/v1alpha1/runs/(?P<run>[^/]+)/nodes/(?P<pod>[^/]+)/log",
        ("runs", "get"),
        "log",
    ),
]


GROUP = "pipelines.kubeflow.org"
CALLS: set[tuple[str, str, str]] = set()
"""Rights that were asked for in all tests of this session."""


class LostError(Exception):
    """The connection ends without an answer."""


class RefusedError(Exception):
    """An answer other than success."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Open:
    """No lock: another may come in while an answer is made."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class Server:
    """What the server holds.

    Attributes:
        address: Where it listens.
        runs: By id, in the order in which they were made.
        sent: Bodies of orders as they came.
        calls: Rights that were asked for.
        allowed: Rights that are given; everything if None.
        lose: Ends of connections to come for POSTs of runs and DELETEs, `before` or `after`.
        down: Answers that are 503 instead, of any kind.
        tokens: What callers showed.
        meanwhile: Called once when runs have been listed, before the answer is sent.
    """

    def __init__(self) -> None:
        self.address = ""
        self.experiments: list[Value] = []
        self.runs: dict[str, Value] = {}
        self.jobs: list[Value] = []
        self.sent: list[Value] = []
        self.logs: dict[tuple[str, str], str] = {}
        self.calls: set[tuple[str, str]] = set()
        self.allowed: set[tuple[str, str]] | None = None
        self.lose: list[str] = []
        self.down = 0
        self.tokens: set[str] = set()
        self.meanwhile: Any = None
        self.lock = threading.RLock()

    def healthz(self, *_: Any) -> Value:
        return {"multi_user": False}

    def list_of(self, values: list[Value], query: dict[str, str], field: str) -> Value:
        """One page, filtered as asked."""
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            # The SDK numbers operations; protobuf's JSON takes names as well.
            assert predicate["operation"] in (1, "EQUALS")
            assert predicate["key"] == "display_name"
            values = [v for v in values if v["display_name"] == predicate["stringValue"]]
        if experiment := query.get("experiment_id"):
            values = [v for v in values if v["experiment_id"] == experiment]
        start, size = int(query.get("page_token") or 0), int(query.get("page_size") or 10)
        after = start + size
        token = {"next_page_token": str(after)} if after < len(values) else {}
        return {field: values[start:after], **token}

    def do_experiments(self, query: dict[str, str], _body: Value, **_: str) -> Value:
        return self.list_of(self.experiments, query, "experiments")

    def do_experiment(self, _query: dict[str, str], body: Value, **_: str) -> Value:
        if any(e["display_name"] == body["display_name"] for e in self.experiments):
            raise RefusedError(409, "Already exist error: the experiment name is taken")
        made = body | {"experiment_id": str(uuid.uuid4()), "created_at": _time(0)}
        self.experiments.append(made)
        return made

    def do_runs(self, query: dict[str, str], _body: Value, **_: str) -> Value:
        found = self.list_of(list(self.runs.values()), query, "runs")
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile:
            meanwhile()
        return found

    def do_run(self, _query: dict[str, str], body: Value, **_: str) -> Value:
        how = self.lose.pop(0) if self.lose else ""
        if how == "before":
            raise LostError
        self.sent.append(body)
        made = self.add(body)
        if how == "after":
            raise LostError
        return made

    def add(self, body: Value) -> Value:
        """Keep a run."""
        run = str(uuid.uuid4())
        made = body | {"run_id": run, "state": "PENDING", "created_at": _time(len(self.runs))}
        self.runs[run] = made
        return made

    def do_one(self, _query: dict[str, str], _body: Value, *, run: str) -> Value:
        return self.found(run)

    def do_stop(self, _query: dict[str, str], _body: Value, *, run: str) -> Value:
        if self.found(run)["state"] in ("SUCCEEDED", "FAILED", "CANCELED"):
            raise RefusedError(400, "Failed to terminate run: it has ended")
        self.runs[run]["state"] = "CANCELING"
        return {}

    def do_recurring(self, query: dict[str, str], _body: Value, **_: str) -> Value:
        found = self.list_of(self.jobs, query, "recurring_runs")
        return {("recurringRuns" if k == "recurring_runs" else k): v for k, v in found.items()}

    def do_recur(self, _query: dict[str, str], body: Value, **_: str) -> Value:
        made = body | {"recurring_run_id": str(uuid.uuid4())}
        self.jobs.append(made)
        return made

    def do_end(self, _query: dict[str, str], _body: Value, *, job: str) -> Value:
        how = self.lose.pop(0) if self.lose else ""
        if how == "before":
            raise LostError
        left = [one for one in self.jobs if one["recurring_run_id"] != job]
        if len(left) == len(self.jobs):
            raise RefusedError(404, f"Recurring run {job} not found")
        self.jobs = left
        if how == "after":
            raise LostError
        return {}

    def found(self, run: str) -> Value:
        if run not in self.runs:
            raise RefusedError(404, f"Run {run} not found")
        return self.runs[run]

    def steps(self, run: str, states: dict[str, str]) -> None:
        """Say how steps stand, as a workflow tells it: driver, step, and the pod that does it."""
        details: list[Value] = [{"display_name": "root", "state": "RUNNING", "pod_name": "flow"}]
        for name, state in states.items():
            error = {"error": {"message": "exit code 7"}} if state == "FAILED" else {}
            pod = f"flow-{name}-1"
            details += [
                {"display_name": f"{name}-driver", "state": "SUCCEEDED", "pod_name": f"{pod}-d"},
                {
                    "display_name": name,
                    "state": state,
                    "pod_name": f"flow-{name}",
                    "start_time": _time(1),
                    "child_tasks": [{"pod_name": pod}],
                    **error,
                },
                {"display_name": "executor", "state": state, "pod_name": pod},
            ]
        self.runs[run]["run_details"] = {"task_details": details}


def _time(minutes: int) -> str:
    return (BEGAN + timedelta(minutes=minutes)).isoformat().replace("+00:00", "Z")


class _Handler(BaseHTTPRequestHandler):
    server_version = "kfp"
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    held: Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._answer("GET")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def _answer(self, method: str) -> None:
        at = urlparse(self.path)
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"{}")
        query = {k: v[0] for k, v in parse_qs(at.query).items()}
        try:
            self._send(200, self._do(method, at.path, query, body))
        except LostError:
            self.close_connection = True
        except RefusedError as error:
            self._send(error.code, {"error": str(error), "code": error.code})

    def _do(self, method: str, path: str, query: dict[str, str], body: Value) -> Any:
        held = self.held
        with held.lock:
            held.tokens.add(self.headers.get("Authorization", ""))
            if held.down:
                held.down -= 1
                raise RefusedError(503, "no healthy upstream")
            for verb, pattern, right, name in _ROUTES:
                match = re.fullmatch(pattern, path)
                if verb != method or match is None:
                    continue
                if right:
                    held.calls.add(right)
                    CALLS.add((GROUP, *right))
                    if held.allowed is not None and right not in held.allowed:
                        raise RefusedError(403, f"not allowed to {right[1]} {right[0]}")
                if name == "healthz":
                    return held.healthz()
                if name == "log":
                    key = (match["run"], match["pod"])
                    if key not in held.logs:
                        raise RefusedError(500, "failed to read the log: pod not found")
                    return held.logs[key]
                return getattr(held, f"do_{name}")(query, body, **match.groupdict())
        raise RefusedError(404, f"{method} {path}: Not Found")

    def _send(self, code: int, value: Any) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        data = text.encode()
        self.send_response(code)
        kind = "text/plain" if isinstance(value, str) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def role(name: str) -> set[tuple[str, str]]:
    """What a role of the manifests grants of pipelines."""
    for value in yaml.safe_load_all((ROOT / "manifests/base/roles.yaml").read_text()):
        if (value["kind"], value["metadata"]["name"]) == ("Role", name):
            return {(resource, verb) for _, resource, verb in rights(value)}
    raise AssertionError(name)


@contextmanager
def serve(
    granted: str = "brewhouse-run-starter", host: str = "127.0.0.1"
) -> Iterator[tuple[Server, str]]:
    """Serve on loopback for as long as a block lasts; what it holds, and its address.

    Args:
        granted: Role of the manifests whose rights the callers have.
        host: Address of this machine.
    """
    held = Server()
    held.allowed = role(granted)
    handler = type("Handler", (_Handler,), {"held": held})
    listening = ThreadingHTTPServer((host, 0), handler)
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    held.address = f"http://{host}:{listening.server_port}"
    try:
        yield held, held.address
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join(10)
