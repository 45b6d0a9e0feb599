"""Compute the verdict on a candidate."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def gate(
    policy: str,
    champion: str,
    home: str,
    tracking_uri: str,
    publish_to: str,
    results: dsl.Input[dsl.Artifact],
    verdict: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
):
    """Apply a policy to results.

    Args:
        policy: Name of a shipped policy, or a YAML file.
        champion: results.json to compare with, or `none`; the registry's champion if empty.
        home: Folder of registry and ledger, where the environment does not name them.
        tracking_uri: MLflow; that of home or environment if empty.
        publish_to: Folder or URI that collects the run's evidence.
        results: results.json.
        verdict: verdict.json with a reason a rule.
        report: The evaluation's page with the verdict and what changed against the champion.
    """
    from pathlib import Path

    from brewhouse.stages import gating

    gating.run(
        results=Path(results.path),
        policy=policy,
        champion=champion,
        home=home,
        tracking_uri=tracking_uri,
        publish_to=publish_to,
        verdict_out=Path(verdict.path),
        report_out=Path(report.path),
    )
