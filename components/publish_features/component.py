"""Load Feast's online store."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def publish_features(
    domain: str,
    online: bool,
    publish_to: str,
    features: dsl.Input[dsl.Dataset],
    served: dsl.Output[dsl.Artifact],
):
    """Load profiles, items and recent histories online, and register them where servers look.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        online: Whether there is an online store to load; if not, nothing is done.
        publish_to: Folder or URI that collects the run's evidence.
        features: The offline store, with histories.
        served: Registry and online store where these are files; empty where they are servers.
    """
    from pathlib import Path

    from brewhouse.stages import publishing as step

    Path(served.path).mkdir(parents=True, exist_ok=True)
    if online:
        step.run(
            domain=domain,
            features=Path(features.path),
            out=Path(served.path),
            publish_to=publish_to,
        )
