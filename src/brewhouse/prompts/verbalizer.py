"""Tells members, items and time in the words of a domain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from brewhouse.domains.spec import Buckets, Domain, template_fields
from brewhouse.errors import PromptError

_MICROS = 1_000_000


class Verbalizer:
    """Applies a domain's templates; pure functions of their arguments."""

    def __init__(self, domain: Domain) -> None:
        """Prepare the templates of a domain."""
        self.domain = domain
        self._age = _limits(domain.time.age)
        self._gap = _limits(domain.time.gap) if domain.time.gap else None
        self._fields = lru_cache(maxsize=None)(lambda t: tuple(template_fields(t)))

    def fill(self, template: str, row: Mapping[str, Any]) -> str:
        """Fill a template; empty values leave no trace but a closed-up space."""
        values = {name: _tell(row[name]) for name in self._fields(template)}
        return " ".join(template.format_map(values).split())

    def item(self, row: Mapping[str, Any]) -> str:
        """Tell an item by the template of its kind.

        Raises:
            PromptError: The kind is not in the domain.
        """
        kind = self.domain.items.kinds.get(row["kind"])
        if kind is None:
            msg = f"item {row.get('item_id')}: kind '{row['kind']}' is not in items.kinds; add it"
            raise PromptError(msg)
        return self.fill(kind.template, row)

    def profile(self, row: Mapping[str, Any]) -> str:
        """Tell a profile at the head of a prompt."""
        return self.fill(self.domain.members.profile, row)

    def update(self, row: Mapping[str, Any]) -> str:
        """Tell a profile change inside a history."""
        return self.fill(self.domain.members.update, row)

    def age(self, shown_at: int, created_at: int) -> str:
        """Word for an item's age when shown (microseconds)."""
        return _bucket(self._age, max(0, shown_at - created_at))

    def gap(self, previous: int | None, now: int) -> str | None:
        """Word for the time since the previous interaction, None if it is not told."""
        if self._gap is None or previous is None:
            return None
        elapsed = max(0, now - previous)
        limits, _, _ = self._gap
        return None if elapsed <= limits[0] else _bucket(self._gap, elapsed)

    def structural_words(self) -> list[str]:
        """Every word that structure may use, in a fixed order."""
        domain = self.domain
        words = [s.word for s in domain.surfaces.values()]
        words += [a.word for a in domain.actions.values()]
        for buckets in (domain.time.age, domain.time.gap):
            if buckets:
                words += [*(w for _, w in buckets.limits), buckets.beyond]
        return list(dict.fromkeys(words))


def _tell(value: Any) -> str:
    if value is None or value != value:  # NaN is the number that differs from itself
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _limits(buckets: Buckets) -> tuple[list[int], list[str], str]:
    limits = [int(limit.total_seconds() * _MICROS) for limit, _ in buckets.limits]
    return limits, [word for _, word in buckets.limits], buckets.beyond


def _bucket(prepared: tuple[list[int], list[str], str], value: int) -> str:
    limits, words, beyond = prepared
    for limit, word in zip(limits, words, strict=True):
        if value <= limit:
            return word
    return beyond
