"""Score the test rows and judge every task."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def evaluate(
    domain: str,
    seed: int,
    scoring: dict,
    publish_to: str,
    shards: dsl.Input[dsl.Dataset],
    model: dsl.Input[dsl.Model],
    baselines: dsl.Input[dsl.Dataset],
    oracle: dsl.Input[dsl.Dataset],
    results: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    reference: dsl.Output[dsl.Dataset],
):
    """Compute metrics with intervals, slices, checks and the report.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        seed: Seed of the bootstrap.
        scoring: How test trees are scored, fields of `ScoringPlan`; empty to score in this step.
        publish_to: Folder or URI that collects the run's evidence.
        shards: Test trees and rows.
        model: Ranker.
        baselines: Scores of the baselines.
        oracle: True probabilities, if the world is simulated.
        results: results.json.
        report: Self-contained HTML.
        reference: What drift of this model is measured against.
    """
    from pathlib import Path

    from brewhouse.stages import evaluating
    from brewhouse.stages.scoring import ScoringPlan

    evaluating.run(
        domain=domain,
        shards=Path(shards.path),
        model=Path(model.path),
        seed=int(seed),
        baselines=Path(baselines.path),
        oracle=Path(oracle.path),
        scoring=ScoringPlan.of(scoring),
        publish_to=publish_to,
        results_out=Path(results.path),
        report_out=Path(report.path),
        reference_out=Path(reference.path),
    )
