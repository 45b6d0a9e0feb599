"""Tells members, items and time in the words of a domain."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from brewhouse.domains.spec import Buckets, Domain, ItemKind, Telling, template_fields
from brewhouse.errors import PromptError
from brewhouse.prompts.numbers import NumberWords, Quantiles

_MICROS = 1_000_000


class Verbalizer:
    """Applies a domain's templates in one style; pure functions of their arguments."""

    def __init__(
        self, domain: Domain, *, style: str | None = None, numbers: NumberWords | None = None
    ) -> None:
        """Prepare the templates of a domain.

        Args:
            domain: The domain.
            style: Name among `prompt.styles`; the first if None.
            numbers: Quantiles that tell numbers as words; digits are told without them.
        """
        self.domain = domain
        self.style = domain.prompt.styles[style or domain.style]
        self._members: Mapping[str, Quantiles] = {}
        self._items: Mapping[str, Quantiles] = {}
        if numbers is not None and self.style.numbers == "words":
            self._members, self._items = numbers.members, numbers.items
        self._age = _limits(domain.time.age)
        self._gap = _limits(domain.time.gap) if domain.time.gap else None
        self._fields = lru_cache(maxsize=None)(lambda t: tuple(template_fields(t)))

    @property
    def instruction(self) -> str:
        """First line of every prompt."""
        return self.style.instruction or self.domain.prompt.instruction

    def question(self, row: Mapping[str, Any]) -> str:
        """Tell an item that is asked about.

        Raises:
            PromptError: The kind is not in the domain.
        """
        return self._item(row, self.style.question)

    def past(self, row: Mapping[str, Any]) -> str:
        """Tell an item of a history.

        Raises:
            PromptError: The kind is not in the domain.
        """
        return self._item(row, self.style.history)

    def profile(self, row: Mapping[str, Any]) -> str:
        """Tell a profile at the head of a prompt."""
        return self._fill(self.style.profile or self.domain.members.profile, row, self._members)

    def update(self, row: Mapping[str, Any]) -> str:
        """Tell a profile change inside a history."""
        return self._fill(self.style.update or self.domain.members.update, row, self._members)

    @property
    def question_fields(self) -> list[str]:
        """Columns that `question` may read, besides the kind."""
        return self._told_fields(self.style.question)

    @property
    def past_fields(self) -> list[str]:
        """Columns that `past` may read, besides the kind."""
        return self._told_fields(self.style.history)

    def _told_fields(self, telling: Telling) -> list[str]:
        kinds = self.domain.items.kinds.values()
        fields = [f for kind in kinds for f in self._fields(self._template(kind, telling))]
        return list(dict.fromkeys(fields))

    def _template(self, kind: ItemKind, telling: Telling) -> str:
        if telling.item is None:
            return kind.template
        return kind.tellings.get(telling.item, self.domain.items.tellings[telling.item])

    def _item(self, row: Mapping[str, Any], telling: Telling) -> str:
        kind = self.domain.items.kinds.get(row["kind"])
        if kind is None:
            msg = f"item {row.get('item_id')}: kind '{row['kind']}' is not in items.kinds; add it"
            raise PromptError(msg)
        return self._fill(self._template(kind, telling), row, self._items)

    def _fill(self, template: str, row: Mapping[str, Any], ranked: Mapping[str, Quantiles]) -> str:
        """Fill a template; empty values leave no trace but a closed-up space."""
        values = {
            name: ranked[name].word(row[name]) if name in ranked else _tell(row[name])
            for name in self._fields(template)
        }
        return " ".join(template.format_map(values).split())

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

    def instructions(self) -> list[str]:
        """First lines of the styles that are trained on, in a fixed order."""
        prompt = self.domain.prompt
        told = [s.instruction or prompt.instruction for s in prompt.styles.values() if s.share]
        return list(dict.fromkeys([prompt.instruction, *told]))

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
