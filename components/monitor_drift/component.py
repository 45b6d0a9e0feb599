"""Judge the windows of the version in use that are over."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def monitor_drift(
    domain: str,
    source: str,
    preset: str,
    seed: int,
    policy: str,
    version: str,
    as_of: str,
    store: str,
    scoring: dict,
    arguments: dict,
    retrain: bool,
    home: str,
    publish_to: str,
    summary: dsl.Output[dsl.HTML],
    inputs: dsl.Output[dsl.HTML],
    evaluations: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Artifact],
):
    """Import the newest log, measure signals, open incidents, start retrainings that are ordered.

    A window is measured once and judged in the order of time; run again after any end, it goes on
    where it was. A log that cannot be imported or breaks the domain's rules is an incident too. The
    step may start training, it never promotes.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        source: Folder with the domain's files; empty to simulate.
        preset: Size of the simulated world; empty to import.
        seed: Seed of simulation and of sampled negatives.
        policy: Drift policy, a name or a YAML file.
        version: `champion`, or a version's number.
        as_of: Read the log as it was then, ISO 8601 in UTC; all of it if empty.
        store: Folder that keeps observed days between runs; in a cluster below /workspace.
        scoring: How requests are scored, fields of `ScoringPlan`; empty to score in this step.
        arguments: Of train_and_evaluate, for retrainings; those of home's last run if empty.
        retrain: Whether retrainings are started; their triggers stand otherwise.
        home: Folder of registry, database and keys, where the environment does not name them.
        publish_to: Folder or URI that collects pages and metrics.
        summary: The monitor's page.
        inputs: Evidently's page of the last window; a line of text where no window was judged.
        evaluations: What was judged and started, as JSON.
        metrics: The same for Prometheus, as text.
    """
    from pathlib import Path

    from brewhouse.stages import monitor_step

    monitor_step.run_step(
        domain=domain,
        data=monitor_step.DataPlace(source=source, preset=preset, seed=int(seed)),
        policy=policy,
        version=version,
        as_of=as_of,
        store=store,
        scoring=scoring,
        arguments=arguments,
        retrain=retrain,
        home=home,
        publish_to=publish_to,
        summary_out=Path(summary.path),
        inputs_out=Path(inputs.path),
        evaluations_out=Path(evaluations.path),
        metrics_out=Path(metrics.path),
    )
