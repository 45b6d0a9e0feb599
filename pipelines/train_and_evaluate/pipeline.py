"""From raw tables to a registered candidate."""

from brewhouse.components.build_features.component import build_features
from brewhouse.components.evaluate.component import evaluate
from brewhouse.components.gate.component import gate
from brewhouse.components.import_data.component import import_data
from brewhouse.components.preflight.component import preflight
from brewhouse.components.publish_features.component import publish_features
from brewhouse.components.register_candidate.component import register_candidate
from brewhouse.components.report_status.component import report_status
from brewhouse.components.train_baselines.component import train_baselines
from brewhouse.components.train_ranker.component import train_ranker
from brewhouse.components.validate_data.component import validate_data
from brewhouse.components.verbalize.component import verbalize
from brewhouse.pipelines.placing import placed
from brewhouse.pipelines.secrets import with_features, with_secrets, with_store
from kfp import dsl, kubernetes


def _size(task: dsl.PipelineTask, *, cpu: str, memory: str) -> dsl.PipelineTask:
    """Request and limit alike, so that a step is never evicted for what it asked."""
    task.set_cpu_request(cpu).set_cpu_limit(cpu)
    task.set_memory_request(memory).set_memory_limit(memory)
    return with_store(placed(task, "train-and-evaluate"))


@dsl.pipeline(
    name="train-and-evaluate",
    description="Validate data, tell histories, train and judge the ranker, register a candidate.",
)
def train_and_evaluate(
    domain: str,
    source: str = "",
    preset: str = "",
    train_end: str = "",
    until: str = "",
    seed: int = 7,
    model: str = "tiny",
    tasks: str = "",
    max_test_sessions: int = 6000,
    online: bool = True,
    verbalization: dict = {},  # noqa: B006 - KFP reads the default as a constant
    train_options: dict = {},  # noqa: B006 - KFP reads the default as a constant
    processes: int = 2,
    launcher: str = "local",
    cluster: dict = {},  # noqa: B006 - KFP reads the default as a constant
    run_id: str = "",
    baselines: str = "",
    scoring: dict = {},  # noqa: B006 - KFP reads the default as a constant
    policy: str = "default",
    champion: str = "",
    workspace: str = "",
    claim: str = "training",
    tracking_uri: str = "",
    model_store: str = "models",
    home: str = "",
    author: str = "",
    trigger: str = "",
    trigger_window: str = "",
    trigger_reason: str = "",
    publish_to: str = "",
):
    """Train and judge one candidate.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        source: Folder with the domain's files; empty to simulate.
        preset: Size of the simulated world; empty to import.
        train_end: End of training, YYYY-MM-DD; empty for the domain's default.
        until: Leave out what the log learned later, ISO 8601 in UTC; empty for all of it.
        seed: Seed of everything random.
        model: Size trained from scratch, or folder or hub id of a model.
        tasks: Comma-separated task names; empty for all.
        max_test_sessions: Test sessions kept.
        online: Whether the online feature store is filled; nothing of this pipeline reads it.
        verbalization: Where histories are told, fields of `TellingPlan`; in the step if empty.
        train_options: Training options that differ from the defaults.
        processes: Training processes on one machine.
        launcher: `local`, or `trainer` to train as a TrainJob of Kubeflow Trainer.
        cluster: Where and how large the TrainJob is, fields of `ClusterSpec`.
        run_id: Names the TrainJob; named after what it trains if empty.
        baselines: Comma-separated conventional models to train; empty for all of the domain.
        scoring: How test trees are scored, fields of `ScoringPlan`; empty to score in the step.
        policy: Gate policy.
        champion: results.json to compare with, or `none`; the registry's champion if empty.
        workspace: Folder for checkpoints that outlives a failed run; in a cluster below /workspace.
        claim: PersistentVolumeClaim that steps and the TrainJob mount at /workspace.
        tracking_uri: MLflow.
        model_store: Folder or URI that keeps registered versions.
        home: Folder of registry, ledger and keys; in a cluster secrets name them.
        author: Who started the run.
        trigger: Drift trigger that this run answers; empty for a run of a person.
        trigger_window: Days of the window that it came from.
        trigger_reason: Why.
        publish_to: Folder or URI that collects the run's evidence.
    """
    ending = _size(report_status(publish_to=publish_to), cpu="100m", memory="512Mi")
    ending.set_caching_options(False)
    with dsl.ExitHandler(ending, name="report how the run ended"):
        checked_first = _size(
            preflight(
                launcher=launcher,
                cluster=cluster,
                model_store=model_store,
                home=home,
                tracking_uri=tracking_uri,
            ),
            cpu="500m",
            memory="1Gi",
        )
        # What was fine yesterday may be gone today.
        checked_first.set_caching_options(False)
        with_secrets(checked_first)
        imported = _size(
            import_data(
                domain=domain,
                source=source,
                preset=preset,
                seed=seed,
                until=until,
                publish_to=publish_to,
            ),
            cpu="2",
            memory="8Gi",
        ).after(checked_first)
        checked = _size(
            validate_data(
                domain=domain,
                train_end=train_end,
                publish_to=publish_to,
                snapshot=imported.outputs["snapshot"],
            ),
            cpu="2",
            memory="16Gi",
        )
        stored = _size(
            build_features(
                domain=domain,
                online=online,
                publish_to=publish_to,
                snapshot=imported.outputs["snapshot"],
                validated=checked.outputs["validated"],
            ),
            cpu="2",
            memory="8Gi",
        )
        served = _size(
            publish_features(
                domain=domain,
                online=online,
                publish_to=publish_to,
                features=stored.outputs["features"],
            ),
            cpu="1",
            memory="4Gi",
        )
        # What the online store holds is no input of the step: a store that is new is filled again.
        served.set_caching_options(False)
        told = _size(
            verbalize(
                domain=domain,
                train_end=train_end,
                model=model,
                tasks=tasks,
                publish_to=publish_to,
                max_test_sessions=max_test_sessions,
                verbalization=verbalization,
                snapshot=imported.outputs["snapshot"],
                features=stored.outputs["features"],
            ),
            cpu="4",
            memory="16Gi",
        )
        trained = _size(
            train_ranker(
                options=train_options,
                processes=processes,
                launcher=launcher,
                cluster=cluster,
                run_id=run_id,
                workspace=workspace,
                tracking_uri=tracking_uri,
                publish_to=publish_to,
                shards=told.outputs["shards"],
            ),
            cpu="4",
            memory="16Gi",
        )
        # A retried step goes on from its checkpoints, or finds its TrainJob at work.
        trained.set_retry(num_retries=3, backoff_duration="60s", backoff_factor=2.0)
        based = _size(
            train_baselines(
                domain=domain,
                seed=seed,
                scorers=baselines,
                publish_to=publish_to,
                snapshot=imported.outputs["snapshot"],
                features=stored.outputs["features"],
                shards=told.outputs["shards"],
            ),
            cpu="4",
            memory="16Gi",
        )
        judged = _size(
            evaluate(
                domain=domain,
                seed=seed,
                scoring=scoring,
                publish_to=publish_to,
                shards=told.outputs["shards"],
                model=trained.outputs["model"],
                baselines=based.outputs["baselines"],
                oracle=imported.outputs["oracle"],
            ),
            cpu="4",
            memory="16Gi",
        )
        decided = _size(
            gate(
                policy=policy,
                champion=champion,
                home=home,
                tracking_uri=tracking_uri,
                publish_to=publish_to,
                results=judged.outputs["results"],
            ),
            cpu="500m",
            memory="1Gi",
        )
        decided.set_caching_options(False)
        registered = _size(
            register_candidate(
                domain=domain,
                home=home,
                tracking_uri=tracking_uri,
                model_store=model_store,
                author=author,
                trigger=trigger,
                trigger_window=trigger_window,
                trigger_reason=trigger_reason,
                publish_to=publish_to,
                results=judged.outputs["results"],
                verdict=decided.outputs["verdict"],
                report=decided.outputs["report"],
                model=trained.outputs["model"],
                shards=told.outputs["shards"],
                reference=judged.outputs["reference"],
            ),
            cpu="1",
            memory="4Gi",
        )
        with_secrets(registered)
        with_secrets(decided)
        # Folders among the arguments lie on it: the log, checkpoints, models, evidence, and what
        # workers of Ray share.
        on_claim = (checked_first, imported, checked, stored, served, told, trained, based, judged)
        for task in (ending, *on_claim, decided, registered):
            kubernetes.mount_pvc(task, pvc_name=claim, mount_path="/workspace")
        for reads_features in (checked_first, stored, served, told, based):
            with_features(reads_features)
