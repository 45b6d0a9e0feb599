"""Train one model of the studies."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("train"), install_kfp_package=False)
def study_train(preset: str, work: str, point: dict):
    """Train a model, or take the base as it is; a model that is there is kept.

    Args:
        preset: Name of a preset of studies, or a YAML file.
        work: Folder that all steps of the studies share.
        point: Fields of `brewhouse.studies.plan.Training`.
    """
    from pathlib import Path

    from brewhouse.stages import studying

    studying.train(preset, Path(work), point)
