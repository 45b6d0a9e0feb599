"""Register a passing model as a candidate."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def register_candidate(
    tracking_uri: str,
    model_store: str,
    publish_to: str,
    results: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    model: dsl.Input[dsl.Model],
    registration: dsl.Output[dsl.Artifact],
):
    """Create a model version in state PENDING_APPROVAL; a person decides about it.

    Args:
        tracking_uri: MLflow.
        model_store: Folder that keeps registered models.
        publish_to: Folder or URI that collects the run's evidence.
        results: results.json.
        verdict: verdict.json, which must be PASS.
        model: Ranker.
        registration: Name, version and state.
    """
    from pathlib import Path

    from brewhouse.stages import registering

    registered = registering.run(
        results=Path(results.path),
        verdict=Path(verdict.path),
        model=Path(model.path),
        tracking_uri=tracking_uri,
        model_store=model_store,
        publish_to=publish_to,
        registration_out=Path(registration.path),
    )
    registration.metadata["version"] = registered.version
