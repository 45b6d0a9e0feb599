"""Register a judged model."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def register_candidate(
    domain: str,
    home: str,
    tracking_uri: str,
    model_store: str,
    author: str,
    trigger: str,
    trigger_window: str,
    trigger_reason: str,
    publish_to: str,
    results: dsl.Input[dsl.Artifact],
    verdict: dsl.Input[dsl.Artifact],
    report: dsl.Input[dsl.HTML],
    model: dsl.Input[dsl.Model],
    shards: dsl.Input[dsl.Dataset],
    reference: dsl.Input[dsl.Dataset],
    registration: dsl.Output[dsl.Artifact],
):
    """Create a model version with its dossier; after a PASS it waits for a person's approval.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        home: Folder of registry, ledger and keys, where the environment does not name them.
        tracking_uri: MLflow; that of home or environment if empty.
        model_store: Folder or URI that keeps versions.
        author: Who started the run.
        trigger: Drift trigger that the run answers; empty for a run of a person.
        trigger_window: Days of the window that it came from.
        trigger_reason: Why.
        publish_to: Folder or URI that collects the run's evidence.
        results: results.json.
        verdict: verdict.json of those results.
        report: Report with the verdict.
        model: Ranker.
        shards: Test trees, of which a few are kept to check the model by.
        reference: What drift of the model is measured against.
        registration: Name, version and state.
    """
    from pathlib import Path

    from brewhouse.release.dossier import Evidence
    from brewhouse.stages import registering

    lineage = Path(publish_to) / "lineage.json"
    registered = registering.run(
        domain=domain,
        evidence=Evidence(
            results=Path(results.path),
            verdict=Path(verdict.path),
            report=Path(report.path),
            model=Path(model.path),
            shards=Path(shards.path),
            reference=Path(reference.path),
            lineage=lineage if lineage.is_file() else None,
        ),
        home=home,
        tracking_uri=tracking_uri,
        model_store=model_store,
        author=author,
        trigger={"id": trigger, "window": trigger_window, "reason": trigger_reason},
        publish_to=publish_to,
        registration_out=Path(registration.path),
    )
    registration.metadata["version"] = registered.version
