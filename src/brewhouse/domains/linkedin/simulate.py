"""Draws a simulated world as raw tables: in parallel by chunks of members, same seed same bytes.

Suffixes: _M members of a chunk, _S sessions, _N impressions, _A actions, _W weeks.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from brewhouse.data.schema import (
    INTERACTIONS,
    LOGGED,
    TIMESTAMP,
    conform,
    interactions_schema,
    oracle_schema,
)
from brewhouse.domains.linkedin import vocabulary as words
from brewhouse.domains.linkedin.catalogue import (
    DAY,
    HOUR,
    WARM_UP_DAYS,
    Catalogue,
    catalogue_of,
    start_micros,
)
from brewhouse.domains.linkedin.world import (
    ACTION_NAMES,
    MAX_FORMATS,
    SURFACE_NAMES,
    SURFACES,
    World,
    law_tables,
)
from brewhouse.files import atomic_dir, write_json

SECOND = 1_000_000


def simulate(world: World, target: Path, *, workers: int = 2) -> Path:
    """Write the raw tables of a world into `target` and return it.

    Files: `members/`, `interactions/` and `oracle/` with one Parquet part a chunk, `items.parquet`,
    `world.json`. The bytes depend on the world alone, not on the number of workers.
    """
    chunks = range(-(-world.members // world.chunk))
    with atomic_dir(target) as scratch:
        for name in ("members", "interactions", "oracle"):
            (scratch / name).mkdir()
        pq.write_table(catalogue_of(world).table, scratch / "items.parquet", compression="zstd")
        work = partial(_write_chunk, world, scratch)
        if workers > 1 and len(chunks) > 1:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                list(pool.map(work, chunks))
        else:
            for chunk in chunks:
                work(chunk)
        write_json(scratch / "world.json", world.describe())
    return target


@dataclass(frozen=True, kw_only=True)
class People:
    """Members of a chunk, with what they show (profile per week) and what they hide (tastes)."""

    ids: np.ndarray
    joined_day: np.ndarray
    country: np.ndarray
    area_MW: np.ndarray
    topic_MW: np.ndarray
    skill_MW: np.ndarray
    seniority_MW: np.ndarray
    changed_MW: np.ndarray
    seen_MA: np.ndarray
    taste_MWA: np.ndarray
    taste_format_MKF: np.ndarray
    rate: np.ndarray
    surface_cdf: np.ndarray


def _people(world: World, chunk: int, rng: np.random.Generator) -> People:
    first = chunk * world.chunk
    m, weeks, areas = min(world.chunk, world.members - first), world.weeks, len(words.AREA_NAMES)
    late = rng.random(m) < world.late_join_share
    joined = np.where(late, rng.integers(0, weeks * 7 - 3, m), 0)
    changed = rng.random((m, weeks)) < world.role_change_per_week
    changed[:, 0] = True
    version = np.cumsum(changed, axis=1) - 1
    roles = rng.integers(len(words.TOPICS), size=(m, int(version.max()) + 1))
    skills = rng.integers(words.TOPICS_PER_AREA, size=roles.shape)
    levels = rng.integers(len(words.SENIORITIES), size=roles.shape)
    rows = np.arange(m)[:, None]
    topic = roles[rows, version]
    area = topic // words.TOPICS_PER_AREA
    flips = rng.random((m, weeks, areas)) < world.taste_flip_per_week
    first_taste = rng.choice(np.array([-1.0, 1.0]), size=(m, 1, areas))
    seen = np.tile(np.arange(areas), (m, 1))
    if world.areas_seen < areas:
        seen = np.argsort(rng.random((m, areas)), axis=1)
    if world.tastes_balanced:
        half = np.where(np.arange(areas) % 2, 1.0, -1.0)
        np.put_along_axis(first_taste[:, 0], seen, np.tile(half, (m, 1)), axis=1)
    taste = first_taste * np.where(np.cumsum(flips, axis=1) % 2, -1.0, 1.0)
    share = np.array([law.share for law in SURFACES.values()])
    weight = share * rng.lognormal(0, 0.5, (m, len(share)))
    return People(
        ids=np.arange(first, first + m),
        joined_day=joined,
        country=rng.choice(len(words.COUNTRIES), size=m, p=list(words.COUNTRIES.values())),
        area_MW=area,
        topic_MW=topic,
        skill_MW=area * words.TOPICS_PER_AREA + skills[rows, version],
        seniority_MW=levels[rows, version],
        changed_MW=changed,
        seen_MA=seen,
        taste_MWA=taste,
        taste_format_MKF=rng.choice(np.array([-1.0, 1.0]), size=(m, len(words.KINDS), MAX_FORMATS)),
        rate=world.sessions_per_week * rng.lognormal(-0.125, 0.5, m),
        surface_cdf=np.cumsum(weight / weight.sum(1, keepdims=True), axis=1),
    )


def _members_table(world: World, people: People) -> pa.Table:
    member, week = np.nonzero(people.changed_MW)
    start = start_micros(world)
    changed_at = start + week * 7 * DAY + 3 * HOUR
    joined_at = start + people.joined_day[member] * DAY
    # A version counts from the later of its week and the day the member joined; of several that
    # precede joining only the last is visible.
    valid = np.maximum(changed_at, joined_at)
    last = np.ones(len(member), bool)
    last[:-1] = (member[1:] != member[:-1]) | (valid[1:] != valid[:-1])
    member, week, valid = member[last], week[last], valid[last]
    topics = np.array([t for _, t in words.TOPICS], dtype=object)
    return pa.table(
        {
            "member_id": [f"m{people.ids[m]:07d}" for m in member],
            "valid_from": pa.array(valid).cast(pa.timestamp("us")).cast(TIMESTAMP),
            "country": [list(words.COUNTRIES)[people.country[m]] for m in member],
            "seniority": [words.SENIORITIES[s] for s in people.seniority_MW[member, week]],
            "role": topics[people.topic_MW[member, week]].tolist(),
            "area": [words.AREA_NAMES[a] for a in people.area_MW[member, week]],
            "skill": topics[people.skill_MW[member, week]].tolist(),
        }
    )


@dataclass(frozen=True, kw_only=True)
class Visits:
    """Impressions of a chunk, in time order per member."""

    member: np.ndarray
    week: np.ndarray
    surface: np.ndarray
    session: np.ndarray
    shown_at: np.ndarray
    day: np.ndarray


def _visits(world: World, people: People, rng: np.random.Generator) -> Visits:
    m = len(people.ids)
    burst = rng.gamma(0.8, 1 / 0.8, (m, world.weeks))
    sessions = rng.poisson(people.rate[:, None] * burst)
    member, week = (np.repeat(a.ravel(), sessions.ravel()) for a in np.indices(sessions.shape))
    day = week * 7 + rng.integers(7, size=len(member))
    clock = 7 * HOUR + (rng.beta(2, 2, len(member)) * 16 * HOUR).astype(np.int64)
    keep = day > people.joined_day[member]
    member, week, day, clock = (a[keep] for a in (member, week, day, clock))
    pick = rng.random(len(member))
    surface = (people.surface_cdf[member] < pick[:, None]).sum(1).clip(max=len(SURFACE_NAMES) - 1)
    order = np.lexsort((clock, day, member))
    member, week, day, clock, surface = (a[order] for a in (member, week, day, clock, surface))
    length = rng.integers(3, 9, len(member))
    session = np.repeat(np.arange(len(member)), length)
    within = np.arange(len(session)) - np.repeat(np.cumsum(length) - length, length)
    shown = start_micros(world) + day * DAY + clock
    return Visits(
        member=member[session],
        week=week[session],
        surface=surface[session],
        session=session,
        shown_at=shown[session]
        + within * 40 * SECOND
        + rng.integers(30 * SECOND, size=len(session)),
        day=day[session],
    )


def _shown_items(
    world: World, people: People, visits: Visits, items: Catalogue, rng: np.random.Generator
) -> np.ndarray:
    n = len(visits.member)
    kind_of = np.array([words.KINDS.index(law.kind) for law in SURFACES.values()])
    kind = kind_of[visits.surface]
    own = rng.random(n) < 0.35
    area = np.where(
        own, people.area_MW[visits.member, visits.week], rng.integers(len(words.AREA_NAMES), size=n)
    )
    if world.areas_seen < len(words.AREA_NAMES):
        area = people.seen_MA[visits.member, rng.integers(world.areas_seen, size=n)]
    age = np.minimum(rng.exponential(5.0, n).astype(np.int64), WARM_UP_DAYS - 1)
    day = visits.day + WARM_UP_DAYS - age
    cell = kind, day, area
    return items.start[cell] + (items.count[cell] * rng.random(n) ** 2).astype(np.int64)


def shift_factor(world: World, week: np.ndarray) -> np.ndarray:
    """What a match counts for in a week, times what it counts for at first."""
    if not world.shift_week:
        return np.ones(len(week))
    ramp = (week - world.shift_week + 1) / max(1, world.shift_ramp_weeks)
    return 1 + (world.shift_match - 1) * np.clip(ramp, 0.0, 1.0)


def _utilities(
    world: World, people: People, visits: Visits, items: Catalogue, item: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Utility with and without what only history shows. Shapes (N,)."""
    m, w = visits.member, visits.week
    kind_of = np.array([words.KINDS.index(law.kind) for law in SURFACES.values()])
    kind = kind_of[visits.surface]
    match = shift_factor(world, w)
    visible = world.match_area * match * (items.area[item] == people.area_MW[m, w])
    topic = items.topic[item]
    visible = visible + world.match_topic * match * (
        (topic == people.topic_MW[m, w]) | (topic == people.skill_MW[m, w])
    )
    is_job = kind == words.KINDS.index("job")
    near = np.abs(items.seniority[item] - people.seniority_MW[m, w]) <= 1
    visible = visible + world.match_seniority * match * np.where(is_job, near - 0.5, 0.0)
    visible = visible + world.quality * items.quality[item] - 0.5
    hidden = world.taste_area * people.taste_MWA[m, w, items.area[item]]
    hidden = hidden + world.taste_format * people.taste_format_MKF[m, kind, items.format[item]]
    return visible + hidden, visible


def _probabilities(visits: Visits, utility: np.ndarray) -> np.ndarray:
    """Softmax over the actions of each impression's surface. Shape (N, A)."""
    base, slope = law_tables()
    drift = np.array([law.drift_per_week for law in SURFACES.values()])
    logits = base[visits.surface] + slope[visits.surface] * utility[:, None]
    logits[:, 1:] += (drift[visits.surface] * visits.week)[:, None]
    logits -= logits.max(1, keepdims=True)
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True)


def _write_chunk(world: World, target: Path, chunk: int) -> None:
    rng = np.random.default_rng([world.seed, 2, chunk])
    items = catalogue_of(world)
    people = _people(world, chunk, rng)
    visits = _visits(world, people, rng)
    item = _shown_items(world, people, visits, items, rng)
    full, visible = _utilities(world, people, visits, items, item)
    p_full, p_visible = _probabilities(visits, full), _probabilities(visits, visible)
    draw = rng.random(len(item))
    action = (np.cumsum(p_full, axis=1) < draw[:, None]).sum(1).clip(max=len(ACTION_NAMES) - 1)

    n = len(item)
    # An item passed over is logged like one acted on. Were it known only when the session ends, the
    # order of becoming known would tell the labels of session-mates (docs/adr/0009).
    delay = rng.integers(2 * SECOND, 120 * SECOND, n)
    event_at = visits.shown_at + delay
    late = rng.random(n) < world.late_log_share
    lag = np.where(late, rng.integers(HOUR, 72 * HOUR, n), rng.integers(60 * SECOND, size=n))

    def stamp(micros: np.ndarray) -> pa.Array:
        return pa.array(micros).cast(pa.timestamp("us")).cast(TIMESTAMP)

    ids = [f"x{chunk:04d}{n:07d}" for n in range(n)]
    raw = pa.table(
        {
            "interaction_id": ids,
            "member_id": [f"m{people.ids[m]:07d}" for m in visits.member],
            "item_id": items.ids[item].tolist(),
            "surface": [SURFACE_NAMES[s] for s in visits.surface],
            "action": [ACTION_NAMES[a] for a in action],
            "session_id": [f"s{chunk:04d}{s:07d}" for s in visits.session],
            "shown_at": stamp(visits.shown_at),
            "event_at": stamp(event_at),
            "created_at": stamp(event_at + lag),
            "origin": [LOGGED] * n,
            "weight": pa.array(np.ones(n), INTERACTIONS["weight"]),
        }
    )
    interactions = conform(raw, interactions_schema(), name="interactions")
    rows, columns = np.nonzero(p_full > 0)
    oracle = conform(
        pa.table(
            {
                "interaction_id": np.array(ids, dtype=object)[rows].tolist(),
                "action": [ACTION_NAMES[a] for a in columns],
                "probability": p_full[rows, columns],
                "probability_without_history": p_visible[rows, columns],
            }
        ),
        oracle_schema(),
        name="oracle",
    )
    parts = {
        "members": _members_table(world, people),
        "interactions": interactions,
        "oracle": oracle,
    }
    for name, table in parts.items():
        pq.write_table(table, target / name / f"part-{chunk:05d}.parquet", compression="zstd")
