"""Fill Feast's offline store from a snapshot."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def build_features(
    domain: str,
    online: bool,
    publish_to: str,
    snapshot: dsl.Input[dsl.Dataset],
    validated: dsl.Input[dsl.Artifact],
    features: dsl.Output[dsl.Dataset],
):
    """Write profiles, items and the log where Feast reads them, and register definitions.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        online: Whether histories are written for `publish_features`, too; for hundreds of thousands
            of members it takes minutes.
        publish_to: Folder or URI that collects the run's evidence.
        snapshot: Snapshot.
        validated: Proof that the snapshot passed validation.
        features: File sources and a registry.
    """
    from pathlib import Path

    from brewhouse.stages import features as step

    assert Path(validated.path).is_file()
    step.run(
        domain=domain,
        snapshot=Path(snapshot.path),
        features_out=Path(features.path),
        histories=online,
        publish_to=publish_to,
    )
