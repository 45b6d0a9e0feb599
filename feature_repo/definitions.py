"""Feast definitions: entities, sources, views and the service the ranker reads.

One set of definitions for every environment; `environments/<name>/feature_store.yaml` says where
the stores are. The domain decides the columns. Variables are read when the file is loaded:
BREWHOUSE_DOMAIN (a built-in name or a folder), BREWHOUSE_FEAST_DATA (folder written by the
`features` step), and, where the offline store is a warehouse, BREWHOUSE_FEAST_ENGINE (`postgres`,
`spark`, `trino` or `bigquery`) and BREWHOUSE_FEAST_TABLES (schema or dataset of its tables).
Environments name their project after BREWHOUSE_FEAST_DOMAIN, the domain's name: an online store and
a registry hold several domains side by side.
"""

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource
from feast.data_format import ParquetFormat
from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from brewhouse.domains.loader import load_domain

DOMAIN = load_domain(os.environ.get("BREWHOUSE_DOMAIN", "linkedin")).domain
DATA = os.environ.get("BREWHOUSE_FEAST_DATA", "data").rstrip("/")
ENGINE = os.environ.get("BREWHOUSE_FEAST_ENGINE", "file")
TABLES = os.environ.get("BREWHOUSE_FEAST_TABLES", "brewhouse")
# A profile or an item never expires: the newest version before the moment holds however old it is.
FOREVER = timedelta(days=365 * 200)
TYPES = {
    "string": String,
    "integer": Int64,
    "number": Float64,
    "boolean": Bool,
    "timestamp": UnixTimestamp,
}


def _fields(columns):
    return [Field(name=name, dtype=TYPES[column.type]) for name, column in columns.items()]


def _source(name, files, table, timestamp, created=""):
    """A table where this environment keeps it: Parquet files, or a table of the warehouse."""
    told = {"name": name, "timestamp_field": timestamp, "created_timestamp_column": created}
    place = f"{TABLES}.{table}"
    if ENGINE == "file":
        return FileSource(path=f"{DATA}/{files}", file_format=ParquetFormat(), **told)
    # Each brings a client of its own: only the one that is used is imported.
    if ENGINE == "postgres":
        from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import (
            PostgreSQLSource,
        )

        return PostgreSQLSource(table=place, **told)
    if ENGINE == "spark":
        from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

        return SparkSource(table=place, **told)
    if ENGINE == "trino":
        from feast.infra.offline_stores.contrib.trino_offline_store.trino_source import TrinoSource

        return TrinoSource(table=place, **told)
    if ENGINE == "bigquery":
        from feast import BigQuerySource

        return BigQuerySource(table=place, **told)
    known = "file, postgres, spark, trino, bigquery"
    msg = f"BREWHOUSE_FEAST_ENGINE '{ENGINE}' is unknown; use one of {known}"
    raise ValueError(msg)


member = Entity(name="member", join_keys=["member_id"], value_type=ValueType.STRING)
item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)

profile_source = _source("profiles", "members.parquet", "members", "valid_from")
item_source = _source("items", "items.parquet", "items", "valid_from")
# Read by date range as a log, never joined: a join would keep one row a member.
interaction_source = _source(
    "interactions", "interactions/*.parquet", "interactions", "event_at", "created_at"
)
history_source = _source("history_batch", "history.parquet", "history", "as_of")
# The stream that keeps histories fresh between batches pushes to this source.
history_push = PushSource(name="history_push", batch_source=history_source)

member_profile = FeatureView(
    name="member_profile",
    entities=[member],
    ttl=FOREVER,
    schema=_fields(DOMAIN.members.columns),
    source=profile_source,
    tags={"domain": DOMAIN.name},
)
item_features = FeatureView(
    name="item_features",
    entities=[item],
    ttl=FOREVER,
    # `first_seen` is the item's own creation time: Feast's created timestamp is another thing.
    schema=[
        Field(name="kind", dtype=String),
        Field(name="first_seen", dtype=Int64),
        *_fields(DOMAIN.items.columns),
    ],
    source=item_source,
    tags={"domain": DOMAIN.name},
)
interaction_log = FeatureView(
    name="interaction_log",
    entities=[member],
    ttl=FOREVER,
    schema=[
        Field(name=name, dtype=String)
        for name in ("interaction_id", "item_id", "surface", "action", "session_id", "origin")
    ],
    source=interaction_source,
    online=False,
    tags={"domain": DOMAIN.name},
)
recent_history = FeatureView(
    name="recent_history",
    entities=[member],
    ttl=FOREVER,
    schema=[
        *(Field(name=n, dtype=Array(String)) for n in ("item_ids", "items", "surfaces", "actions")),
        *(
            Field(name=n, dtype=Array(Int64))
            for n in ("shown_at", "event_at", "logged_at", "items_created")
        ),
        Field(name="profile_from", dtype=Array(Int64)),
        Field(name="profiles", dtype=Array(String)),
    ],
    source=history_push,
    tags={"domain": DOMAIN.name},
)

ranker_v1 = FeatureService(
    name="ranker_v1",
    features=[member_profile, recent_history],
    description="What a prompt says about a member: profile and recent history",
)
ranker_items_v1 = FeatureService(
    name="ranker_items_v1",
    features=[item_features],
    description="What a prompt says about a candidate or past item",
)
