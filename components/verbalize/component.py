"""Tell histories as prompt trees and write token shards with their manifest."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def verbalize(
    domain: str,
    train_end: str,
    model: str,
    tasks: str,
    max_test_sessions: int,
    verbalization: dict,
    publish_to: str,
    snapshot: dsl.Input[dsl.Dataset],
    features: dsl.Input[dsl.Dataset],
    shards: dsl.Output[dsl.Dataset],
):
    """Build training, pre-training and test trees; prove gap and absence of tiers.

    Args:
        domain: Built-in domain or folder with a domain.yaml.
        train_end: End of training; empty for the domain's default.
        model: Size trained from scratch, or folder or hub id of a model with its tokenizer.
        tasks: Comma-separated task names; empty for all.
        max_test_sessions: Test sessions kept.
        verbalization: Where histories are told, fields of `TellingPlan`.
        publish_to: Folder or URI that collects the run's evidence.
        snapshot: Snapshot (items and profiles).
        features: Feature store (the interaction log).
        shards: Token shards, tokenizer, test rows, manifest.
    """
    from pathlib import Path

    from brewhouse.stages import verbalizing
    from brewhouse.stages.telling import TellingPlan

    verbalizing.run(
        domain=domain,
        snapshot=Path(snapshot.path),
        features=Path(features.path),
        tasks=tasks,
        train_end=train_end,
        model=model,
        max_test_sessions=int(max_test_sessions),
        plan=TellingPlan.of(verbalization),
        shards_out=Path(shards.path),
        publish_to=publish_to,
    )
