"""Step 0: what the run will need is looked at before anything is computed, or a GPU is paid for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from brewhouse.errors import PreflightError
from brewhouse.files import write_json
from brewhouse.platform import preflight, services
from brewhouse.platform.capacity import ClusterNeeds
from brewhouse.platform.checks import Check, State
from brewhouse.platform.trainjob import ClusterSpec
from brewhouse.release.settings import Settings
from brewhouse.stages.common import tell

TRAINER = "trainer"


def run(
    *,
    launcher: str,
    cluster: Mapping[str, Any],
    model_store: str,
    home: str,
    tracking_uri: str,
    report_out: Path,
) -> list[Check]:
    """Check services, and the cluster where training goes there.

    Args:
        launcher: `trainer` where training is a TrainJob.
        cluster: Fields of `ClusterSpec`.
        model_store: Folder or URI that keeps registered versions.
        home: Folder of registry and keys, as for `Settings.read`.
        tracking_uri: MLflow, in place of the settings' own.
        report_out: JSON file of what was found.

    Raises:
        PreflightError: Something is missing that the run would fail for.
    """
    settings = Settings.read(home)
    found = list(
        services.examine(
            kfp_host=settings.kfp_host,
            tracking_uri=tracking_uri or settings.tracking_uri,
            database_uri=settings.database_uri,
            signing_key="" if settings.embedded else str(settings.signing_key),
            store=model_store,
            trusted_keys=str(settings.trusted_keys),
        )
    )
    if launcher == TRAINER:
        found += preflight.examine(needs_of(ClusterSpec.parse(dict(cluster))))
    write_json(report_out, [asdict(check) for check in found])
    for check in found:
        if check.state is not State.OK:
            tell(f"{check.state}: {check.name}: {check.value}; {check.remedy}")
    refuse(found)
    tell(f"preflight: {len(found)} checks, nothing is missing")
    return found


def needs_of(spec: ClusterSpec) -> ClusterNeeds:
    """What a training job needs of its cluster; asked as the account that the step runs under."""
    return ClusterNeeds(
        namespace=spec.namespace,
        impersonate=False,
        nodes=spec.nodes,
        gpus=spec.nodes * spec.processes_per_node if spec.gpu_resource else 0,
        gpu_resource=spec.gpu_resource or "nvidia.com/gpu",
        cpu=spec.cpu,
        memory=spec.memory,
        runtime=spec.runtime,
        queue=spec.queue,
        claim=spec.claim,
        address=spec.address,
    )


def refuse(found: list[Check]) -> None:
    """Raise what is missing, all of it at once.

    Raises:
        PreflightError: Something is.
    """
    if lines := list(_missing(found)):
        msg = f"{len(lines)} of {len(found)} checks failed, nothing was started:\n  " + "\n  ".join(
            lines
        )
        raise PreflightError(msg)


def _missing(found: list[Check]) -> Iterator[str]:
    for check in found:
        if check.state is State.MISSING:
            yield f"{check.name}: {check.value}; {check.remedy}"
