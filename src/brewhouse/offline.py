"""Switches off telemetry, hub traffic and progress bars of libraries before they are imported."""

from __future__ import annotations

import os

_QUIET = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "False",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "FEAST_USAGE": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def silence() -> None:
    """Set the opt-out variables of all vendors; a value the operator has set stays."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
