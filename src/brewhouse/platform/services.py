"""Whether the services that runs talk to answer: pipelines, MLflow, databases, object store."""

from __future__ import annotations

import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from brewhouse.platform.checks import Check, State, guarded, missing, ok
from brewhouse.platform.database import ENCODING
from brewhouse.platform.stores import MLFLOW, SERVED, is_folder, open_store, refused_by
from brewhouse.platform.tracking import EXPERIMENT, Tracker, artifact_root

PATIENCE_S = 5.0
TRIES, PAUSE_S = 3, 2.0
"""A service that is restarting is asked again before a run is refused."""
_REACH = "check the address, the network policy and whether the service is up"


def examine(
    *,
    kfp_host: str,
    tracking_uri: str,
    database_uri: str,
    signing_key: str,
    store: str,
    trusted_keys: str = "",
) -> Iterator[Check]:
    """Ask each service that is named; empty names are left out.

    Args:
        kfp_host: Kubeflow Pipelines.
        tracking_uri: MLflow.
        database_uri: Decisions, as a SQLAlchemy URI.
        signing_key: Private key of the ledger.
        store: Folder or URI that keeps versions.
        trusted_keys: Folder of public keys; beside the private one if empty.
    """
    reached = True
    if kfp_host:
        yield from _asked("pipelines", _REACH, lambda: _http("pipelines", kfp_host, "healthz"))
    if tracking_uri.startswith(SERVED):
        for check in _asked("mlflow", _REACH, lambda: _http("mlflow", tracking_uri, "health")):
            reached = check.state is not State.MISSING
            yield check
    elif tracking_uri:
        yield from _asked("mlflow", _REACH, lambda: _database("mlflow", tracking_uri))
    if database_uri:
        yield from _asked(
            "decisions", _REACH, lambda: _database("decisions", database_uri, ours=True)
        )
    if signing_key:
        key = Path(signing_key)
        trusted = Path(trusted_keys) if trusted_keys else key.parent
        yield from guarded("signing key", _KEY, lambda: _key(key, trusted))
    if registry := os.environ.get("BREWHOUSE_FEAST_REGISTRY", ""):
        yield from _asked("feast registry", _REACH, lambda: _database("feast registry", registry))
    if online := os.environ.get("BREWHOUSE_FEAST_REDIS", ""):
        yield from _asked("feast online store", _REACH, lambda: _port("feast online store", online))
    if refused_by(tracking_uri, store):
        yield missing(
            "object store",
            f"MLflow at {tracking_uri} takes no version from {store}",
            f"give model_store s3://..., gs://..., or {MLFLOW}:/ for the artifacts of its run",
        )
    # What MLflow keeps is not asked for where MLflow itself does not answer.
    elif store and (reached or not store.startswith(MLFLOW)):
        remedy = (
            "grant the account's identity write, read and delete on it; for s3:// and gs:// "
            "install brewhouse[s3] or [gcs]; keys and the address of a store on premises come as "
            "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL and "
            "AWS_DEFAULT_REGION, in a cluster from Secret brewhouse-store"
        )
        yield from _asked("object store", remedy, lambda: _store(store, tracking_uri))


def _asked(name: str, remedy: str, look: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """Checks of a service, made again while something is missing."""
    for tries in range(TRIES):
        found = list(guarded(name, remedy, look))
        if all(check.state is not State.MISSING for check in found):
            break
        if tries + 1 < TRIES:
            time.sleep(PAUSE_S)
    yield from found


_KEY = (
    "brewhouse ledger key FILE, and put FILE and what it writes under trusted/ into Secret "
    "brewhouse-signing-key"
)


def _http(name: str, host: str, health: str) -> Iterator[Check]:
    path = f"apis/v2beta1/{health}" if name == "pipelines" else health
    url = f"{host.rstrip('/')}/{path}"
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310 - http alone
            yield ok(name, f"{host} answers {answer.status}")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            yield ok(name, f"{host} answers and asks to sign in")
        else:
            yield missing(name, f"{url} answers {error.code}", _REACH)


def _database(name: str, uri: str, *, ours: bool = False) -> Iterator[Check]:
    """Whether it answers: who connects as `platform.database` does if it is ours, else anybody."""
    from sqlalchemy import create_engine, text
    from sqlalchemy.engine import make_url

    url = make_url(uri)
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "")
        if path.exists():
            yield ok(name, str(path))
        else:
            yield Check(name=name, value=f"{path} is made at the first run")
        return
    options: dict[str, Any] = {}
    if "postgres" in url.get_backend_name():
        options = {"connect_timeout": int(PATIENCE_S)} | (ENCODING if ours else {})
    engine = create_engine(url, connect_args=options)
    try:
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    finally:
        engine.dispose()
    # Never the whole URI: it holds a password.
    yield ok(name, f"{url.get_backend_name()} at {url.host} answers")


def _port(name: str, address: str) -> Iterator[Check]:
    host, _, port = address.split(",")[0].partition(":")
    socket.create_connection((host, int(port or 6379)), timeout=PATIENCE_S).close()
    yield ok(name, f"{host}:{port or 6379} answers")


def _key(path: Path, trusted: Path) -> Iterator[Check]:
    if not path.is_file():
        yield missing("signing key", f"no {path}", _KEY)
        return
    path.read_bytes()
    if not any(trusted.glob("*.pub")):
        yield missing("signing key", f"no public key *.pub in {trusted}", _KEY)
        return
    yield ok("signing key", str(path))


def _store(uri: str, tracking_uri: str) -> Iterator[Check]:
    """Write, read and delete, as registering and rolling back do."""
    if uri.startswith(MLFLOW) and tracking_uri:
        # Where artifacts of the run will go, by the experiment that it will be of.
        uri = Tracker(
            tracking_uri, experiment=EXPERIMENT, artifacts=artifact_root(tracking_uri)
        ).root
        if tracking_uri.startswith(SERVED) and is_folder(uri):
            yield missing(
                "object store",
                f"experiment '{EXPERIMENT}' of MLflow keeps artifacts in {uri}, a folder",
                "start MLflow's server with --artifacts-destination and rename the experiment",
            )
            return
    files, root = open_store(uri, tracking_uri=tracking_uri)
    place, wanted = f"{root.rstrip('/')}/.brewhouse-preflight-{uuid4().hex}", b"preflight"
    if "file" in files.protocol:
        files.makedirs(root, exist_ok=True)  # A bucket that is not there is a finding.
    files.pipe_file(place, wanted)
    try:
        found = files.cat_file(place)
    finally:
        files.rm_file(place)
    if found != wanted:
        yield missing(
            "object store", f"{uri} returned other bytes", "check the store's consistency"
        )
    else:
        yield ok("object store", f"{uri}: write, read and delete")
