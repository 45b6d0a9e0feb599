"""An environment of the feature repo: its stores, what it needs, and its definitions."""

from __future__ import annotations

import atexit
import importlib.util
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from brewhouse.data.queries import silence
from brewhouse.errors import ConfigError
from brewhouse.files import write_text

if TYPE_CHECKING:
    from feast import FeatureStore

_KINDS = ("Entity", "FeatureView", "FeatureService", "PushSource")


def feature_repo() -> Path:
    """Folder of the Feast definitions: BREWHOUSE_FEATURE_REPO, or that of a source checkout.

    Raises:
        ConfigError: It is nowhere to be found.
    """
    named = os.environ.get("BREWHOUSE_FEATURE_REPO")
    path = Path(named) if named else Path(__file__).resolve().parents[3] / "feature_repo"
    if not (path / "definitions.py").is_file():
        msg = f"no feature repo at {path}; set BREWHOUSE_FEATURE_REPO to the folder"
        raise ConfigError(msg)
    return path


class FeastEnvironment:
    """One folder under `feature_repo/environments`, each domain a Feast project of its own.

    Attributes:
        name: The folder's name.
        path: Its `feature_store.yaml`.
        engine: What the offline store runs on, as definitions name it.
        shares_registry: Whether it has a registry that others read too.
    """

    def __init__(self, name: str = "", *, domain: str) -> None:
        """Find an environment.

        Args:
            name: Of the folder; that of BREWHOUSE_FEAST_ENV, else `local`, if empty.
            domain: Name of the domain whose project it is.

        Raises:
            ConfigError: There is none of that name.
        """
        self._domain = domain
        self.name = name or os.environ.get("BREWHOUSE_FEAST_ENV") or "local"
        self.path = feature_repo() / "environments" / self.name / "feature_store.yaml"
        if not self.path.is_file():
            msg = (
                f"no environment '{self.name}' in {feature_repo() / 'environments'}; set "
                "BREWHOUSE_FEAST_ENV to a folder's name there"
            )
            raise ConfigError(msg)
        self._value: dict[str, Any] = yaml.safe_load(self.path.read_text(encoding="utf-8"))
        kind = str(self._value["offline_store"]["type"])
        self.engine = "file" if kind in ("duckdb", "file", "dask") else kind
        registry = self._value.get("registry")
        # A path alone is a file.
        kind = registry.get("registry_type", "file") if isinstance(registry, dict) else "file"
        self.shares_registry = kind != "file"

    def open(self) -> FeatureStore:
        """The environment as it stands, as a server opens it."""
        return self._open(self.path)

    def open_own(self, state: Path, *, reads_only: bool) -> FeatureStore:
        """The environment with a registry of this process's own, under `state`.

        A registry that others share would lead them to this process's files, and it to theirs.

        Args:
            state: Folder of the registry.
            reads_only: Whether the online store is a file there too.

        Raises:
            ConfigError: A variable that the environment names is not set.
        """
        own = {}
        if self.shares_registry:
            own["registry"] = {"registry_type": "file", "path": str(state / "registry.db")}
        online = self._value.get("online_store") or {}
        if reads_only and online.get("type", "sqlite") != "sqlite":
            own["online_store"] = {"type": "sqlite", "path": str(state / "online.db")}
        if not own:
            return self.open()
        state.mkdir(parents=True, exist_ok=True)
        # Names of variables stay names: Feast puts their values in, and no file holds a password.
        write_text(state / "feature_store.yaml", yaml.safe_dump(self._value | own))
        return self._open(state / "feature_store.yaml")

    def definitions(self) -> list[Any]:
        """Entities, sources, views and services of the repo."""
        with _unchecked():
            module = _load(feature_repo() / "definitions.py")
        return [
            value
            for value in vars(module).values()
            if type(value).__name__ in _KINDS or type(value).__name__.endswith("Source")
        ]

    def _open(self, path: Path) -> FeatureStore:
        os.environ["BREWHOUSE_FEAST_DOMAIN"] = self._domain
        named = re.findall(r"\$\{(\w+)\}", path.read_text(encoding="utf-8"))
        if unset := sorted({n for n in named if not os.environ.get(n)}):
            msg = (
                f"environment '{self.name}' of the feature repo needs {', '.join(unset)}; set "
                "what is missing, in a cluster in the secret brewhouse-feast"
            )
            raise ConfigError(msg)
        warnings.filterwarnings("ignore", module="feast")
        with _unchecked():
            from feast import FeatureStore

        if self._value["offline_store"]["type"] == "duckdb":
            _open_engine()
        return FeatureStore(fs_yaml_file=path)


@contextmanager
def _unchecked() -> Iterator[None]:
    """Import Feast as `python -O` does, without typeguard.

    It would compile anew each function that it checks, at every start: half of what importing Feast
    costs, three seconds a step.
    """
    import typeguard

    checked = typeguard.typechecked
    typeguard.typechecked = _as_it_is
    try:
        yield
    finally:
        typeguard.typechecked = checked


def _as_it_is(target: Any = None, **_: Any) -> Any:
    """Stands for `typeguard.typechecked`, with and without options."""
    return _as_it_is if target is None else target


def _open_engine() -> None:
    """Open the DuckDB connection that Feast would take by default, and keep it silent."""
    import ibis

    if ibis.options.default_backend is None:
        ibis.options.default_backend = ibis.duckdb.connect()
        silence(ibis.options.default_backend.con)
        atexit.register(_close_engine)


def _close_engine() -> None:
    """Close what Feast leaves open, which complains of leaks at exit."""
    import ibis

    backend = ibis.options.default_backend
    if backend is not None:
        backend.disconnect()
        ibis.options.default_backend = None


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location("brewhouse_feature_repo", path)
    if spec is None or spec.loader is None:
        msg = f"{path} cannot be loaded"
        raise ConfigError(msg)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
