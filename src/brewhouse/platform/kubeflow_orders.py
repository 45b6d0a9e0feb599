"""Orders to run a pipeline: what is wanted, and the compiled pipeline that is sent for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from brewhouse.errors import ConfigError
from brewhouse.platform.pipelines import compile_pipeline


@dataclass(frozen=True, kw_only=True)
class Order:
    """A run that is wanted.

    Attributes:
        pipeline: Name of the pipeline.
        arguments: Its arguments.
        run_name: Identifies the run: one of this name is never started twice.
        experiment: Groups runs.
        package: Compiled pipeline, such as one of a release; compiled anew if None.
        fresh: Whether every step is run, even if another run finished the same one.
    """

    pipeline: str
    arguments: Mapping[str, Any]
    run_name: str
    experiment: str = "brewhouse"
    package: Path | None = None
    fresh: bool = False


@contextmanager
def packaged(order: Order) -> Iterator[Path]:
    """The compiled pipeline of an order for as long as a block lasts.

    The SDK's own switch for caching reaches the outermost tasks alone, and ours lie inside an exit
    handler: a fresh run is compiled so.
    """
    with TemporaryDirectory(prefix="brewhouse-pipeline-") as scratch:
        made = Path(scratch) / f"{order.pipeline}.yaml"
        path = order.package or compile_pipeline(order.pipeline, made)
        if order.fresh:
            documents = _documents(path)
            for part in (documents[0]["root"], *documents[0]["components"].values()):
                for task in part.get("dag", {}).get("tasks", {}).values():
                    task.pop("cachingOptions", None)
            made.write_text(yaml.safe_dump_all(documents, sort_keys=False), encoding="utf-8")
            path = made
        yield path


def _documents(package: Path) -> list[Any]:
    """What a compiled pipeline holds: its spec, then what Kubernetes is told.

    Raises:
        ConfigError: It is none.
    """
    try:
        found = list(yaml.safe_load_all(package.read_text(encoding="utf-8")))
        found[0]["root"], found[0]["components"]
    except (OSError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
        msg = (
            f"{package} is no compiled pipeline: {error!r}; make one with "
            "`brewhouse pipeline compile`"
        )
        raise ConfigError(msg) from error
    return found


def checked(arguments: Mapping[str, Any], package: Path) -> dict[str, Any]:
    """Arguments that a compiled pipeline takes.

    Raises:
        ConfigError: One is unknown or missing, or the file is no compiled pipeline.
    """
    known = _documents(package)[0]["root"].get("inputDefinitions", {}).get("parameters", {})
    for name in arguments:
        if name not in known:
            msg = f"the pipeline has no parameter '{name}'; it has {', '.join(sorted(known))}"
            raise ConfigError(msg)
    for name, definition in known.items():
        if not definition.get("isOptional") and name not in arguments:
            msg = f"the pipeline needs `{name}`; give it as --arg {name}=VALUE"
            raise ConfigError(msg)
    return dict(arguments)
