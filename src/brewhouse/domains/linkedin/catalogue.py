"""The items of a simulated world: what is shown, when it appears, how good it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from brewhouse.data.schema import TIMESTAMP
from brewhouse.domains.linkedin import vocabulary as words
from brewhouse.domains.linkedin.world import World

DAY = 86_400_000_000
HOUR = DAY // 24
WARM_UP_DAYS = 29


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """All items, ordered by (kind, day, area); `start[k, d, a]` is the first row of a cell."""

    start: np.ndarray
    count: np.ndarray
    area: np.ndarray
    topic: np.ndarray
    format: np.ndarray
    seniority: np.ndarray
    quality: np.ndarray
    created: np.ndarray
    table: pa.Table

    @property
    def ids(self) -> np.ndarray:
        """Item ids."""
        return self.table.column("item_id").to_numpy(zero_copy_only=False)


def start_micros(world: World) -> int:
    """First moment of a world, microseconds since the epoch."""
    return int(np.datetime64(world.start, "us").astype(np.int64))


def catalogue_of(world: World) -> Catalogue:
    """Draw all items of a world; the same for the same seed, in whatever process."""
    rng = np.random.default_rng([world.seed, 1])
    names = words.made_up_names(world.names, rng)
    zipf = 1 / np.arange(1, len(names) + 1)
    zipf /= zipf.sum()
    days = world.weeks * 7 + WARM_UP_DAYS
    shape = (len(words.KINDS), days, len(words.AREA_NAMES))
    count = np.maximum(1, rng.poisson(world.items_per_cell, shape))
    total = int(count.sum())
    start = np.concatenate([[0], np.cumsum(count.ravel())[:-1]]).reshape(shape)
    kind, day, area = (np.repeat(axis.ravel(), count.ravel()) for axis in np.indices(shape))
    topic = area * words.TOPICS_PER_AREA + rng.integers(words.TOPICS_PER_AREA, size=total)
    formats = np.array([len(words.FORMATS[k]) for k in words.KINDS])[kind]
    item_format = (rng.random(total) * formats).astype(np.int64)
    seniority = rng.integers(len(words.SENIORITIES), size=total)
    created = start_micros(world) + (day - WARM_UP_DAYS) * DAY
    created = created + rng.integers(6 * HOUR, size=total)
    name = rng.choice(len(names), size=total, p=zipf)
    company = rng.choice(len(names), size=total, p=zipf)
    titled = rng.random(total) < 0.35
    quality = rng.normal(0, 1, total)
    # The audience of whoever posted an item hints at its quality; known when it appears.
    reach = np.exp(6 + 1.2 * (0.8 * quality + 0.6 * rng.normal(0, 1, total))).astype(np.int64)
    table = _items_table(
        kind,
        area,
        topic,
        item_format,
        seniority,
        created,
        [names[i].title() if t else "" for i, t in zip(name, titled, strict=True)],
        [names[i].title() for i in company],
        reach,
    )
    return Catalogue(
        start=start,
        count=count,
        area=area,
        topic=topic,
        format=item_format,
        seniority=seniority,
        quality=quality,
        created=created,
        table=table,
    )


def _items_table(
    kind: np.ndarray,
    area: np.ndarray,
    topic: np.ndarray,
    item_format: np.ndarray,
    seniority: np.ndarray,
    created: np.ndarray,
    names: list[str],
    companies: list[str],
    reach: np.ndarray,
) -> pa.Table:
    topic_names = [t for _, t in words.TOPICS]
    kinds = [words.KINDS[k] for k in kind]
    levels = [
        words.SENIORITIES[s] + " " if k in ("job", "person") else ""
        for k, s in zip(kinds, seniority, strict=True)
    ]
    title = [
        f"{level}{topic_names[t]} {name}".strip()
        for level, t, name in zip(levels, topic, names, strict=True)
    ]
    stamp = pa.array(created).cast(pa.timestamp("us")).cast(TIMESTAMP)
    return pa.table(
        {
            "item_id": [f"i{n:08d}" for n in range(len(kind))],
            "valid_from": stamp,
            "created_at": stamp,
            "kind": kinds,
            "title": title,
            "company": companies,
            "format": [words.FORMATS[k][f] for k, f in zip(kinds, item_format, strict=True)],
            "area": [words.AREA_NAMES[a] for a in area],
            "topic": [topic_names[t] for t in topic],
            "reach": reach,
        }
    )
