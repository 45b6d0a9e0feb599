"""Train the mixture-of-experts ranker on token shards."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("train"), install_kfp_package=False)
def train_ranker(
    options: dict,
    processes: int,
    workspace: str,
    tracking_uri: str,
    publish_to: str,
    shards: dsl.Input[dsl.Dataset],
    model: dsl.Output[dsl.Model],
):
    """Train by torchrun and DeepSpeed; a repeated step resumes from its newest checkpoint.

    Args:
        options: Fields of `brewhouse.training.config.TrainConfig` that differ from the defaults.
        processes: Ranks on this machine.
        workspace: Folder for checkpoints that outlives a failed run.
        tracking_uri: MLflow; empty for none.
        publish_to: Folder or URI that collects the run's evidence.
        shards: Token shards.
        model: Model, tokenizer and questions in Hugging Face layout.
    """
    from pathlib import Path

    from brewhouse.stages import training

    training.run(
        shards=Path(shards.path),
        model_out=Path(model.path),
        workspace=workspace,
        options=options,
        processes=int(processes),
        tracking_uri=tracking_uri,
        publish_to=publish_to,
    )
