"""Step 3: snapshot -> Feast's offline store."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from brewhouse.data.snapshot import Snapshot
from brewhouse.data.splits import parse_day
from brewhouse.domains.loader import load_domain
from brewhouse.files import write_json
from brewhouse.platform.feast_store import ABOUT as ABOUT
from brewhouse.platform.feast_store import FeastStore
from brewhouse.stages.common import note_lineage, tell


def run(
    *,
    domain: str,
    snapshot: Path,
    features_out: Path,
    now: str = "",
    env: str = "",
    histories: bool = False,
    publish_to: str = "",
) -> FeastStore:
    """Fill the offline store from a snapshot.

    Args:
        domain: Built-in name or folder.
        snapshot: Snapshot folder.
        features_out: Folder for file sources and a registry.
        now: Moment that histories hold for; by default just after the newest log entry.
        env: Environment of the feature repo; that of BREWHOUSE_FEAST_ENV if empty.
        histories: Whether each member's history at that moment is written, which `publishing` loads
            into the online store; training and evaluation do not read it.
        publish_to: Run folder.
    """
    folder = load_domain(domain)
    cut = Snapshot.open(snapshot)
    newest = pc.max(
        cut.read("interactions", columns=["created_at"], months=cut.months()[-2:]).column(
            "created_at"
        )
    ).as_py()
    moment = parse_day(now) if now else newest
    store = FeastStore(features_out, domain=folder.domain, domain_path=domain, env=env)
    store.prepare(cut, now=moment, histories=histories)
    store.apply()
    write_json(
        features_out / ABOUT,
        {
            "schema_version": 1,
            "snapshot": cut.digest,
            "as_of": moment.isoformat(),
            "histories": histories,
        },
    )
    tell(f"offline store holds {folder.domain.name} as of {moment:%Y-%m-%d %H:%M}")
    note_lineage(
        publish_to, "build_features", {"snapshot": cut.digest, "as_of": moment.isoformat()}
    )
    return store
