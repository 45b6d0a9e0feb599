"""Read the outcome of a verdict, so that a pipeline can branch on it."""

from brewhouse.components.images import image
from kfp import dsl


@dsl.component(base_image=image("steps"), install_kfp_package=False)
def read_outcome(verdict: dsl.Input[dsl.Artifact]) -> str:
    """Return PASS, FAIL or INCONCLUSIVE.

    A step of its own with one unnamed return: `dsl.If` on one of several outputs is silently
    skipped by the local runner.

    Args:
        verdict: verdict.json.

    Returns:
        The outcome.
    """
    import json
    from pathlib import Path

    return json.loads(Path(verdict.path).read_text(encoding="utf-8"))["outcome"]
