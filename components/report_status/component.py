"""Record how a run ended; runs whatever happened before."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def report_status(publish_to: str, status: dsl.PipelineTaskFinalStatus):
    """Write status.json to the run folder.

    Args:
        publish_to: Folder or URI that collects the run's evidence.
        status: Final status of the pipeline's body, given by KFP.
    """
    from brewhouse.stages import status as step

    step.run(publish_to=publish_to, state=status.state, error=status.error_message or "")
