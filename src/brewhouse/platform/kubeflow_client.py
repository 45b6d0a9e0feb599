"""Signing in to Kubeflow Pipelines."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

TOKEN = "/var/run/secrets/kubeflow/pipelines/token"
"""Where a pod finds its token for Kubeflow Pipelines; renewed there by the kubelet."""


def sdk_client(host: str, namespace: str) -> Any:
    """The SDK's client, with a pod's token or a person's; it asks nothing before its first call.

    Args:
        host: API server of Kubeflow Pipelines.
        namespace: Namespace of the runs where it is multi-user, else empty.
    """
    import warnings

    from kfp.client import Client, ServiceAccountTokenVolumeCredentials
    from kfp_server_api import V2beta1GetHealthzResponse

    class Quick(Client):  # type: ignore[misc]
        def get_kfp_healthz(self, sleep_duration: int = 5) -> Any:
            return V2beta1GetHealthzResponse(multi_user=False)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        # Named, for with a host the SDK looks for no token by itself.
        token = os.environ.get("BREWHOUSE_KFP_TOKEN", "")
        mounted = Path(os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", TOKEN)).is_file()
        return Quick(
            host=host,
            namespace=namespace,
            existing_token=token or None,
            credentials=ServiceAccountTokenVolumeCredentials() if mounted and not token else None,
        )
