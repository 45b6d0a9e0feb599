"""Import a source folder, or simulate a world, into an immutable snapshot."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def import_data(
    domain: str,
    source: str,
    preset: str,
    seed: int,
    until: str,
    publish_to: str,
    snapshot: dsl.Output[dsl.Dataset],
    oracle: dsl.Output[dsl.Dataset],
):
    """Map raw tables onto the canonical ones; keep a simulation's truth apart from them.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        source: Folder with the domain's files; empty to simulate.
        preset: Size of the simulated world; empty to import.
        seed: Seed of simulation and of sampled negatives.
        until: Leave out what the log learned later, ISO 8601 in UTC; empty for all of it.
        publish_to: Folder or URI that collects the run's evidence.
        snapshot: Content-addressed snapshot.
        oracle: True probabilities of a simulated world, for evaluation alone; else empty.
    """
    from pathlib import Path

    from brewhouse.stages import importing

    cut = importing.run(
        domain=domain,
        source=source,
        preset=preset,
        seed=int(seed),
        until=until,
        publish_to=publish_to,
        snapshot_out=Path(snapshot.path),
        oracle_out=Path(oracle.path),
    )
    snapshot.metadata["digest"] = cut.digest
