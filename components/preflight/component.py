"""Check that cluster and services have what the run will need."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def preflight(
    launcher: str,
    cluster: dict,
    model_store: str,
    home: str,
    tracking_uri: str,
    report: dsl.Output[dsl.Artifact],
):
    """Fail before anything is computed if the run would fail later.

    Args:
        launcher: `local`, or `trainer` where training is a TrainJob: the cluster is checked too.
        cluster: Where and how large the TrainJob is, fields of `ClusterSpec`.
        model_store: Folder or URI that keeps registered versions: written to, read and deleted.
        home: Folder of registry and ledger, where the environment does not name them.
        tracking_uri: MLflow; that of home or environment if empty.
        report: JSON of every check.
    """
    from pathlib import Path

    from brewhouse.stages import preflight as step

    step.run(
        launcher=launcher,
        cluster=cluster,
        model_store=model_store,
        home=home,
        tracking_uri=tracking_uri,
        report_out=Path(report.path),
    )
