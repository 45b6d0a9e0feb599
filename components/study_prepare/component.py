"""Make the world of a preset of studies, its prompts and its baselines."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def study_prepare(preset: str, work: str):
    """Simulate, fill the feature store, tell prompts, train baselines; what is there is kept.

    Args:
        preset: Name of a preset of studies, or a YAML file.
        work: Folder that all steps of the studies share.
    """
    from pathlib import Path

    from brewhouse.stages import studying

    studying.prepare(preset, Path(work))
