"""Train conventional models on the same rows."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def train_baselines(
    domain: str,
    seed: int,
    scorers: str,
    publish_to: str,
    snapshot: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    shards: dsl.Input[dsl.Dataset],
    baselines: dsl.Output[dsl.Dataset],
):
    """Train conventional models that stand in for production, and score the test rows.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        seed: Seed.
        scorers: Comma-separated baselines; empty for all of the domain.
        publish_to: Folder or URI that collects the run's evidence.
        snapshot: Snapshot.
        features: Feature store.
        shards: Says which rows are tested.
        baselines: Log-odds of test rows, and how each model came about.
    """
    from pathlib import Path

    from brewhouse.stages import baselines as step

    step.run(
        domain=domain,
        snapshot=Path(snapshot.path),
        features=Path(features.path),
        seed=int(seed),
        scorers=[name.strip() for name in scorers.split(",")] if scorers else None,
        shards=Path(shards.path),
        baselines_out=Path(baselines.path),
        publish_to=publish_to,
    )
