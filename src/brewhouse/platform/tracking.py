"""MLflow: run tracking and the model registry, on a SQLite file or a server alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse import offline
from brewhouse.errors import RegistryError
from brewhouse.registry.lifecycle import State

if TYPE_CHECKING:
    from mlflow import MlflowClient

STATE_TAG = "brewhouse.state"


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
class Registered:
    """A registered model version."""

    name: str
    version: str
    state: State
    run_id: str


class Tracker:
    """Logs runs and registers candidates."""

    def __init__(self, uri: str, *, experiment: str, artifacts: str | None = None) -> None:
        """Connect; the experiment is created if absent.

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
        except MlflowException as error:
            msg = f"MLflow at {uri}: {error.message}; check the tracking URI and the server"
            raise RegistryError(msg) from error

    def start(self, name: str, params: Mapping[str, Any]) -> str:
        """Start a run and return its id."""
        run = self.client.create_run(self.experiment_id, run_name=name)
        for key, value in params.items():
            self.client.log_param(run.info.run_id, key, str(value)[:500])
        return str(run.info.run_id)

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

    def register(
        self, name: str, *, source: Path, run_id: str, tags: Mapping[str, str], description: str
    ) -> Registered:
        """Create a model version in state PENDING_APPROVAL.

        A version with the same `brewhouse.results` tag is returned instead of a second one, so a
        retried step registers once.
        """
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        wanted = tags.get("brewhouse.results")
        for version in self.client.search_model_versions(f"name = '{name}'"):
            if wanted and version.tags.get("brewhouse.results") == wanted:
                return Registered(
                    name=name,
                    version=str(version.version),
                    run_id=version.run_id,
                    state=State(version.tags[STATE_TAG]),
                )
        created = self.client.create_model_version(
            name,
            source=str(source),
            run_id=run_id,
            description=description,
            tags={**tags, STATE_TAG: State.PENDING_APPROVAL.value},
        )
        return Registered(
            name=name, version=str(created.version), run_id=run_id, state=State.PENDING_APPROVAL
        )
