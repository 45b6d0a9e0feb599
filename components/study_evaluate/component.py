"""Ask one model of the studies in one way."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def study_evaluate(preset: str, work: str, point: dict):
    """Tell prompts of a variant, score and judge them; an evaluation that is there is kept.

    Args:
        preset: Name of a preset of studies, or a YAML file.
        work: Folder that all steps of the studies share.
        point: Fields of `brewhouse.studies.plan.Evaluation`.
    """
    from pathlib import Path

    from brewhouse.stages import studying

    studying.evaluate(preset, Path(work), point)
