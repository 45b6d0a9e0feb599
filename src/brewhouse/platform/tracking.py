"""MLflow: run tracking and the model registry, on a SQLite file or a server alike."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse import offline
from brewhouse.errors import RegistryError

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE_TAG, RESULTS_TAG = "brewhouse.state", "brewhouse.results"
EXPERIMENT = "brewhouse"


def local_uri(folder: Path) -> str:
    """Tracking URI of a SQLite file in a folder."""
    return f"sqlite:///{(folder / 'mlflow.db').resolve()}"


def artifact_root(uri: str) -> str | None:
    """Where artifacts of a SQLite-tracked experiment go: beside its file, not where one stands.

    A server has a root of its own.
    """
    if not uri.startswith("sqlite:///"):
        return None
    return str(Path(uri.removeprefix("sqlite:///")).parent / "mlflow-artifacts")


@dataclass(frozen=True, kw_only=True)
class RegistryVersion:
    """A model version as MLflow has it."""

    version: str
    source: str
    run_id: str
    tags: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run as MLflow has it; `started` is aware."""

    run_id: str
    name: str
    status: str
    started: datetime
    params: dict[str, str]
    metrics: dict[str, float]


class Tracker:
    """Logs runs."""

    def __init__(self, uri: str, *, experiment: str, artifacts: str | None = None) -> None:
        """Connect; the experiment is created if absent. `root` is where its artifacts go.

        Args:
            uri: MLflow tracking URI.
            experiment: Experiment name.
            artifacts: Where artifacts of a new experiment go.
        """
        offline.silence()
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        try:
            self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)
            found = self.client.get_experiment_by_name(experiment)
            self.experiment_id = (
                found.experiment_id
                if found
                else self.client.create_experiment(experiment, artifact_location=artifacts)
            )
            self.root = str(self.client.get_experiment(self.experiment_id).artifact_location)
        except MlflowException as error:
            msg = f"MLflow at {uri}: {error.message}; check the tracking URI and the server"
            raise RegistryError(msg) from error

    def start(self, name: str, params: Mapping[str, Any]) -> str:
        """Start a run and return its id."""
        run = self.client.create_run(self.experiment_id, run_name=name)
        for key, value in params.items():
            self.client.log_param(run.info.run_id, key, str(value)[:500])
        return str(run.info.run_id)

    @contextmanager
    def running(self, name: str, params: Mapping[str, Any]) -> Iterator[str]:
        """A run for as long as a block lasts, which fails where the block does; its id."""
        run_id = self.start(name, params)
        try:
            yield run_id
        except BaseException:
            # What went wrong is what to tell, even where MLflow does not hear of it.
            with suppress(Exception):
                self.finish(run_id, ok=False)
            raise
        self.finish(run_id)

    def artifacts(self, run_id: str) -> str:
        """URI of a run's artifacts."""
        return str(self.client.get_run(run_id).info.artifact_uri)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers in one request."""
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(key, float(value), now, step) for key, value in metrics.items()]
        for begin in range(0, len(batch), 500):
            self.client.log_batch(run_id, metrics=batch[begin : begin + 500])

    def log_files(self, run_id: str, files: list[Path]) -> None:
        """Attach files to a run."""
        for path in files:
            self.client.log_artifact(run_id, str(path))

    def finish(self, run_id: str, *, ok: bool = True) -> None:
        """End a run."""
        self.client.set_terminated(run_id, status="FINISHED" if ok else "FAILED")


class Registry:
    """Model versions, their tags and aliases."""

    def __init__(self, uri: str) -> None:
        """Connect to a tracking URI."""
        offline.silence()
        os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
        from mlflow import MlflowClient

        self.uri = uri
        self.client: MlflowClient = MlflowClient(tracking_uri=uri, registry_uri=uri)

    def register(
        self, name: str, *, source: str, run_id: str, tags: Mapping[str, str], description: str
    ) -> RegistryVersion:
        """Create a version.

        One with the same `brewhouse.results` tag is returned instead of a second one, so a retried
        step registers once.

        Raises:
            RegistryError: MLflow refused.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        wanted = tags.get(RESULTS_TAG, "")
        if wanted and (found := self.judged_by(name, wanted)):
            return found
        try:
            created = self.client.create_model_version(
                name, source=source, run_id=run_id, description=description, tags=dict(tags)
            )
        except MlflowException as error:
            msg = f"MLflow at {self.uri} did not take {source}: {error.message}"
            raise RegistryError(msg) from error
        return _version(created)

    def judged_by(self, name: str, results: str) -> RegistryVersion | None:
        """The version that was registered with results of a digest, or None."""
        for found in self.client.search_model_versions(f"name = '{name}'"):
            if found.tags.get(RESULTS_TAG) == results:
                return _version(found)
        return None

    def version(self, name: str, version: str) -> RegistryVersion:
        """One version.

        Raises:
            RegistryError: MLflow has none.
        """
        from mlflow.exceptions import MlflowException

        try:
            return _version(self.client.get_model_version(name, version))
        except MlflowException as error:
            msg = f"MLflow at {self.uri} has no version {version} of {name}: {error.message}"
            raise RegistryError(msg) from error

    def versions(self, name: str) -> dict[str, RegistryVersion]:
        """All versions of a model by number; none if there is no such model.

        Raises:
            RegistryError: MLflow does not answer.
        """
        found: dict[str, RegistryVersion] = {}
        page = None
        while True:
            with _reached(self.uri):
                listed = self.client.search_model_versions(
                    f"name = '{name}'", max_results=1000, page_token=page
                )
            found |= {str(v.version): _version(v) for v in listed}
            page = listed.token
            if not page:
                return found

    def runs(self, experiment: str, limit: int) -> list[RunRecord]:
        """Newest runs of an experiment; none if there is no such experiment.

        Raises:
            RegistryError: MLflow does not answer.
        """
        with _reached(self.uri):
            known = self.client.get_experiment_by_name(experiment)
            if known is None:
                return []
            listed = self.client.search_runs([known.experiment_id], max_results=limit)
        return [
            RunRecord(
                run_id=run.info.run_id,
                name=run.info.run_name,
                status=run.info.status,
                started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
                params=dict(run.data.params),
                metrics=dict(run.data.metrics),
            )
            for run in listed
        ]

    def set_state(self, name: str, version: str, state: str) -> None:
        """Mirror a state of the ledger."""
        self.client.set_model_version_tag(name, version, STATE_TAG, state)

    def set_alias(self, name: str, alias: str, version: str) -> None:
        """Point an alias at a version, in one request."""
        self.client.set_registered_model_alias(name, alias, version)

    def alias(self, name: str, alias: str) -> str:
        """Version that an alias names; empty if it names none.

        Raises:
            RegistryError: MLflow does not answer, which is not the same.
        """
        from mlflow.exceptions import MlflowException

        with _reached(self.client.tracking_uri):
            try:
                return str(self.client.get_model_version_by_alias(name, alias).version)
            except MlflowException as error:
                if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    return ""
                raise


@contextmanager
def _reached(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        msg = f"MLflow at {uri}: {error.message}; check the tracking URI and the server"
        raise RegistryError(msg) from error


def _version(found: Any) -> RegistryVersion:
    return RegistryVersion(
        version=str(found.version),
        source=str(found.source),
        run_id=str(found.run_id or ""),
        tags=dict(found.tags),
    )


def champion_of(uri: str, name: str) -> RegistryVersion | None:
    """The version that the alias `champion` names, or None."""
    registry = Registry(uri)
    version = registry.alias(name, "champion")
    return registry.version(name, version) if version else None


def mlflow_version() -> str:
    """Version of the MLflow that is installed."""
    from importlib.metadata import version

    return version("mlflow")
