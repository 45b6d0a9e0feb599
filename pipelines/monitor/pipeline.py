"""From the newest log to incidents, and to a retraining where one is ordered."""

from brewhouse.components.monitor_drift.component import monitor_drift
from brewhouse.components.report_status.component import report_status
from brewhouse.pipelines.placing import placed
from brewhouse.pipelines.secrets import with_secrets, with_store
from kfp import dsl, kubernetes


@dsl.pipeline(
    name="monitor",
    description="Watch the version in use: signals, incidents, and retrainings that are ordered.",
)
def monitor(
    domain: str,
    source: str = "",
    preset: str = "",
    seed: int = 7,
    policy: str = "default",
    version: str = "champion",
    as_of: str = "",
    store: str = "/workspace/observations",
    scoring: dict = {},  # noqa: B006 - KFP reads the default as a constant
    arguments: dict = {},  # noqa: B006 - KFP reads the default as a constant
    retrain: bool = True,
    claim: str = "training",
    home: str = "",
    publish_to: str = "",
):
    """Watch the version in use.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        source: Folder with the domain's files; empty to simulate.
        preset: Size of the simulated world; empty to import.
        seed: Seed of simulation and of sampled negatives.
        policy: Drift policy, a name or a YAML file.
        version: `champion`, or a version's number.
        as_of: Read the log as it was then; all of it if empty.
        store: Folder that keeps observed days between runs.
        scoring: How requests are scored, fields of `ScoringPlan`; empty to score in the step.
        arguments: Of train_and_evaluate, for retrainings.
        retrain: Whether retrainings are started.
        claim: PersistentVolumeClaim that holds the store, mounted at /workspace.
        home: Folder of registry, database and keys; in a cluster secrets name them.
        publish_to: Folder or URI that collects pages and metrics.
    """
    ending = with_store(placed(report_status(publish_to=publish_to), "monitor"))
    ending.set_caching_options(False)
    ending.set_cpu_request("100m").set_cpu_limit("100m")
    ending.set_memory_request("512Mi").set_memory_limit("512Mi")
    with dsl.ExitHandler(ending, name="report how the run ended"):
        watched = monitor_drift(
            domain=domain,
            source=source,
            preset=preset,
            seed=seed,
            policy=policy,
            version=version,
            as_of=as_of,
            store=store,
            scoring=scoring,
            arguments=arguments,
            retrain=retrain,
            home=home,
            publish_to=publish_to,
        )
        # The log behind the same arguments has grown since the last run.
        watched.set_caching_options(False)
        watched.set_cpu_request("4").set_cpu_limit("4")
        watched.set_memory_request("16Gi").set_memory_limit("16Gi")
        watched.set_retry(num_retries=2, backoff_duration="300s", backoff_factor=2.0)
        for task in (ending, watched):
            kubernetes.mount_pvc(task, pvc_name=claim, mount_path="/workspace")
        with_secrets(with_store(placed(watched, "monitor")))
        # Kubeflow's PodDefault of this name brings the token with which retrainings are started.
        kubernetes.add_pod_label(watched, "access-ml-pipeline", "true")
