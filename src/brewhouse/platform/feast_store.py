"""Feast: profiles by point-in-time join, the interaction log by date range, histories online."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from brewhouse.data.schema import interactions_schema
from brewhouse.data.snapshot import Snapshot
from brewhouse.domains.spec import Domain
from brewhouse.files import read_json
from brewhouse.platform.feast_environment import FeastEnvironment
from brewhouse.platform.feast_rows import HISTORY, history_rows, item_facts, items_of
from brewhouse.platform.warehouse import load, schema_of
from brewhouse.prompts.evidence import (
    ItemBook,
    Past,
    Version,
    item_book,
    known_rank,
    merge,
    profile_versions,
)
from brewhouse.prompts.verbalizer import Verbalizer

if TYPE_CHECKING:
    from feast import FeatureStore

ABOUT = "features.json"
"""What a feature folder says of itself."""
ONE_MICROSECOND = timedelta(microseconds=1)
_LOG_COLUMNS = [
    f.name for f in interactions_schema() if f.name not in ("member_id", "event_at", "created_at")
]


class FeastStore:
    """One domain's features in one environment."""

    def __init__(
        self,
        data: Path,
        *,
        domain: Domain,
        domain_path: str,
        env: str = "",
        state: Path | None = None,
        reads_only: bool = False,
    ) -> None:
        """Open the store of an environment.

        Args:
            data: Folder written by `prepare`.
            domain: The domain.
            domain_path: How `load_domain` finds it.
            env: Name of a folder under `feature_repo/environments`; BREWHOUSE_FEAST_ENV, else
                `local`, if empty.
            state: Where local registry and online store lie; `data` by default. A step that reads
                a copy of the data gives a folder of its own and calls `apply`, for a registry
                remembers where its sources were.
            reads_only: Whether the online store is a file there too, so that the environment's
                own is never touched.
        """
        self.data = data.resolve()
        self.domain = domain
        os.environ["BREWHOUSE_DOMAIN"] = domain_path
        os.environ["BREWHOUSE_FEAST_DATA"] = str(self.data)
        os.environ["BREWHOUSE_FEAST_STATE"] = str((state or data).resolve())
        self.environment = FeastEnvironment(env, domain=domain.name)
        self.engine = self.environment.engine
        os.environ["BREWHOUSE_FEAST_ENGINE"] = self.engine
        about = self.data / ABOUT
        if self.engine == "postgres" and about.is_file():
            os.environ["BREWHOUSE_FEAST_TABLES"] = schema_of(read_json(about)["snapshot"])
        self._reads_only, self._state = reads_only, (state or data).resolve()
        self._store: FeatureStore | None = None

    @property
    def store(self) -> FeatureStore:
        """The Feast store, opened at first use; its registry is this process's own."""
        if self._store is None:
            self._store = self.environment.open_own(self._state, reads_only=self._reads_only)
        return self._store

    def prepare(self, snapshot: Snapshot, *, now: datetime, histories: bool = True) -> None:
        """Write what sources read: profiles, items, the log by month, histories.

        Into files; into Postgres where that is the offline store, a schema a snapshot. Tables of
        other warehouses are theirs: whoever fills them fills them from the same snapshot.

        Args:
            snapshot: Of the domain.
            now: Moment that histories hold for.
            histories: Whether they are written; only the online store needs them. A schema in
                Postgres has them always, for it is written once, for whoever comes.
        """
        wanted = histories or self.engine == "postgres"
        kept = self._histories(snapshot, now) if wanted else HISTORY.empty_table()
        if self.engine == "postgres":
            self._load(snapshot, kept)
            return
        if self.engine != "file":
            return
        (self.data / "interactions").mkdir(parents=True, exist_ok=True)
        pq.write_table(snapshot.read("members"), self.data / "members.parquet")
        pq.write_table(items_of(snapshot), self.data / "items.parquet")
        for month in snapshot.months():
            table = snapshot.read("interactions", months=[month])
            pq.write_table(table, self.data / "interactions" / f"{month}.parquet")
        pq.write_table(kept, self.data / "history.parquet")

    def _load(self, snapshot: Snapshot, histories: pa.Table) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        schema = schema_of(snapshot.digest)
        os.environ["BREWHOUSE_FEAST_TABLES"] = schema
        given = self.store.config.offline_store
        connection = {
            "host": given.host,
            "port": given.port,
            "dbname": given.database,
            "user": given.user,
            "password": given.password,
            "sslmode": given.sslmode,
        }
        months = (snapshot.read("interactions", months=[m]) for m in snapshot.months())
        load(
            connection,
            schema,
            {
                "members": [snapshot.read("members")],
                "items": [items_of(snapshot)],
                "interactions": months,
                "history": [histories],
            },
        )

    def apply(self) -> None:
        """Register entities, sources, views and services in this process's own registry."""
        self.store.apply(self.environment.definitions())

    def publish(self) -> None:
        """Register them where servers look, if the environment has such a place.

        Servers read the online store; definitions there tell them what it holds.
        """
        if self.environment.shares_registry:
            self.environment.open().apply(self.environment.definitions())

    def materialize(self, *, until: datetime) -> None:
        """Load profiles, items and histories into the online store."""
        start = datetime(1990, 1, 1, tzinfo=UTC)
        for view in ("member_profile", "item_features", "recent_history"):
            self.store.materialize(
                start_date=start,
                end_date=until + ONE_MICROSECOND,
                feature_views=[view],
                disable_event_timestamp=False,
            )

    def push_history(self, frame: pd.DataFrame) -> None:
        """Push fresh histories online, as a stream processor would."""
        from feast.data_source import PushMode

        self.store.push("history_push", frame, to=PushMode.ONLINE)

    def interactions(self, start: datetime, end: datetime) -> pa.Table:
        """The interaction log with start <= event_at < end, canonical schema, through Feast.

        Reads the registered source whole, for a point-in-time join keeps one row a member.
        """
        view = self.store.get_feature_view("interaction_log")
        job = self.store._get_provider().offline_store.pull_all_from_table_or_query(
            config=self.store.config,
            data_source=view.batch_source,
            join_key_columns=["member_id"],
            feature_name_columns=_LOG_COLUMNS,
            timestamp_field="event_at",
            created_timestamp_column="created_at",
            start_date=start,
            end_date=end - ONE_MICROSECOND,
        )
        table = job.to_arrow()
        columns = [table.column(f.name).cast(f.type) for f in interactions_schema()]
        table = pa.Table.from_arrays(columns, schema=interactions_schema())
        return table.sort_by(
            [(c, "ascending") for c in ("member_id", "event_at", "interaction_id")]
        )

    def profiles_at(self, members: Sequence[str], moments: np.ndarray) -> pd.DataFrame:
        """Profile of each member as it was strictly before each moment, rows in the given order.

        Feast's join takes versions with the very timestamp asked for; asking a microsecond earlier
        makes it strict. The store may return rows in any order, so a row number travels along.

        Args:
            members: Member ids, one a row.
            moments: Microseconds since the epoch, one a row.
        """
        asked = pd.DataFrame(
            {
                "member_id": list(members),
                "event_timestamp": pd.to_datetime(moments - 1, unit="us", utc=True).astype(
                    "datetime64[us, UTC]"
                ),
                "row": np.arange(len(members)),
            }
        )
        names = [f"member_profile:{column}" for column in self.domain.members.columns]
        job = self.store.get_historical_features(entity_df=asked, features=names)
        return job.to_df().sort_values("row", ignore_index=True).drop(columns=["event_timestamp"])

    def online_members(
        self, members: Sequence[str], verbalizer: Verbalizer
    ) -> dict[str, list[Past | Version]]:
        """Evidence about members from the online store, ready for a layout."""
        rows = self.store.get_online_features(
            features=self.store.get_feature_service("ranker_v1"),
            entity_rows=[{"member_id": member} for member in members],
        ).to_dict()
        return {member: _evidence(rows, index, verbalizer) for index, member in enumerate(members)}

    def online_items(self, ids: Sequence[str], verbalizer: Verbalizer) -> ItemBook:
        """Items from the online store, told in the domain's words."""
        if not ids:
            return ItemBook({})
        rows = self.store.get_online_features(
            features=self.store.get_feature_service("ranker_items_v1"),
            entity_rows=[{"item_id": item} for item in ids],
        ).to_dict()
        told = [
            {name: values[i] for name, values in rows.items()}
            | {"created_at": rows["first_seen"][i], "valid_from": rows["first_seen"][i]}
            for i in range(len(ids))
            if rows["first_seen"][i] is not None
        ]
        return item_book(told, verbalizer)

    def _histories(self, snapshot: Snapshot, now: datetime) -> pa.Table:
        """One row a member: newest interactions known at `now`, and all profile versions."""
        parts = []
        lag = self.domain.history.lag
        items = item_facts(snapshot.read("items"), self.domain)
        known = pa.scalar(now, pa.timestamp("us", tz="UTC"))
        for shard in range(snapshot.shards):
            table = snapshot.read("interactions", shards=[shard])
            table = table.filter(
                pc.and_(
                    pc.less(table.column("event_at"), known),
                    pc.less_equal(table.column("created_at"), known),
                )
            )
            members = snapshot.read("members", shards=[shard]).to_pylist()
            parts += history_rows(table, members, items, self.domain, now=now, lag=lag)
        return pa.Table.from_pylist(parts, schema=HISTORY)


def _evidence(
    rows: dict[str, list[Any]], index: int, verbalizer: Verbalizer
) -> list[Past | Version]:
    columns = ("items", "items_created", "surfaces", "actions", "shown_at", "event_at", "logged_at")
    values = [rows[name][index] or [] for name in columns]
    past = [
        Past(
            known_rank(event, logged),
            shown,
            surface,
            action,
            verbalizer.past(json.loads(facts)),
            created,
        )
        for facts, created, surface, action, shown, event, logged in zip(*values, strict=True)
    ]
    versions = [
        json.loads(text) | {"member_id": "", "valid_from": at}
        for at, text in zip(
            rows["profile_from"][index] or [], rows["profiles"][index] or [], strict=True
        )
    ]
    return merge(past, profile_versions(versions, verbalizer).get("", []))
