"""Reading YAML so that an error names the file, the line and the field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from brewhouse.domains.spec import Domain
from brewhouse.errors import ConfigError
from brewhouse.files import digest_tree

Model = TypeVar("Model", bound=BaseModel)
BUILT_IN = ("linkedin", "code_review", "legislature")


def read_yaml(path: Path) -> tuple[Any, dict[tuple[str | int, ...], int]]:
    """Read a YAML file; return its value and the line (from 1) of every key and list entry.

    Raises:
        ConfigError: The file is absent or no YAML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        msg = f"{path}: cannot be read ({error.strerror}); give the path of a YAML file"
        raise ConfigError(msg) from error
    try:
        value = yaml.safe_load(text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        msg = f"{path}:{line}: no valid YAML: {error.problem}; check indentation and quotes there"
        raise ConfigError(msg) from error
    lines: dict[tuple[str | int, ...], int] = {}
    if node is not None:
        _collect_lines(node, (), lines)
    return value, lines


def _collect_lines(
    node: yaml.Node, where: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int]
) -> None:
    lines.setdefault(where, node.start_mark.line + 1)
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            lines[(*where, key.value)] = key.start_mark.line + 1
            _collect_lines(child, (*where, key.value), lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _collect_lines(child, (*where, index), lines)


def parse_model(
    model: type[Model],
    value: Any,
    *,
    path: Path,
    lines: Mapping[tuple[str | int, ...], int],
    at: tuple[str | int, ...] = (),
) -> Model:
    """Validate a value read by `read_yaml`.

    Raises:
        ConfigError: One line per problem: file, line, field, what is wrong.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = []
        for problem in error.errors():
            where = (*at, *problem["loc"])
            line = next(
                (lines[where[:n]] for n in range(len(where), -1, -1) if where[:n] in lines), 1
            )
            field = ".".join(str(part) for part in where) or "(top level)"
            text = problem["msg"].removeprefix("Value error, ")
            found.append(f"{path}:{line}: {field}: {text}")
        raise ConfigError("\n".join(found)) from error


@dataclass(frozen=True, kw_only=True)
class DomainFolder:
    """A domain and the folder it was read from."""

    path: Path
    domain: Domain

    @property
    def digest(self) -> str:
        """Content address of the YAML that defines the domain and its tasks."""
        return "sha256:" + digest_tree(self.path, pattern="**/*.yaml")


def domain_path(name_or_path: str) -> Path:
    """Find the folder of a built-in domain by name, or take a path to a user's own.

    Raises:
        ConfigError: Neither a built-in name nor a folder with a `domain.yaml`.
    """
    if name_or_path in BUILT_IN:
        return Path(str(resources.files("brewhouse.domains") / name_or_path))
    path = Path(name_or_path)
    if (path / "domain.yaml").is_file():
        return path
    msg = (
        f"domain '{name_or_path}' is neither built in ({', '.join(BUILT_IN)}) nor a folder with a "
        "domain.yaml; see docs/how-to/add-a-domain.md"
    )
    raise ConfigError(msg)


def load_domain(name_or_path: str) -> DomainFolder:
    """Load and validate a domain.

    Raises:
        ConfigError: With file, line and field of every mistake.
    """
    folder = domain_path(name_or_path)
    path = folder / "domain.yaml"
    value, lines = read_yaml(path)
    return DomainFolder(path=folder, domain=parse_model(Domain, value, path=path, lines=lines))
