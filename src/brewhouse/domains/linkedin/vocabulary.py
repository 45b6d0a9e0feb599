"""The words of the simulated network: areas, topics and a long tail of made-up names."""

from __future__ import annotations

import numpy as np

AREAS: dict[str, tuple[str, ...]] = {
    "software": ("kafka", "rust", "frontend", "databases", "compilers", "kubernetes"),
    "analytics": ("forecasting", "dashboards", "experiments", "statistics", "surveys", "ranking"),
    "finance": ("audit", "treasury", "lending", "tax", "insurance", "trading"),
    "health": ("nursing", "radiology", "pharmacy", "therapy", "genomics", "triage"),
    "marketing": ("branding", "seo", "copywriting", "campaigns", "events", "pricing"),
    "people": ("hiring", "payroll", "coaching", "onboarding", "benefits", "mediation"),
    "logistics": ("freight", "warehousing", "customs", "routing", "fleet", "packaging"),
    "energy": ("solar", "wind", "batteries", "grids", "drilling", "metering"),
}
AREA_NAMES = tuple(AREAS)
TOPICS = tuple((area, topic) for area, topics in AREAS.items() for topic in topics)
TOPICS_PER_AREA = len(TOPICS) // len(AREAS)
SENIORITIES = ("junior", "staff", "senior", "lead", "director")
FORMATS: dict[str, tuple[str, ...]] = {
    "job": ("remote", "hybrid", "onsite"),
    "post": ("video", "article", "poll", "photo"),
    "person": ("colleague", "alum", "neighbour"),
    "company": ("startup", "enterprise", "agency"),
    "course": ("beginner", "workshop", "certificate"),
    "event": ("meetup", "webinar", "conference"),
    "newsletter": ("daily", "weekly", "monthly"),
    "ad": ("banner", "story", "offer"),
    "group": ("open", "private", "local"),
}
KINDS = tuple(FORMATS)
COUNTRIES: dict[str, float] = {
    "US": 0.34,
    "IN": 0.2,
    "BR": 0.1,
    "CA": 0.07,
    "JP": 0.06,
    "AU": 0.05,
    "NG": 0.06,
    "DE": 0.05,
    "FR": 0.04,
    "NL": 0.03,
}
_ONSETS = tuple("bdfgklmnprstvwz") + (
    "br", "dr", "gr", "kl", "pl", "qu", "sk", "st", "tr",
)  # fmt: skip
_NUCLEI = ("a", "e", "i", "o", "u", "ai", "ea", "io", "ou")
_CODAS = ("l", "m", "n", "r", "s", "t", "x", "nd", "rk", "lt")


def made_up_names(count: int, rng: np.random.Generator) -> list[str]:
    """Return `count` distinct pronounceable words; used with Zipf weights as a long tail."""
    names: dict[str, None] = {}
    while len(names) < count:
        parts = [
            _ONSETS[rng.integers(len(_ONSETS))] + _NUCLEI[rng.integers(len(_NUCLEI))]
            for _ in range(int(rng.integers(1, 3)))
        ]
        names["".join(parts) + _CODAS[rng.integers(len(_CODAS))]] = None
    return list(names)
