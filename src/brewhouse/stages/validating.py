"""Step 2: refuse a snapshot that breaks the domain's rules, before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

from brewhouse.data.rules import check_references
from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import parse_day
from brewhouse.domains.loader import load_domain
from brewhouse.errors import ValidationBlocked
from brewhouse.files import write_json
from brewhouse.platform.expectations import Finding, validate
from brewhouse.stages.common import note_lineage, publish, tell


def run(
    *,
    domain: str,
    snapshot: Path,
    train_end: str,
    report_out: Path,
    docs_out: Path,
    publish_to: str = "",
) -> list[Finding]:
    """Validate a snapshot; write the findings and Data Docs, then block if any finding blocks.

    Returns:
        Findings of severity `warn`.

    Raises:
        ValidationBlocked: With one line a blocking finding.
    """
    spec = load_domain(domain).domain
    cut = Snapshot.open(snapshot)
    cut.verify()
    day = train_end or spec.defaults.train_end
    end = parse_day(day) if day else None
    findings, counts = validate(cut, spec, docs_out, train_end=end)
    rules = list(check_references(cut))
    findings += [
        Finding(
            table="across tables",
            severity="block",
            what=rule.what,
            detail=", ".join(p for p in (f"{rule.rows} rows", rule.example) if p),
        )
        for rule in rules
    ]
    blocking = [f for f in findings if f.severity == "block"]
    write_json(
        report_out,
        {
            "schema_version": 1,
            "snapshot": cut.digest,
            "expectations": counts,
            "blocked": bool(blocking),
            "findings": [vars(f) for f in findings],
        },
    )
    pages = {
        f"data_docs/{p.relative_to(docs_out).as_posix()}": p
        for p in docs_out.rglob("*")
        if p.is_file()
    }
    publish({"validation.json": report_out, **pages}, publish_to)
    note_lineage(publish_to, "validate_data", {"snapshot": cut.digest, "blocked": bool(blocking)})
    for finding in findings:
        tell(f"{finding.severity}: {finding.table}: {finding.what}: {finding.detail}")
    tell(f"{counts['met']} of {counts['run']} expectations met")
    if blocking:
        lines = [f"{f.table}: {f.what}: {f.detail}" for f in blocking]
        msg = (
            f"snapshot {cut.digest[:19]} is refused:\n  "
            + "\n  ".join(lines)
            + "\nmend the source or the domain's rules and import again"
        )
        raise ValidationBlocked(msg)
    return findings
