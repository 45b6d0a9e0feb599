"""Starts the promote run where the platform is: this machine, unless a cluster is named."""

from __future__ import annotations

from brewhouse.platform.pipelines import LocalRun, run_local
from brewhouse.release.settings import Settings

MARKER = "brewhouse: "


def run_promotion(settings: Settings, version: str) -> None:
    """Run the pipeline `promote` with kfp.local for a version with a standing order.

    Raises:
        TamperError: Something is not what was signed.
        LifecycleError: There is no order, or it has expired.
    """
    run_local(
        "promote",
        {"version": version, "home": str(settings.home)},
        LocalRun(out=settings.home, cache_key="promote"),
        marker=MARKER,
    )
