"""Check a snapshot with Great Expectations and cross-table rules; stop the run if one blocks."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def validate_data(
    domain: str,
    train_end: str,
    publish_to: str,
    snapshot: dsl.Input[dsl.Dataset],
    validated: dsl.Output[dsl.Artifact],
    data_docs: dsl.Output[dsl.Artifact],
):
    """Validate a snapshot; downstream steps depend on `validated`, so nothing trains on bad data.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        train_end: End of training, for freshness; may be empty.
        publish_to: Folder or URI that collects the run's evidence.
        snapshot: Snapshot to check.
        validated: Findings as JSON.
        data_docs: Self-contained HTML without member ids.
    """
    from pathlib import Path

    from brewhouse.stages import validating

    validating.run(
        domain=domain,
        snapshot=Path(snapshot.path),
        train_end=train_end,
        publish_to=publish_to,
        report_out=Path(validated.path),
        docs_out=Path(data_docs.path),
    )
