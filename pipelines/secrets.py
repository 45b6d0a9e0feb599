"""Where steps of a cluster find decisions and keys; on one machine a home folder says it."""

from kfp import dsl, kubernetes

NAMES = (
    "BREWHOUSE_APPROVALS",
    "BREWHOUSE_DATABASE_URI",
    "BREWHOUSE_EVIDENTLY_WORKSPACE",
    "BREWHOUSE_KFP_HOST",
    "BREWHOUSE_KFP_NAMESPACE",
    "BREWHOUSE_KFP_PIPELINE_ROOT",
    "BREWHOUSE_KFP_SERVICE_ACCOUNT",
    "BREWHOUSE_MODEL_NAME",
    "BREWHOUSE_SIGNING_KEY",
    "BREWHOUSE_TRACKING_URI",
    "BREWHOUSE_TRUSTED_KEYS",
)


def with_secrets(task: dsl.PipelineTask) -> None:
    """Hand the secrets `brewhouse-release` and `brewhouse-signing-key` to a step."""
    kubernetes.use_secret_as_env(
        task, "brewhouse-release", {name: name for name in NAMES}, optional=True
    )
    kubernetes.use_secret_as_volume(
        task, "brewhouse-signing-key", mount_path="/etc/brewhouse/keys", optional=True
    )
