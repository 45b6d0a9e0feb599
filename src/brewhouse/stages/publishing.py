"""Feast's offline store -> its online store and the registry that servers read.

A step of its own, and never taken from a cache: what the online store holds is no input of it.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from brewhouse.domains.loader import load_domain
from brewhouse.errors import DataError
from brewhouse.files import read_json
from brewhouse.platform.feast_store import ABOUT, FeastStore
from brewhouse.stages.common import note_lineage, tell


def run(
    *, domain: str, features: Path, out: Path, env: str = "", publish_to: str = ""
) -> FeastStore:
    """Load profiles, items and histories online, and register definitions where servers look.

    Args:
        domain: Built-in name or folder.
        features: Folder written by `features.run`, with histories.
        out: Folder for this step's registry, and for the online store where that is a file.
        env: Environment of the feature repo; that of BREWHOUSE_FEAST_ENV if empty.
        publish_to: Run folder.

    Raises:
        DataError: The features were built without histories.
    """
    about = read_json(features / ABOUT)
    if not about["histories"]:
        msg = (
            f"{features} holds no histories, which the online store needs; build the features "
            "again with online = true"
        )
        raise DataError(msg)
    spec = load_domain(domain).domain
    store = FeastStore(features, domain=spec, domain_path=domain, env=env, state=out)
    store.apply()
    store.materialize(until=datetime.fromisoformat(about["as_of"]))
    store.publish()
    tell(f"feature service ranker_v1 of {spec.name} serves what was known at {about['as_of']}")
    note_lineage(
        publish_to,
        "publish_features",
        {"snapshot": about["snapshot"], "as_of": about["as_of"]},
    )
    return store
