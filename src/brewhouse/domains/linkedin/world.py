"""The laws of the simulated network: sizes, behaviour, drift, the utility behind every action."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from brewhouse.domains.linkedin.vocabulary import AREA_NAMES, FORMATS
from brewhouse.errors import ConfigError

NONE = "none"


@dataclass(frozen=True, kw_only=True)
class ActionLaw:
    """Log-odds of an action against `none`: `base + slope * utility`."""

    base: float
    slope: float


@dataclass(frozen=True, kw_only=True)
class SurfaceLaw:
    """What a surface shows, how often it is visited, and what members do there."""

    kind: str
    share: float
    actions: Mapping[str, ActionLaw]
    drift_per_week: float = 0.0


def _law(base: float, slope: float) -> ActionLaw:
    return ActionLaw(base=base, slope=slope)


SURFACES: dict[str, SurfaceLaw] = {
    "jobs": SurfaceLaw(
        kind="job",
        share=0.16,
        actions={
            "viewed": _law(-0.9, 0.9),
            "saved": _law(-2.2, 1.2),
            "applied": _law(-2.0, 1.5),
            "dismissed": _law(-1.9, -1.1),
        },
    ),
    "job_search": SurfaceLaw(
        kind="job",
        share=0.09,
        actions={"viewed": _law(-0.4, 0.9), "saved": _law(-2.0, 1.2), "applied": _law(-1.6, 1.5)},
    ),
    "feed": SurfaceLaw(
        kind="post",
        share=0.24,
        drift_per_week=-0.006,
        actions={
            "clicked": _law(-1.3, 1.0),
            "liked": _law(-1.4, 1.3),
            "commented": _law(-2.7, 1.3),
            "shared": _law(-2.9, 1.4),
            "hidden": _law(-2.3, -1.2),
        },
    ),
    "notifications": SurfaceLaw(
        kind="post", share=0.09, actions={"clicked": _law(-0.8, 1.1), "dismissed": _law(-1.2, -0.9)}
    ),
    "people": SurfaceLaw(
        kind="person",
        share=0.09,
        actions={
            "viewed": _law(-1.2, 0.8),
            "invited": _law(-1.5, 1.3),
            "dismissed": _law(-1.8, -1.0),
        },
    ),
    "companies": SurfaceLaw(
        kind="company", share=0.06, actions={"viewed": _law(-1.1, 0.9), "followed": _law(-1.5, 1.3)}
    ),
    "events": SurfaceLaw(
        kind="event",
        share=0.06,
        actions={
            "viewed": _law(-1.2, 0.9),
            "saved": _law(-2.1, 1.2),
            "registered": _law(-1.8, 1.4),
        },
    ),
    "ads": SurfaceLaw(
        kind="ad",
        share=0.07,
        drift_per_week=0.004,
        actions={"clicked": _law(-1.7, 1.2), "saved": _law(-2.7, 1.2), "hidden": _law(-1.6, -1.1)},
    ),
    "learning": SurfaceLaw(
        kind="course",
        share=0.04,
        actions={
            "viewed": _law(-1.0, 0.9),
            "saved": _law(-1.8, 1.2),
            "registered": _law(-1.8, 1.4),
        },
    ),
    "newsletters": SurfaceLaw(
        kind="newsletter",
        share=0.04,
        actions={"clicked": _law(-1.1, 1.1), "followed": _law(-1.6, 1.3)},
    ),
    "groups": SurfaceLaw(
        kind="group", share=0.03, actions={"viewed": _law(-1.0, 0.9), "followed": _law(-1.6, 1.3)}
    ),
    "job_alerts": SurfaceLaw(
        kind="job",
        share=0.03,
        actions={"viewed": _law(-0.8, 0.9), "saved": _law(-2.1, 1.2), "applied": _law(-1.9, 1.5)},
    ),
}
SURFACE_NAMES = tuple(SURFACES)
ACTION_NAMES = (NONE, *sorted({a for law in SURFACES.values() for a in law.actions}))
MAX_FORMATS = max(len(formats) for formats in FORMATS.values())


@dataclass(frozen=True, kw_only=True)
class World:
    """Size, seed and behavioural constants of one simulated world.

    Attributes:
        members, weeks, seed: Size.
        areas_seen: Areas whose items a member is shown; with fewer than all, tastes are all there
            is to learn. For curricula.
        tastes_balanced: Whether a member likes one half of those and dislikes the other, so that
            its mean tells nothing.
        shift_week: Week from which members value what matches their profile otherwise; 0 for never.
        shift_ramp_weeks: Weeks that the change takes.
        shift_match: What matches count for in the end, times what they counted for before.
    """

    members: int
    weeks: int
    seed: int
    sessions_per_week: float = 1.6
    items_per_cell: float = 1.5
    names: int = 600
    start: str = "2024-01-01"
    chunk: int = 500
    match_area: float = 1.1
    match_topic: float = 0.7
    match_seniority: float = 0.5
    taste_area: float = 1.1
    taste_format: float = 0.7
    quality: float = 0.4
    taste_flip_per_week: float = 0.01
    areas_seen: int = len(AREA_NAMES)
    tastes_balanced: bool = False
    role_change_per_week: float = 0.006
    late_join_share: float = 0.3
    late_log_share: float = 0.04
    shift_week: int = 0
    shift_ramp_weeks: int = 0
    shift_match: float = 1.0

    def describe(self) -> dict[str, Any]:
        """JSON form: the truth that evaluation and drift studies compare against."""
        return asdict(self) | {
            "surfaces": {name: asdict(law) for name, law in SURFACES.items()},
            "areas": list(AREA_NAMES),
        }


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"members": 160, "weeks": 12, "names": 120},
    "demo": {"members": 4000, "weeks": 18},
    "study": {"members": 3000, "weeks": 26},
    "drift": {
        "members": 1500,
        "weeks": 26,
        "shift_week": 14,
        "shift_ramp_weeks": 8,
        "shift_match": -1.0,
    },
    "pretrain": {"members": 20_000, "weeks": 18},
    "bench": {"members": 60_000, "weeks": 22, "sessions_per_week": 2.0, "names": 2000},
}


def preset(name: str, *, seed: int) -> World:
    """Return a named world.

    Raises:
        ConfigError: Unknown preset.
    """
    if name not in PRESETS:
        msg = f"unknown preset '{name}'; choose one of {', '.join(PRESETS)}"
        raise ConfigError(msg)
    return World(seed=seed, **PRESETS[name])


def law_tables() -> tuple[np.ndarray, np.ndarray]:
    """Base and slope per (surface, action); impossible actions have base -inf. Shape (S, A)."""
    base = np.full((len(SURFACE_NAMES), len(ACTION_NAMES)), -np.inf)
    slope = np.zeros_like(base)
    base[:, 0] = 0.0
    for s, law in enumerate(SURFACES.values()):
        for action, one in law.actions.items():
            base[s, ACTION_NAMES.index(action)] = one.base
            slope[s, ACTION_NAMES.index(action)] = one.slope
    return base, slope
