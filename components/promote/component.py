"""Carry out an ordered promotion."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def promote(
    version: str,
    home: str,
    promoted: dsl.Output[dsl.Artifact],
):
    """Verify ledger, evidence, weights and scores of an ordered version, then move the alias.

    Nothing is promoted without a person's order; a rollback is the same with a version that was
    champion before.

    Args:
        version: Version.
        home: Folder of registry, ledger and keys, where the environment does not name them.
        promoted: The version as it then stands.
    """
    from pathlib import Path

    from brewhouse.stages import promoting

    promoting.run(version=version, home=home, promoted_out=Path(promoted.path))
