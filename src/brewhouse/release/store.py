"""Keeps versions: a folder each, with a manifest of the digests of its files."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brewhouse.errors import RegistryError, StoreError
from brewhouse.files import sha256_file, sha256_json, write_json
from brewhouse.platform.stores import is_folder, open_store

MANIFEST = "manifest.json"
DECISIONS = "dossier/decisions.json"
"""Changes with every decision, so the manifest leaves it out; the ledger vouches for it."""

MLFLOW_NOTE = "registered_model_meta"
"""MLflow writes it beside a model that it loads from a local folder."""


def seal(folder: Path) -> str:
    """Write the manifest of a version's folder; return the digest that stands for all of it."""
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    write_json(folder / MANIFEST, {"schema_version": 1, "files": files})
    return "sha256:" + sha256_json(files)


class VersionFolder:
    """A kept version, wherever it is."""

    def __init__(self, uri: str, *, tracking_uri: str) -> None:
        """Take a path or a URI; `tracking_uri` is the MLflow that lists it."""
        self.uri = uri.removeprefix("file://").rstrip("/")
        self._fs, self._root = open_store(self.uri, tracking_uri=tracking_uri)

    def exists(self) -> bool:
        """Whether its manifest is there; it is written last.

        Raises:
            StoreError: The store does not answer.
        """
        with _answering(self.uri):
            try:
                self._fs.info(f"{self._root}/{MANIFEST}")
            except FileNotFoundError:
                return False
        return True

    def put(self, folder: Path) -> None:
        """Copy a sealed folder there, the manifest last.

        Raises:
            StoreError: The store does not take it.
        """
        names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        with _answering(self.uri):
            self._fs.makedirs(self._root, exist_ok=True)
            for name in sorted(names, key=lambda n: (n == MANIFEST, n)):
                target = f"{self._root}/{name}"
                self._fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                self._fs.put_file(str(folder / name), target)

    def read(self, name: str) -> bytes:
        """A file's bytes.

        Raises:
            RegistryError: It is not there.
            StoreError: The store does not answer.
        """
        with _answering(self.uri):
            try:
                return bytes(self._fs.cat_file(f"{self._root}/{name}"))
            except (FileNotFoundError, IsADirectoryError) as error:
                msg = f"{self.uri}: {name} cannot be read: it is not there"
                raise RegistryError(msg) from error

    def read_json(self, name: str) -> Any:
        """A JSON file.

        Raises:
            RegistryError: It is not there, or no JSON.
        """
        try:
            return json.loads(self.read(name))
        except ValueError as error:
            msg = f"{self.uri}: {name} is no JSON: {error}"
            raise RegistryError(msg) from error

    def write(self, name: str, content: bytes) -> None:
        """Write a file that the manifest leaves out.

        Raises:
            StoreError: The store does not take it.
        """
        with _answering(self.uri):
            self._fs.pipe_file(f"{self._root}/{name}", content)

    def names(self) -> list[str]:
        """Files, relative; none if there is no such folder.

        Raises:
            StoreError: The store does not answer.
        """
        with _answering(self.uri):
            try:
                found = self._fs.find(self._root)
            except FileNotFoundError:
                found = []
        return sorted(p.removeprefix(self._root).lstrip("/") for p in found)

    def check(self, artifact: str) -> list[str]:
        """What differs from what was registered, a line a file; empty if nothing does.

        Args:
            artifact: Digest from the ledger.

        Raises:
            StoreError: The store does not answer, which is no finding.
        """
        try:
            files = self.read_json(MANIFEST)["files"]
        except StoreError:
            raise
        except (RegistryError, KeyError, TypeError) as error:
            return [f"{self.uri}: its manifest cannot be read: {error}"]
        found = []
        if "sha256:" + sha256_json(files) != artifact:
            found.append(f"{self.uri}/{MANIFEST} is not the one that the ledger names")
        present = set(self.names()) - {MANIFEST, DECISIONS, MLFLOW_NOTE}
        found += [f"{self.uri}/{name} was added" for name in sorted(present - set(files))]
        for name, digest in files.items():
            if name not in present:
                found.append(f"{self.uri}/{name} is gone")
            elif self._digest(name) != digest:
                found.append(f"{self.uri}/{name} was changed")
        return found

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        with _answering(self.uri), self._fs.open(f"{self._root}/{name}", "rb") as handle:
            while chunk := handle.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def local(self, part: str) -> Iterator[Path]:
        """A folder inside, on this machine's disk."""
        if is_folder(self.uri):
            yield Path(self.uri) / part
            return
        with tempfile.TemporaryDirectory(prefix="brewhouse-version-") as scratch:
            target = Path(scratch) / part
            with _answering(self.uri):
                self._fs.get(f"{self._root}/{part}/", f"{target}/", recursive=True)
            yield target


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    """Whatever the client of a store raises, for they have errors of their own each."""
    try:
        yield
    except RegistryError:
        raise
    except Exception as error:
        msg = f"{uri}: the store does not answer: {type(error).__name__}: {error}"
        raise StoreError(msg) from error
