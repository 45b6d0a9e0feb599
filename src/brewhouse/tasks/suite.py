"""A suite: all tasks of a domain, checked against its surfaces and actions."""

from __future__ import annotations

from dataclasses import dataclass

from brewhouse.domains.loader import DomainFolder, parse_model, read_yaml
from brewhouse.domains.spec import Domain
from brewhouse.errors import ConfigError
from brewhouse.tasks.spec import Task, TaskFile, TaskSpec


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Tasks of one domain, by name, in file order."""

    domain: str
    tasks: tuple[Task, ...]

    def tier(self, tier: str) -> tuple[Task, ...]:
        """Tasks of one tier."""
        return tuple(task for task in self.tasks if task.tier == tier)

    def on(self, surface: str) -> tuple[Task, ...]:
        """Tasks of one surface."""
        return tuple(task for task in self.tasks if task.surface == surface)

    def select(self, names: list[str] | None) -> Suite:
        """Keep the named tasks.

        Raises:
            ConfigError: A name is unknown.
        """
        if not names:
            return self
        known = {task.name: task for task in self.tasks}
        if missing := [name for name in names if name not in known]:
            msg = f"unknown task {missing[0]!r} in domain {self.domain}; see `brewhouse tasks ls`"
            raise ConfigError(msg)
        return Suite(domain=self.domain, tasks=tuple(known[name] for name in names))


def load_suite(folder: DomainFolder) -> Suite:
    """Read `tasks/*.yaml` of a domain.

    Raises:
        ConfigError: A file is malformed, or a task contradicts its domain.
    """
    domain = folder.domain
    paths = sorted((folder.path / "tasks").glob("*.yaml"))
    if not paths:
        msg = f"{folder.path / 'tasks'}: no task files; a domain needs at least one"
        raise ConfigError(msg)
    tasks: dict[str, Task] = {}
    for path in paths:
        value, lines = read_yaml(path)
        file = parse_model(TaskFile, value, path=path, lines=lines)
        for index, spec in enumerate(file.tasks):
            line = lines.get(("tasks", index), 1)
            task = _resolve(spec, file, domain, where=f"{path}:{line}")
            if task.name in tasks:
                msg = f"{path}:{line}: task '{task.name}' is defined twice; rename one"
                raise ConfigError(msg)
            tasks[task.name] = task
    return Suite(domain=domain.name, tasks=tuple(tasks.values()))


def _resolve(spec: TaskSpec, file: TaskFile, domain: Domain, *, where: str) -> Task:
    surface = domain.surfaces.get(file.surface)
    if surface is None:
        known = ", ".join(domain.surfaces)
        msg = f"{where}: surface '{file.surface}' is not in domain {domain.name} (known: {known})"
        raise ConfigError(msg)
    negative = spec.negative
    if negative is None:
        negative = [action for action in surface.actions if action not in spec.positive]
    for action in (*spec.positive, *negative):
        if action not in surface.actions:
            known = ", ".join(surface.actions)
            msg = (
                f"{where}: task {spec.name}: action '{action}' does not occur on surface "
                f"'{file.surface}' (known: {known})"
            )
            raise ConfigError(msg)
    if both := set(spec.positive) & set(negative):
        msg = f"{where}: task {spec.name}: {sorted(both)} count as yes and as no; keep one side"
        raise ConfigError(msg)
    if not negative:
        msg = f"{where}: task {spec.name}: no action counts as no, so there is nothing to rank"
        raise ConfigError(msg)
    if spec.tier == "T1" and not surface.in_training:
        msg = (
            f"{where}: task {spec.name} is T1 but surface '{file.surface}' is held out of "
            "training; make it T2 or set in_training"
        )
        raise ConfigError(msg)
    if spec.tier == "T2" and surface.in_training:
        msg = (
            f"{where}: task {spec.name} is T2 but surface '{file.surface}' is in training; make it "
            "T1, or hold the surface out with in_training: false"
        )
        raise ConfigError(msg)
    drawn = "sampled" if file.surface in {p.surface for p in domain.source.negatives} else "logged"
    if spec.candidates not in (None, drawn):
        msg = (
            f"{where}: task {spec.name}: candidates '{spec.candidates}', but those of "
            f"'{file.surface}' are {drawn}; correct it or leave it out"
        )
        raise ConfigError(msg)
    if spec.prior is not None and drawn == "logged":
        msg = (
            f"{where}: task {spec.name}: prior {spec.prior:g} is for sampled negatives, and "
            f"those of '{file.surface}' are logged; leave it out"
        )
        raise ConfigError(msg)
    known_slices = domain.slice_names
    if unknown := [name for name in spec.slices or [] if name not in known_slices]:
        msg = (
            f"{where}: task {spec.name}: slice '{unknown[0]}' is not in domain {domain.name} "
            f"(known: {', '.join(known_slices)})"
        )
        raise ConfigError(msg)
    data = spec.model_dump() | {
        "surface": file.surface,
        "owner": spec.owner or file.owner,
        "licence": spec.licence or file.licence or domain.licence,
        "positive": tuple(spec.positive),
        "negative": tuple(negative),
        "candidates": drawn,
        "slices": tuple(known_slices if spec.slices is None else spec.slices),
    }
    return Task.model_validate(data)
