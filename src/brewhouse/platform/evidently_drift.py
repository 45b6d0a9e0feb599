"""Evidently: distances between the inputs of a window and those of the reference, and its page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brewhouse import offline
from brewhouse.drift.policy import InputMethods
from brewhouse.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


KEYS = ("row", "member", "shown_at")
"""Columns that name a row and are not compared."""


@dataclass(frozen=True, kw_only=True)
class InputDrift:
    """Distance of one column.

    Attributes:
        column: Name.
        method: Of the distance.
        distance: 0 for the same.
        n: Rows of the window with a value.
    """

    column: str
    method: str
    distance: float
    n: int


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """A workspace of Evidently's service, and what a run is called there.

    Attributes:
        place: Folder, or http address of a server.
        project: Made if there is none of this name.
        name: Of the run.
    """

    place: str
    project: str
    name: str

    def add(self, report: Any) -> None:
        """Keep a run, without its rows.

        Raises:
            ConfigError: The workspace cannot be reached or written.
        """
        from evidently.ui.workspace import RemoteWorkspace
        from evidently.ui.workspace import Workspace as Folder

        try:
            remote = self.place.startswith(("http://", "https://"))
            there = RemoteWorkspace(self.place) if remote else Folder.create(self.place)
            known = there.search_project(self.project)
            project = known[0] if known else there.create_project(self.project)
            there.add_run(project.id, report, include_data=False, name=self.name)
        except Exception as error:
            told = str(error).splitlines()[0] if str(error) else type(error).__name__
            msg = f"Evidently's workspace {self.place}: {told}; check BREWHOUSE_EVIDENTLY_WORKSPACE"
            raise ConfigError(msg) from error


def input_drift(
    current: pa.Table,
    reference: pa.Table,
    methods: InputMethods,
    *,
    threshold: float,
    page: Path | None = None,
    workspace: Workspace | None = None,
) -> list[InputDrift]:
    """Compare the columns that both tables have, by the distances that the policy names.

    Args:
        current: Described inputs of a window.
        reference: The same, bound to the version.
        methods: Which distances.
        threshold: What Evidently's page marks as drift; judging is the policy's.
        page: HTML file to write.
        workspace: Where Evidently's own service keeps the run, if anywhere.

    Raises:
        ConfigError: The workspace does not take it.
    """
    offline.silence()
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import ValueDrift

    sides = [_frame(table, methods.sample) for table in (current, reference)]
    numeric, categorical = _columns(sides[0], sides[1], methods)
    chosen = dict.fromkeys(numeric, methods.numeric)
    chosen |= dict.fromkeys(categorical, methods.categorical)
    if not chosen:
        return []
    for frame in sides:
        for name in categorical:
            frame[name] = frame[name].astype("object").where(frame[name].notna(), "(none)")
    definition = DataDefinition(numerical_columns=numeric, categorical_columns=categorical)
    now, before = (Dataset.from_pandas(f[list(chosen)], data_definition=definition) for f in sides)
    metrics: list[Any] = [
        ValueDrift(column=name, method=method, threshold=threshold)
        for name, method in chosen.items()
    ]
    report = Report(metrics).run(now, before)
    values = _values(report.dict()["metrics"])
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        report.save_html(str(page))
    if workspace is not None:
        workspace.add(report)
    return [
        InputDrift(
            column=name, method=method, distance=values[name], n=int(sides[0][name].notna().sum())
        )
        for name, method in chosen.items()
        if name in values
    ]


def _values(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {m["config"]["column"]: float(m["value"]) for m in metrics}


def _frame(table: pa.Table, rows: int) -> pd.DataFrame:
    """Evenly spaced rows, so that a day counts as it should."""
    import numpy as np
    import pyarrow as pa

    step = np.linspace(0, max(0, len(table) - 1), min(rows, len(table))).astype(np.int64)
    frame: pd.DataFrame = table.take(pa.array(np.unique(step))).to_pandas()
    return frame


def _columns(
    current: pd.DataFrame, reference: pd.DataFrame, methods: InputMethods
) -> tuple[list[str], list[str]]:
    """Numeric and categorical columns that can be compared."""
    import pandas as pd

    numeric, categorical = [], []
    for name in reference.columns:
        if name in KEYS or name not in current.columns:
            continue
        if not current[name].notna().any() or not reference[name].notna().any():
            continue
        both = [pd.api.types.is_numeric_dtype(side[name]) for side in (current, reference)]
        boolean = any(pd.api.types.is_bool_dtype(side[name]) for side in (current, reference))
        if all(both) and not boolean:
            if reference[name].std() > 0:
                numeric.append(name)
        elif not any(both) and reference[name].nunique() <= methods.most_values:
            categorical.append(name)
    return numeric, categorical
