"""How every step stands in a cluster: under which user, and on whose bill."""

import os

from kfp import dsl, kubernetes

USER = 10001
"""User of the images; see Containerfile."""


def placed(task: dsl.PipelineTask, pipeline: str) -> dsl.PipelineTask:
    """Run a step as the image's user and label its pod, so that its cost finds a payer.

    Args:
        task: Step.
        pipeline: Name of its pipeline.
    """
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    labels = {
        "app.kubernetes.io/part-of": "brewhouse",
        "brewhouse.dev/pipeline": pipeline,
        # Known when a pipeline is compiled; a team compiles its own.
        "brewhouse.dev/cost-center": os.environ.get("BREWHOUSE_COST_CENTER", "ranking"),
    }
    for key, value in labels.items():
        kubernetes.add_pod_label(task, key, value)
    return task
