"""Train the mixture-of-experts ranker on token shards."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(
    base_image=image("train"),
    install_kfp_package=False,
    # Where a pipeline places this step is meant for the TrainJob; the workspace is for both. How
    # large the job is, `cluster` says: the step itself only waits.
    task_config_passthroughs=[
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.RESOURCES, apply_to_task=True),
        dsl.TaskConfigField.KUBERNETES_NODE_SELECTOR,
        dsl.TaskConfigField.KUBERNETES_TOLERATIONS,
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.ENV, apply_to_task=True),
        dsl.TaskConfigPassthrough(field=dsl.TaskConfigField.KUBERNETES_VOLUMES, apply_to_task=True),
    ],
)
def train_ranker(
    options: dict,
    processes: int,
    launcher: str,
    cluster: dict,
    run_id: str,
    workspace: str,
    tracking_uri: str,
    publish_to: str,
    shards: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
    task_config: dsl.TaskConfig,
):
    """Train by torchrun and DeepSpeed, here or as a TrainJob; a repeated step goes on where it was.

    Args:
        options: Fields of `brewhouse.training.config.TrainConfig` that differ from the defaults.
        processes: Ranks on this machine.
        launcher: `local` for this machine, `trainer` for a TrainJob of Kubeflow Trainer.
        cluster: Fields of `brewhouse.platform.trainjob.ClusterSpec`, for the TrainJob.
        run_id: Of the pipeline run: a retried step adopts the TrainJob of the same run.
        workspace: Folder for checkpoints that outlives a failed run.
        tracking_uri: MLflow; empty for none.
        publish_to: Folder or URI that collects the run's evidence.
        shards: Token shards.
        model: Model, tokenizer and questions in Hugging Face layout.
        task_config: What the pipeline set on this step, for the TrainJob.
    """
    from pathlib import Path

    from brewhouse.stages import training

    training.run(
        shards=Path(shards.path),
        model_out=Path(model.path),
        workspace=workspace,
        options=options,
        processes=int(processes),
        launcher=launcher,
        cluster=cluster,
        task=vars(task_config) if task_config else {},
        run_id=run_id,
        tracking_uri=tracking_uri,
        publish_to=publish_to,
    )
