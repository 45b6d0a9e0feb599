"""Draw the conclusions of the studies."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def study_report(preset: str, work: str, studies: list, report: dsl.Output[dsl.HTML]):
    """Write studies.json, studies.md and the page with figures.

    Args:
        preset: Name of a preset of studies, or a YAML file.
        work: Folder that all steps of the studies share.
        studies: Names of studies; all if empty.
        report: The page: figure, table and sentence of each study, beside what the paper shows.
    """
    import shutil
    from pathlib import Path

    from brewhouse.stages import studying

    studying.report(preset, Path(work), studies)
    shutil.copy(Path(work) / "studies.html", report.path)
