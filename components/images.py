"""Names of the images components run in; a digest is pinned when a release is built."""

import os

FAMILIES = ("steps", "train")


def image(family: str) -> str:
    """Image of a family: BREWHOUSE_IMAGE_STEPS or _TRAIN, as a release sets them by digest.

    Else a tag, of BREWHOUSE_IMAGE_REGISTRY and BREWHOUSE_IMAGE_TAG; all at compile time.

    Args:
        family: `steps` (everything on CPUs) or `train` (training on GPUs), as in Containerfile.

    Raises:
        ValueError: Unknown family.
    """
    if family not in FAMILIES:
        msg = f"unknown image family '{family}'; choose one of {', '.join(FAMILIES)}"
        raise ValueError(msg)
    if named := os.environ.get(f"BREWHOUSE_IMAGE_{family.upper()}"):
        return named
    registry = os.environ.get("BREWHOUSE_IMAGE_REGISTRY", "registry.example.com/brewhouse")
    tag = os.environ.get("BREWHOUSE_IMAGE_TAG", "0.1.0")
    return f"{registry}/{family}:{tag}"
