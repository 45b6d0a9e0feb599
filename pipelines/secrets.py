"""Where steps of a cluster find decisions, keys, features and the keys of an object store.

On one machine a folder says it.
"""

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
FEATURES = (
    "BREWHOUSE_FEAST_ENV",
    "BREWHOUSE_FEAST_PG_DATABASE",
    "BREWHOUSE_FEAST_PG_HOST",
    "BREWHOUSE_FEAST_PG_PASSWORD",
    "BREWHOUSE_FEAST_PG_PORT",
    "BREWHOUSE_FEAST_PG_SSLMODE",
    "BREWHOUSE_FEAST_PG_USER",
    "BREWHOUSE_FEAST_REDIS",
    "BREWHOUSE_FEAST_REGISTRY",
    "BREWHOUSE_FEAST_TABLES",
    "BREWHOUSE_SPARK_MASTER",
)
STORE = (
    "AWS_ACCESS_KEY_ID",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "AWS_SECRET_ACCESS_KEY",
)


def with_secrets(task: dsl.PipelineTask) -> None:
    """Hand the secrets `brewhouse-release` and `brewhouse-signing-key` to a step."""
    kubernetes.use_secret_as_env(
        task, "brewhouse-release", {name: name for name in NAMES}, optional=True
    )
    kubernetes.use_secret_as_volume(
        task, "brewhouse-signing-key", mount_path="/etc/brewhouse/keys", optional=True
    )


def with_features(task: dsl.PipelineTask) -> None:
    """Hand the secret `brewhouse-feast` to a step that fills the feature store or reads it."""
    kubernetes.use_secret_as_env(
        task, "brewhouse-feast", {name: name for name in FEATURES}, optional=True
    )


def with_store(task: dsl.PipelineTask) -> dsl.PipelineTask:
    """Hand the secret `brewhouse-store` to a step that reads or writes an object store.

    It is for stores that know no workload identity, as those on premises.
    """
    kubernetes.use_secret_as_env(
        task, "brewhouse-store", {name: name for name in STORE}, optional=True
    )
    return task
