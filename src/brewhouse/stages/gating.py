"""Step 8: results and policy -> verdict, and the report with it."""

from __future__ import annotations

from pathlib import Path

from brewhouse.evaluation.results import Results
from brewhouse.files import write_json
from brewhouse.gates.policy import load_policy
from brewhouse.gates.verdict import Verdict, decide
from brewhouse.reporting.report import write_report
from brewhouse.stages.common import note_lineage, publish, tell


def run(
    *,
    results: Path,
    policy: str,
    verdict_out: Path,
    report_out: Path | None = None,
    champion: str = "",
    publish_to: str = "",
) -> Verdict:
    """Apply a policy; `champion` is the results.json of the model in use, or empty."""
    ours = Results.read(results)
    theirs = Results.read(Path(champion)) if champion else None
    verdict = decide(load_policy(policy), ours, theirs)
    write_json(verdict_out, verdict.model_dump(mode="json"))
    files = {"verdict.json": verdict_out}
    if report_out is not None:
        write_report(ours, report_out, verdict=verdict, champion=theirs)
        files["report.html"] = report_out
    publish(files, publish_to)
    note_lineage(
        publish_to, "gate", {"results": verdict.results_digest, "outcome": verdict.outcome.value}
    )
    for line in verdict.lines():
        tell(line.strip())
    return verdict
