"""A small API server: what the launcher needs of Kubernetes, refused where Kubernetes refuses it.

Objects have a uid, a resource version that grows, generations and a status apart; lists take label
and field selectors; watches replay from a resource version; server-side apply keeps field owners
and refuses conflicts; custom resources go through their CRD's schema and CEL rules. The contract
tests run against it, and against a real control plane where `KUBEBUILDER_ASSETS` names one.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import kubernetes_validate
import yaml

from tests.kube import discovery, protobuf
from tests.kube.schema import crds

Key = tuple[str, str, str, str]
"""API version, plural, namespace, name."""
Right = tuple[str, str, str]
"""API group, resource and verb."""


class Refused(Exception):  # noqa: N818 - an answer, not a fault of the server
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class Cluster:
    """Objects, their history, and logs of pods."""

    def __init__(self) -> None:
        self.address = ""
        self.objects: dict[Key, dict[str, Any]] = {}
        self.history: list[tuple[int, str, Key, dict[str, Any]]] = []
        self.logs: dict[tuple[str, str], str] = {}
        self.changed = threading.Condition(threading.RLock())
        self.version = 100
        self.served = {f"{group}/{crd.plural}": crd for (group, _), crd in crds().items()}
        self.kinds = discovery.served()
        self.calls: set[Right] = set()
        self.allowed: set[Right] | None = None
        self.accounts: dict[str, set[Right]] = {}
        self.version_told = "v1.34.2"
        self.clock_skew = timedelta()
        self.strict = False

    def forget(self, group: str) -> None:
        """As if a product had never been installed."""
        self.kinds = {v: of for v, of in self.kinds.items() if v.partition("/")[0] != group}

    def review(self, who: str, asked: dict[str, str]) -> bool:
        """Whether someone may do something: an account by its rights, the caller by its own."""
        sub = f"/{asked['subresource']}" if asked.get("subresource") else ""
        right = (asked.get("group", ""), asked["resource"] + sub, asked["verb"])
        if who:
            return right in self.accounts.get(who, set())
        return self.allowed is None or right in self.allowed

    def authorize(self, right: Right) -> None:
        """Note what is asked for, and refuse what a role does not grant."""
        self.calls.add(right)
        if self.allowed is not None and right not in self.allowed:
            group, resource, verb = right
            message = f'{resource}.{group} is forbidden: the account cannot {verb} "{resource}"'
            raise Refused(403, "Forbidden", message)

    def get(self, key: Key) -> dict[str, Any]:
        if key not in self.objects:
            raise Refused(404, "NotFound", f'{key[1]} "{key[3]}" not found')
        return self.objects[key]

    def create(self, key: Key, value: dict[str, Any]) -> dict[str, Any]:
        with self.changed:
            meta = value.setdefault("metadata", {})
            name = meta.get("name") or meta.get("generateName", "") + uuid.uuid4().hex[:5]
            key = (*key[:3], name)
            if key in self.objects:
                raise Refused(409, "AlreadyExists", f'{key[1]} "{name}" already exists')
            value["metadata"] = meta | {
                "name": name,
                "uid": str(uuid.uuid4()),
                "generation": 1,
                "creationTimestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
            if key[2]:
                value["metadata"]["namespace"] = key[2]
            crd = self.served.get(f"{key[0]}/{key[1]}")
            if crd is not None and crd.status:
                value.pop("status", None)
            return self._store(key, self._admitted(key, value, None), "ADDED")

    def replace(self, key: Key, value: dict[str, Any], *, status: bool = False) -> dict[str, Any]:
        with self.changed:
            old = self.get(key)
            given = value.get("metadata", {}).get("resourceVersion")
            if given and given != old["metadata"]["resourceVersion"]:
                raise Refused(
                    409,
                    "Conflict",
                    "the object has been modified; apply your changes to the latest",
                )
            crd = self.served.get(f"{key[0]}/{key[1]}")
            new = copy.deepcopy(value)
            if status:
                new = copy.deepcopy(old) | {"status": value.get("status")}
            elif crd.status if crd else self.strict and key[1] in discovery.WITH_STATUS:
                new.pop("status", None)
                if "status" in old:
                    new["status"] = old["status"]
            fixed = ("uid", "creationTimestamp", "generation", "name", "namespace")
            new["metadata"] = value.get("metadata", {}) | {
                k: old["metadata"][k] for k in fixed if k in old["metadata"]
            }
            new = self._admitted(key, new, old)
            if new.get("spec") != old.get("spec"):
                new["metadata"]["generation"] += 1
            return self._store(key, new, "MODIFIED")

    def merge(self, key: Key, patch: dict[str, Any], *, status: bool = False) -> dict[str, Any]:
        with self.changed:
            merged = _merge(copy.deepcopy(self.get(key)), patch)
            return self.replace(key, merged, status=status)

    def apply(
        self, key: Key, value: dict[str, Any], *, manager: str, force: bool
    ) -> dict[str, Any]:
        """Server-side apply, ownership by leaf path; lists are owned as a whole."""
        with self.changed:
            if not manager:
                raise Refused(400, "BadRequest", "fieldManager is required for apply patch")
            mine = {p for p in _paths(value) if p[0] not in ("apiVersion", "kind", "metadata")}
            if key not in self.objects:
                made = copy.deepcopy(value)
                made.setdefault("metadata", {})["name"] = key[3]
                found = self.create(key, made)
            else:
                old = self.get(key)
                owners = _owners(old)
                for other, paths in owners.items():
                    clash = [
                        p for p in paths & mine if other != manager and _at(old, p) != _at(value, p)
                    ]
                    if clash and not force:
                        raise Refused(
                            409,
                            "Conflict",
                            f'conflict with "{other}": {".".join(map(str, sorted(clash)[0]))}',
                        )
                merged = _merge(copy.deepcopy(old), {**value, "metadata": value["metadata"]})
                for path in owners.get(manager, set()) - mine:
                    if not any(path in paths for o, paths in owners.items() if o != manager):
                        _drop(merged, path)
                merged["metadata"].pop("resourceVersion", None)
                found = self.replace(key, merged)
            fields = [
                m for m in found["metadata"].get("managedFields", []) if m["manager"] != manager
            ]
            fields.append({"manager": manager, "paths": sorted(map(list, mine))})
            found["metadata"]["managedFields"] = fields
            return found

    def delete(self, key: Key) -> dict[str, Any]:
        with self.changed:
            old = self.get(key)
            del self.objects[key]
            self._note("DELETED", key, old)
            uid = old["metadata"]["uid"]
            for other, value in list(self.objects.items()):
                owners = value["metadata"].get("ownerReferences", [])
                if any(o["uid"] == uid for o in owners):
                    self.delete(other)
            return old

    def list(self, key: Key, labels: str, fields: str) -> list[dict[str, Any]]:
        with self.changed:
            return [
                value
                for k, value in self.objects.items()
                if k[:2] == key[:2]
                and (not key[2] or k[2] == key[2])
                and _matches(value["metadata"].get("labels", {}), labels)
                and (not fields or _field(value, fields))
            ]

    def watch(
        self, key: Key, labels: str, fields: str, since: int, seconds: float
    ) -> Iterator[dict[str, Any]]:
        at, deadline = since, datetime.now(UTC).timestamp() + seconds
        while True:
            with self.changed:
                fresh = [e for e in self.history if e[0] > at]
                if not fresh:
                    left = deadline - datetime.now(UTC).timestamp()
                    if left <= 0:
                        return
                    self.changed.wait(min(left, 0.5))
                    continue
            for version, kind, where, value in fresh:
                at = version
                if (
                    where[:2] == key[:2]
                    and (not key[2] or where[2] == key[2])
                    and _matches(value["metadata"].get("labels", {}), labels)
                    and (not fields or _field(value, fields))
                ):
                    yield {"type": kind, "object": value}

    def _admitted(
        self, key: Key, value: dict[str, Any], old: dict[str, Any] | None
    ) -> dict[str, Any]:
        if self.strict:
            self._check(key, value)
        crd = self.served.get(f"{key[0]}/{key[1]}")
        if crd is None:
            return value
        try:
            return crd.admit(value, old)
        except ValueError as error:
            raise Refused(422, "Invalid", str(error)) from error

    def _check(self, key: Key, value: dict[str, Any]) -> None:
        """Built-in kinds by their schema, and that the namespace is there."""
        if key[2] and ("v1", "namespaces", "", key[2]) not in self.objects:
            raise Refused(404, "NotFound", f'namespaces "{key[2]}" not found')
        if bool(key[2]) != discovery.is_namespaced(*key[:2]):
            raise Refused(400, "BadRequest", f"{key[1]}: in a namespace, or not: '{key[2]}'")
        if key[0] in discovery.BUILT_IN and key[1] != "rayclusters":
            told = {k: v for k, v in value.items() if k != "status"}
            told["metadata"] = {k: v for k, v in told["metadata"].items() if k != "managedFields"}
            try:
                kubernetes_validate.validate(told, self.version_told[1:5], strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Refused(400, "BadRequest", f"{key[1]} {key[3]}: {error.message}") from error

    def _store(self, key: Key, value: dict[str, Any], kind: str) -> dict[str, Any]:
        value = copy.deepcopy(value)
        value["metadata"]["resourceVersion"] = str(self.version + 1)
        self.objects[key] = value
        self._note(kind, key, value)
        return value

    def _note(self, kind: str, key: Key, value: dict[str, Any]) -> None:
        self.version += 1
        self.history.append((self.version, kind, key, copy.deepcopy(value)))
        self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    cluster: Cluster
    protocol_version = "HTTP/1.1"
    # Heads and bodies leave together: apart, each answer waits for the client's delayed ack.
    wbufsize = -1

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self) -> None:
        try:
            self._route()
        except Refused as error:
            self._send(
                error.code,
                {
                    "apiVersion": "v1",
                    "kind": "Status",
                    "status": "Failure",
                    "code": error.code,
                    "reason": error.reason,
                    "message": str(error),
                },
            )
        except (BrokenPipeError, ConnectionResetError):
            pass

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _answer

    def _route(self) -> None:
        url = urlparse(self.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        parts = url.path.strip("/").split("/")
        if self._discovered(parts):
            return
        if parts[0] == "api":
            version, rest = parts[1], parts[2:]
        else:
            version, rest = "/".join(parts[1:3]), parts[3:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        plural, name, sub = (*rest, "", "", "")[:3]
        if plural not in self.cluster.kinds.get(version, {}):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        key = (version, plural, namespace, name)
        group = version.rpartition("/")[0]
        resource = f"{plural}/{sub}" if sub else plural
        self.cluster.authorize((group, resource, self._verb(name, query)))
        getattr(self, f"_{self.command.lower()}")(key, sub, query)

    def _discovered(self, parts: list[str]) -> bool:
        """What everyone may ask: version, kinds, and one's own rights."""
        if parts == ["version"]:
            self._send(200, {"gitVersion": self.cluster.version_told})
        elif parts[0] == "apis" and parts[1:] == [
            "authorization.k8s.io",
            "v1",
            "selfsubjectaccessreviews",
        ]:
            asked = self._body()["spec"]["resourceAttributes"]
            who = self.headers.get("Impersonate-User", "")
            self._send(201, {"status": {"allowed": self.cluster.review(who, asked)}})
        elif self.command == "GET" and (found := discovery.told(parts, self.cluster.kinds)):
            self._send(200, found)
        else:
            return False
        return True

    def _verb(self, name: str, query: dict[str, str]) -> str:
        verbs = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
        if self.command != "GET":
            return verbs[self.command]
        if name:
            return "get"
        return "watch" if query.get("watch") in ("true", "1", "True") else "list"

    def _get(self, key: Key, sub: str, query: dict[str, str]) -> None:
        if sub == "log":
            self.cluster.get(key)
            text = self.cluster.logs.get((key[2], key[3]), "")
            if "tailLines" in query:
                text = "".join(text.splitlines(keepends=True)[-int(query["tailLines"]) :])
            self._send_bytes(200, text.encode(), "text/plain")
        elif key[3]:
            self._send(200, self.cluster.get(key))
        elif query.get("watch") in ("true", "1", "True"):
            self._watch(key, query)
        else:
            items = self.cluster.list(
                key, query.get("labelSelector", ""), query.get("fieldSelector", "")
            )
            kind = self.cluster.kinds[key[0]][key[1]]
            self._send(
                200,
                {
                    "kind": f"{kind}List",
                    "apiVersion": key[0],
                    "metadata": {"resourceVersion": str(self.cluster.version)},
                    "items": items,
                },
            )

    def _post(self, key: Key, _sub: str, query: dict[str, str]) -> None:
        value = self._body()
        asked = self.cluster.kinds[key[0]][key[1]]
        if value.get("kind") not in (asked, None):
            raise Refused(400, "BadRequest", f"kind {value.get('kind')} is not {asked}")
        if query.get("dryRun"):
            self._send(201, self.cluster._admitted(key, value, None))
            return
        self._send(201, self.cluster.create(key, value))

    def _put(self, key: Key, sub: str, _query: dict[str, str]) -> None:
        self._send(200, self.cluster.replace(key, self._body(), status=sub == "status"))

    def _patch(self, key: Key, sub: str, query: dict[str, str]) -> None:
        kind, body = self.headers["Content-Type"], self._body()
        if kind == "application/apply-patch+yaml":
            found = self.cluster.apply(
                key,
                body,
                manager=query.get("fieldManager", ""),
                force=query.get("force") == "true",
            )
        elif kind == "application/merge-patch+json" or (
            kind == "application/strategic-merge-patch+json" and "/" not in key[0]
        ):
            found = self.cluster.merge(key, body, status=sub == "status")
        elif kind == "application/json-patch+json":
            found = self.cluster.replace(
                key, _patched(self.cluster.get(key), body), status=sub == "status"
            )
        else:
            raise Refused(415, "UnsupportedMediaType", f"{kind} is not supported here")
        self._send(200, found)

    def _delete(self, key: Key, _sub: str, _query: dict[str, str]) -> None:
        self._send(200, self.cluster.delete(key))

    def _watch(self, key: Key, query: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        since = int(query.get("resourceVersion") or self.cluster.version)
        events = self.cluster.watch(
            key,
            query.get("labelSelector", ""),
            query.get("fieldSelector", ""),
            since,
            float(query.get("timeoutSeconds", 30)),
        )
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")

    def _body(self) -> Any:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        return protobuf.decoded(body) if body.startswith(protobuf.MAGIC) else yaml.safe_load(body)

    def _send(self, code: int, value: dict[str, Any]) -> None:
        self._send_bytes(code, json.dumps(value).encode(), "application/json")

    def date_time_string(self, timestamp: float | None = None) -> str:
        moment = datetime.now(UTC) + self.cluster.clock_skew
        return super().date_time_string(timestamp or moment.timestamp())

    def _send_bytes(self, code: int, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serve() -> Iterator[tuple[Cluster, str]]:
    """A cluster and its address, on loopback, until the block ends."""
    cluster = Cluster()
    handler = type("Handler", (_Handler,), {"cluster": cluster})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    cluster.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield cluster, cluster.address
    finally:
        server.shutdown()
        server.server_close()


def _merge(value: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return patch
    found = value if isinstance(value, dict) else {}
    for name, part in patch.items():
        if part is None:
            found.pop(name, None)
        else:
            found[name] = _merge(found.get(name), part)
    return found


def _patched(value: dict[str, Any], steps: list[dict[str, Any]]) -> dict[str, Any]:
    """JSON Patch that adds to objects."""
    found = copy.deepcopy(value)
    for step in steps:
        *path, last = [
            part.replace("~1", "/").replace("~0", "~") for part in step["path"].split("/")[1:]
        ]
        if step["op"] != "add" or not isinstance(_at(found, tuple(path)), dict):
            raise Refused(422, "Invalid", f"{step['op']} {step['path']} is not supported here")
        _at(found, tuple(path))[last] = step["value"]
    return found


def _matches(labels: dict[str, str], selector: str) -> bool:
    for term in filter(None, selector.split(",")):
        name, _, value = term.replace("==", "=").partition("=")
        if name.endswith("!"):
            if labels.get(name[:-1]) == value:
                return False
        elif not _ and name not in labels or _ and labels.get(name) != value:
            return False
    return True


def _field(value: dict[str, Any], selector: str) -> bool:
    for term in selector.split(","):
        path, _, wanted = term.partition("=")
        found: Any = value
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != wanted:
            return False
    return True


def _paths(value: Any, prefix: tuple[Any, ...] = ()) -> set[tuple[Any, ...]]:
    if isinstance(value, dict) and value:
        return {p for k, v in value.items() for p in _paths(v, (*prefix, k))}
    return {prefix}


def _owners(value: dict[str, Any]) -> dict[str, set[tuple[Any, ...]]]:
    fields = value["metadata"].get("managedFields", [])
    return {m["manager"]: {tuple(p) for p in m["paths"]} for m in fields}


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _drop(value: Any, path: tuple[Any, ...]) -> None:
    for part in path[:-1]:
        value = value.get(part, {})
    value.pop(path[-1], None)
