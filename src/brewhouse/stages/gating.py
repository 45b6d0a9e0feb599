"""Step 8: results and policy -> verdict."""

from __future__ import annotations

from pathlib import Path

from brewhouse.evaluation.results import Results
from brewhouse.files import write_json
from brewhouse.gates.policy import load_policy
from brewhouse.gates.verdict import Verdict, decide
from brewhouse.stages.common import note_lineage, publish, tell


def run(
    *, results: Path, policy: str, verdict_out: Path, champion: str = "", publish_to: str = ""
) -> Verdict:
    """Apply a policy; `champion` is the results.json of the model in use, or empty."""
    theirs = Results.read(Path(champion)) if champion else None
    verdict = decide(load_policy(policy), Results.read(results), theirs)
    write_json(verdict_out, verdict.model_dump(mode="json"))
    publish({"verdict.json": verdict_out}, publish_to)
    note_lineage(
        publish_to, "gate", {"results": verdict.results_digest, "outcome": verdict.outcome.value}
    )
    for rule in verdict.rules:
        tell(f"{rule.outcome:<12} {rule.rule['kind']}: {rule.reason}")
    tell(f"verdict {verdict.outcome}")
    return verdict
