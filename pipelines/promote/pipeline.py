"""From an order to promote to the version in use."""

from brewhouse.components.promote.component import promote as promote_step
from brewhouse.pipelines.placing import placed
from brewhouse.pipelines.secrets import with_secrets, with_store
from kfp import dsl


@dsl.pipeline(
    name="promote",
    description="Verify an ordered version and move the champion's alias to it.",
)
def promote(version: str, home: str = ""):
    """Promote, or roll back to, one version that a releaser ordered.

    Args:
        version: Version.
        home: Folder of registry, ledger and keys; in a cluster secrets name them.
    """
    done = promote_step(version=version, home=home)
    done.set_caching_options(False)
    done.set_cpu_request("1").set_cpu_limit("1").set_memory_request("4Gi").set_memory_limit("4Gi")
    with_secrets(with_store(placed(done, "promote")))
