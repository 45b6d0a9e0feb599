"""Great Expectations: a domain's validation suites as code, and Data Docs without member ids."""

from __future__ import annotations

import re
import shutil
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc

from brewhouse import offline
from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.spec import Column, Domain

PII = [
    r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+",
    r"(?<!\w)\+\d{1,3}[ .-]?\(?\d{2,4}\)?([ .-]?\d{2,4}){2,4}(?!\w)",
]
"""Mail addresses and international phone numbers."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One expectation that did not hold, told without values that identify anyone."""

    table: str
    severity: str
    what: str
    detail: str


def validate(
    snapshot: Snapshot, domain: Domain, docs: Path, *, train_end: datetime | None
) -> tuple[list[Finding], dict[str, int]]:
    """Run the suites of all tables and write Data Docs.

    Args:
        snapshot: What to check.
        domain: Says what must hold.
        docs: Folder for self-contained HTML.
        train_end: Moment that freshness is measured against.

    Returns:
        Findings, and counts of expectations run and met.
    """
    offline.silence()
    import great_expectations as gx

    root = Path(tempfile.mkdtemp(prefix="gx-"))
    try:
        context = gx.get_context(mode="file", project_root_dir=str(root))
        context.variables.progress_bars = {"globally": False}
        frames = {
            "members": (snapshot.read("members").to_pandas(), _members(domain)),
            "items": (snapshot.read("items").to_pandas(), _items(domain)),
            "interactions": (
                _interactions_frame(snapshot, domain),
                _interactions(domain, train_end),
            ),
        }
        findings: list[Finding] = []
        counts = {"run": 0, "met": 0}
        for table, (frame, expectations) in frames.items():
            result = _run(context, table, frame, expectations)
            for one in result.results:
                counts["run"] += 1
                counts["met"] += bool(one.success)
                if not one.success:
                    findings.append(_finding(table, one))
        context.build_data_docs()
        _copy_docs(root, docs)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return findings, counts


def _run(context: Any, table: str, frame: pd.DataFrame, expectations: list[Any]) -> Any:
    import great_expectations as gx

    source = context.data_sources.add_pandas(table)
    batch = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe("all")
    suite = context.suites.add(gx.ExpectationSuite(name=table, expectations=expectations))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=table, data=batch, suite=suite)
    )
    checkpoint = context.checkpoints.add(
        gx.Checkpoint(
            name=table,
            validation_definitions=[definition],
            # Without values: what breaks a rule may be a member id or a person's text.
            result_format={"result_format": "BASIC", "partial_unexpected_count": 0},
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
        )
    )
    run = checkpoint.run(batch_parameters={"dataframe": frame})
    return next(iter(run.run_results.values()))


def _meta(severity: str, what: str) -> dict[str, Any]:
    return {"meta": {"brewhouse_severity": severity, "brewhouse_what": what}}


def _columns(columns: dict[str, Column]) -> list[Any]:
    import great_expectations.expectations as gxe

    out: list[Any] = []
    for name, column in columns.items():
        if column.required:
            out.append(
                gxe.ExpectColumnValuesToNotBeNull(
                    column=name, **_meta("block", f"{name} is required")
                )
            )
        if column.values:
            out.append(
                gxe.ExpectColumnValuesToBeInSet(
                    column=name,
                    value_set=column.values,
                    **_meta("block", f"{name} is one of {', '.join(column.values)}"),
                )
            )
        if column.min is not None or column.max is not None:
            out.append(
                gxe.ExpectColumnValuesToBeBetween(
                    column=name,
                    min_value=column.min,
                    max_value=column.max,
                    **_meta("block", f"{name} lies in [{column.min}, {column.max}]"),
                )
            )
    return out


def _members(domain: Domain) -> list[Any]:
    import great_expectations.expectations as gxe

    out: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, **_meta("block", "there are members")),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["member_id", "valid_from"],
            **_meta("block", "a member has one profile version a moment (duplicate ids)"),
        ),
        *_columns(domain.members.columns),
    ]
    if domain.regions:
        out.append(
            gxe.ExpectColumnValuesToNotBeNull(
                column=domain.regions.column,
                **_meta("block", "the region rule needs every member's region"),
            )
        )
    return out


def _items(domain: Domain) -> list[Any]:
    import great_expectations.expectations as gxe

    out: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, **_meta("block", "there are items")),
        gxe.ExpectCompoundColumnsToBeUnique(
            column_list=["item_id", "valid_from"],
            **_meta("block", "an item has one version a moment (duplicate ids)"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="kind",
            value_set=list(domain.items.kinds),
            **_meta("block", f"kind is one of {', '.join(domain.items.kinds)}"),
        ),
        *_columns(domain.items.columns),
    ]
    for name in domain.validation.text:
        out.append(
            gxe.ExpectColumnValuesToMatchRegex(
                column=name, regex=r"\S", **_meta("block", f"{name} is not empty text")
            )
        )
        out.append(
            gxe.ExpectColumnValuesToNotMatchRegexList(
                column=name,
                regex_list=PII,
                **_meta(domain.validation.pii, f"{name} holds no mail address or phone number"),
            )
        )
    return out


def _interactions(domain: Domain, train_end: datetime | None) -> list[Any]:
    import great_expectations.expectations as gxe

    pairs = [f"{s}:{a}" for s, surface in domain.surfaces.items() for a in surface.actions]
    out: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(min_value=1, **_meta("block", "there are interactions")),
        gxe.ExpectColumnValuesToBeUnique(
            column="interaction_id", **_meta("block", "interaction ids are unique (duplicate ids)")
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="surface",
            value_set=list(domain.surfaces),
            **_meta("block", f"surface is one of {', '.join(domain.surfaces)} (unknown surface)"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="action",
            value_set=list(domain.actions),
            **_meta("block", f"action is one of {', '.join(domain.actions)} (unknown action)"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="surface_action",
            value_set=pairs,
            **_meta("block", "the action is possible on its surface"),
        ),
        gxe.ExpectColumnValuesToBeInSet(
            column="origin",
            value_set=["logged", "sampled"],
            **_meta("block", "origin is logged or sampled"),
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="event_at",
            column_B="shown_at",
            or_equal=True,
            **_meta("block", "an event follows its impression"),
        ),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A="created_at",
            column_B="event_at",
            or_equal=True,
            **_meta("block", "a row is logged after its event"),
        ),
    ]
    for name, surface in domain.surfaces.items():
        if surface.base_rate:
            low, high = surface.base_rate
            out.append(
                gxe.ExpectColumnMeanToBeBetween(
                    column=f"acted__{name}",
                    min_value=low,
                    max_value=high,
                    **_meta(
                        domain.validation.base_rate, f"base rate of {name} lies in [{low}, {high}]"
                    ),
                )
            )
    if domain.validation.freshness and train_end:
        oldest = pd.Timestamp(train_end - domain.validation.freshness)
        out.append(
            gxe.ExpectColumnMaxToBeBetween(
                column="event_day",
                min_value=oldest.timestamp() / 86_400,
                **_meta(
                    "warn",
                    f"newest event is at most {domain.validation.freshness} before "
                    "train_end (freshness)",
                ),
            )
        )
    return out


def _interactions_frame(snapshot: Snapshot, domain: Domain) -> pd.DataFrame:
    columns = [
        "interaction_id",
        "surface",
        "action",
        "origin",
        "shown_at",
        "event_at",
        "created_at",
    ]
    table = snapshot.read("interactions", columns=columns)
    frame = table.to_pandas(strings_to_categorical=False)
    frame["surface_action"] = frame["surface"] + ":" + frame["action"]
    frame["event_day"] = frame["event_at"].astype("int64") / 86_400e6
    acted = (frame["action"] != "none").astype(float)
    logged = pc.equal(table.column("origin"), "logged").to_numpy(zero_copy_only=False)
    for name, surface in domain.surfaces.items():
        if surface.base_rate:
            inside = (frame["surface"] == name).to_numpy() & logged
            if inside.any():
                frame[f"acted__{name}"] = np.where(inside, acted, np.nan)
            else:
                frame[f"acted__{name}"] = np.full(len(frame), surface.base_rate[0])
    return frame


def _finding(table: str, result: Any) -> Finding:
    meta = result.expectation_config.meta or {}
    outcome = result.result or {}
    parts = [
        f"{outcome['unexpected_count']} of {outcome.get('element_count', '?')} rows"
        if "unexpected_count" in outcome
        else "",
        f"observed {outcome['observed_value']}" if "observed_value" in outcome else "",
    ]
    if result.exception_info and result.exception_info.get("raised_exception"):
        parts.append(str(result.exception_info.get("exception_message", "")))
    return Finding(
        table=table,
        severity=str(meta.get("brewhouse_severity", "block")),
        what=str(meta.get("brewhouse_what", result.expectation_config.type)),
        detail=", ".join(p for p in parts if p) or "not met",
    )


def _copy_docs(root: Path, docs: Path) -> None:
    """Keep the local site and cut every reference to another host out of its pages."""
    site = next(root.rglob("data_docs/local_site"))
    if docs.exists():
        shutil.rmtree(docs)
    shutil.copytree(site, docs)
    outside = re.compile(
        r"<(script|link|img)\b[^>]*?(?:src|href)=[\"'](?:https?:)?//[^\"']*[\"'][^>]*?>"
        r"(?:\s*</script>)?",
        re.IGNORECASE | re.DOTALL,
    )
    for page in docs.rglob("*.html"):
        page.write_text(outside.sub("", page.read_text(encoding="utf-8")), encoding="utf-8")
