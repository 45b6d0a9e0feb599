"""Where versions are kept: what fsspec reaches, and the artifacts of an MLflow server."""

from __future__ import annotations

import os
import posixpath
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlparse

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.utils import get_protocol

from brewhouse import offline
from brewhouse.errors import ConfigError

MLFLOW = "mlflow-artifacts"
SERVED = ("http://", "https://")


def open_store(uri: str, *, tracking_uri: str) -> tuple[AbstractFileSystem, str]:
    """A file system, and the place within it.

    Args:
        uri: Path or fsspec URI; `mlflow-artifacts:/PATH` is what a server of MLflow keeps below its
            `--artifacts-destination`.
        tracking_uri: MLflow.

    Raises:
        ConfigError: MLflow is no server, and its artifacts are asked for.
    """
    if not uri.startswith(f"{MLFLOW}:"):
        # Others write there too: what was listed before is no answer.
        found: tuple[AbstractFileSystem, str] = url_to_fs(uri, use_listings_cache=False)
        return found
    if not tracking_uri.startswith(SERVED):
        msg = (
            f"{uri} is kept by a server of MLflow, and '{tracking_uri}' is none; set "
            "BREWHOUSE_TRACKING_URI to its address, or give model_store a folder"
        )
        raise ConfigError(msg)
    return MlflowFiles(tracking_uri), urlparse(uri).path.strip("/")


def is_folder(uri: str) -> bool:
    """Whether it is on this machine's disk."""
    return not uri.startswith(f"{MLFLOW}:") and get_protocol(uri).lower() in ("file", "local")


def refused_by(tracking_uri: str, uri: str) -> bool:
    """Whether MLflow takes no version from there.

    A server takes none from a folder, for it could not tell whose that is, nor from artifacts of
    its own but those of the version's run.
    """
    inner = uri.startswith(f"{MLFLOW}:") and uri.removeprefix(f"{MLFLOW}:").strip("/")
    return tracking_uri.startswith(SERVED) and bool(inner or is_folder(uri))


class MlflowFiles(AbstractFileSystem):  # type: ignore[misc]  # fsspec has no types
    """Artifacts that MLflow's server hands on, as files: whole ones, read and written at once.

    https://mlflow.org/docs/latest/self-hosting/architecture/artifact-store/
    """

    protocol = MLFLOW
    cachable = False

    def __init__(self, tracking_uri: str) -> None:
        """Connect to a server."""
        super().__init__()
        offline.silence()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._repository = get_artifact_repository(f"{MLFLOW}:/", tracking_uri=tracking_uri)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """Entries of a folder, or the file itself.

        Raises:
            FileNotFoundError: There is neither.
        """
        path = path.strip("/")
        found = [_entry(one) for one in self._listed(path)]
        if not found and path:
            found = [self._among_siblings(path)]
        return found if detail else [entry["name"] for entry in found]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Name, size in bytes and type.

        Raises:
            FileNotFoundError: It is not there.
        """
        path = path.strip("/")
        if not path:
            return {"name": "", "size": 0, "type": "directory"}
        return self._among_siblings(path)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether it is there.

        Raises:
            OSError: The server does not say.
        """
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def walk(self, path: str, *given: Any, on_error: str = "raise", **more: Any) -> Any:
        """Folders and their files; one that cannot be listed is not taken for an empty one."""
        return super().walk(path, *given, on_error=on_error, **more)

    def _listed(self, path: str) -> list[Any]:
        with _told(path):
            return list(self._repository.list_artifacts(path or None))

    def _among_siblings(self, path: str) -> dict[str, Any]:
        for one in self._listed(posixpath.dirname(path)):
            if one.path.strip("/") == path:
                return _entry(one)
        raise FileNotFoundError(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Folders come with their files."""

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        """Upload a file."""
        parent, name = posixpath.split(rpath.strip("/"))
        with tempfile.TemporaryDirectory() as scratch:
            # The server names a file as it is named here.
            named = Path(scratch) / name
            os.symlink(os.path.abspath(lpath), named)
            with _told(rpath):
                self._repository.log_artifact(str(named), artifact_path=parent or None)

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        """Upload bytes."""
        with tempfile.NamedTemporaryFile() as scratch:
            scratch.write(value)
            scratch.flush()
            self.put_file(scratch.name, path)

    def get_file(self, rpath: str, lpath: str, **_: Any) -> None:
        """Download a file; a folder is made, and its files come by themselves."""
        if self.isdir(rpath):
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        Path(lpath).parent.mkdir(parents=True, exist_ok=True)
        with self._fetched(rpath) as fetched:
            shutil.move(fetched, lpath)

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """A file's bytes.

        Raises:
            FileNotFoundError: It is not there.
        """
        with self._fetched(path) as fetched:
            return fetched.read_bytes()[start:end]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> BinaryIO:
        if mode != "rb":
            msg = f"{path}: files are written whole (pipe_file, put_file), not opened for '{mode}'"
            raise NotImplementedError(msg)
        with self._fetched(path) as fetched:
            return fetched.open("rb")  # What is open stays readable once its name is gone.

    def rm_file(self, path: str) -> None:
        """Delete a file."""
        if not path.strip("/"):
            msg = "all artifacts of the server would be deleted; name a file"
            raise ValueError(msg)
        with _told(path):
            self._repository.delete_artifacts(path.strip("/"))

    @contextmanager
    def _fetched(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as scratch:
            try:
                with _told(path):
                    found = self._repository.download_artifacts(path.strip("/"), scratch)
            except OSError as error:
                if not self.exists(path):
                    raise FileNotFoundError(path) from error
                raise
            yield Path(found)


@contextmanager
def _told(path: str) -> Iterator[None]:
    """MLflow's errors as those of files."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        msg = f"{path}: {error.message}"
        raise OSError(msg) from error


def _entry(one: Any) -> dict[str, Any]:
    kind = "directory" if one.is_dir else "file"
    return {"name": one.path.strip("/"), "size": one.file_size or 0, "type": kind}
