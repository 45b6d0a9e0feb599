"""Starts the promote run: in Kubeflow Pipelines where one is named, else on this machine."""

from __future__ import annotations

import sys

from brewhouse.errors import BrewhouseError, LifecycleError
from brewhouse.platform.kubeflow import Kubeflow, Place
from brewhouse.platform.kubeflow_orders import Order
from brewhouse.platform.pipelines import LocalRun, run_local
from brewhouse.registry.lifecycle import Act
from brewhouse.release.settings import Settings
from brewhouse.release.versions import Version

MARKER = "brewhouse: "
EXPERIMENT = "promote"


def say(line: str) -> None:
    """A line of progress, for people."""
    sys.stderr.write(f"{MARKER}{line}\n")


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


def submit_promotion(settings: Settings, version: Version) -> str:
    """Submit the pipeline `promote` to Kubeflow Pipelines; return the run's id.

    The order's number is part of the run's name, so that one order starts one run however often
    this is called.

    Raises:
        LifecycleError: Nobody ordered it.
    """
    last = version.entries[-1]
    if last.act != Act.ORDER:
        msg = f"version {version.version} is {version.state} and nobody ordered its promotion"
        raise LifecycleError(msg)
    order = Order(
        pipeline="promote",
        arguments={"version": version.version},
        run_name=f"{version.model}-{version.version}-order-{last.number}",
        experiment=EXPERIMENT,
    )
    return Kubeflow(Place.read(settings.kfp_host), tell=say).submit(order).id


def main(arguments: list[str]) -> int:
    """Entry point of the process in which a console runs a promotion: VERSION HOME."""
    version, home = arguments
    try:
        run_promotion(Settings.read(home), version)
    except BrewhouseError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
