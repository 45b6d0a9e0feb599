"""Step 8: results and policy -> verdict, and the report with it."""

from __future__ import annotations

from pathlib import Path

from brewhouse.evaluation.results import Results
from brewhouse.files import write_json
from brewhouse.gates.policy import load_policy
from brewhouse.gates.verdict import Verdict, decide
from brewhouse.platform.tracking import champion_of
from brewhouse.release.settings import Settings
from brewhouse.release.store import VersionFolder
from brewhouse.reporting.report import write_report
from brewhouse.stages.common import note_lineage, publish, tell

NO_CHAMPION = "none"


def run(
    *,
    results: Path,
    policy: str,
    verdict_out: Path,
    report_out: Path | None = None,
    champion: str = "",
    home: str = "",
    tracking_uri: str = "",
    publish_to: str = "",
) -> Verdict:
    """Apply a policy.

    Args:
        results: results.json of the candidate.
        policy: Name or YAML file.
        verdict_out: File to write.
        report_out: Page to write, if any.
        champion: results.json to compare with; `none` for nothing; that of the registry's champion
            if empty.
        home: Folder of the registry, where the environment does not name it.
        tracking_uri: MLflow, in place of that.
        publish_to: Run folder.
    """
    ours = Results.read(results)
    theirs = _champion(champion, home, tracking_uri)
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


def _champion(champion: str, home: str, tracking_uri: str) -> Results | None:
    if champion == NO_CHAMPION:
        return None
    if champion:
        return Results.read(Path(champion))
    settings = Settings.read(home)
    uri = tracking_uri or settings.tracking_uri
    found = champion_of(uri, settings.model_name)
    if found is None:
        return None
    tell(f"comparing with {settings.model_name} version {found.version}, the champion")
    with VersionFolder(found.source, tracking_uri=uri).local("dossier") as dossier:
        return Results.read(dossier / "results.json")
