"""Structure and data kept apart: marks that only we write, and text that cannot imitate them."""

from __future__ import annotations

import unicodedata
from typing import NamedTuple, Protocol

_REPLACED = str.maketrans({"<": "\u2039", ">": "\u203a", "[": "(", "]": ")"})
MAX_DATA_CHARS = 2_000


class Segment(NamedTuple):
    """A piece of a prompt: a mark (structure, written by us) or data (from tables)."""

    is_mark: bool
    text: str


def mark(text: str) -> Segment:
    """A piece of structure."""
    return Segment(True, text)


def data(text: str) -> Segment:
    """A piece of user text, made harmless; it begins with a space unless it is empty."""
    clean = sanitize(text)
    return Segment(False, f" {clean}" if clean else "")


def sanitize(text: str) -> str:
    """Make user text unable to forge structure, and cut it at 2,000 characters.

    Control, format and private-use characters go, runs of white space become one space, angle and
    square brackets become look-alikes. Composed to NFC, so that equal-looking texts are equal.
    """
    if text.isascii() and text.isprintable():  # Most text: nothing to compose or drop.
        return " ".join(text.split()).translate(_REPLACED)[:MAX_DATA_CHARS].strip()
    composed = unicodedata.normalize("NFC", text[: 2 * MAX_DATA_CHARS])
    kept = (
        " " if c.isspace() else c
        for c in composed
        if c.isspace() or unicodedata.category(c)[0] != "C"
    )
    # Composed again: dropping a character may let its neighbours combine.
    joined = unicodedata.normalize("NFC", " ".join("".join(kept).split()))
    return joined.translate(_REPLACED)[:MAX_DATA_CHARS].strip()


class Markup(Protocol):
    """How structure is written. `words` in every method come from the domain, never from data."""

    name: str

    def begin(self) -> tuple[Segment, ...]:
        """Start of a prompt."""

    def profile(self) -> tuple[Segment, ...]:
        """Start of the profile."""

    def update(self, gap: str | None) -> tuple[Segment, ...]:
        """Start of a profile change."""

    def item(self, surface: str, age: str | None, gap: str | None) -> tuple[Segment, ...]:
        """Start of an interaction or a question, up to the item's text."""

    def answer_next(self) -> tuple[Segment, ...]:
        """What stands between the item's text and the answer."""

    def answer(self, word: str) -> Segment:
        """An answer, in history and as the continuation of a question."""

    def vocabulary(self, words: list[str]) -> list[str]:
        """Marks that deserve a token of their own, given all structural words of the domain."""


class Tagged:
    """One tag, one token: for models trained from scratch with the domain's own tokenizer."""

    name = "tagged"

    def begin(self) -> tuple[Segment, ...]:
        """Nothing: the tokenizer's begin token stands in front of the root."""
        return ()

    def profile(self) -> tuple[Segment, ...]:
        """A line of its own."""
        return (mark("\n<profile>"),)

    def update(self, gap: str | None) -> tuple[Segment, ...]:
        """A line of its own, with the gap if it is told."""
        return (mark("\n<update>"), *self._gap(gap))

    def item(self, surface: str, age: str | None, gap: str | None) -> tuple[Segment, ...]:
        """Surface, gap and age as tags in front of the item."""
        told = () if age is None else (mark(f"<{age}>"),)
        return (mark(f"\n<{surface}>"), *self._gap(gap), *told)

    def answer_next(self) -> tuple[Segment, ...]:
        """Nothing: the answer stands next to the words that explain it."""
        return ()

    def answer(self, word: str) -> Segment:
        """The answer's tag."""
        return mark(f"<{word}>")

    def vocabulary(self, words: list[str]) -> list[str]:
        """Every tag, alone and at the start of a line."""
        lines = ["\n<profile>", "\n<update>", *(f"\n<{w}>" for w in words)]
        return [*lines, *(f"<{w}>" for w in words), *(f"<+{w}>" for w in words)]

    @staticmethod
    def _gap(gap: str | None) -> tuple[Segment, ...]:
        return () if gap is None else (mark(f"<+{gap}>"),)


class Plain:
    """Plain words, a line an event: for pretrained models with their own tokenizer.

    The arrow in front of an answer cannot stand in data, for data holds no angle bracket.
    """

    name = "plain"

    def begin(self) -> tuple[Segment, ...]:
        """Nothing: the tokenizer's begin token stands in front of the root."""
        return ()

    def profile(self) -> tuple[Segment, ...]:
        """A line of its own."""
        return (mark("\nProfile:"),)

    def update(self, gap: str | None) -> tuple[Segment, ...]:
        """A line of its own, with the gap in brackets if it is told."""
        return (mark("\nProfile change" + (f" ({gap}):" if gap else ":")),)

    def item(self, surface: str, age: str | None, gap: str | None) -> tuple[Segment, ...]:
        """Surface, age and gap in front of the item."""
        told = ", ".join(w for w in (age, gap) if w)
        return (mark(f"\n{surface} ({told}):" if told else f"\n{surface}:"),)

    def answer_next(self) -> tuple[Segment, ...]:
        """An arrow."""
        return (mark(" ->"),)

    def answer(self, word: str) -> Segment:
        """The word after a space."""
        return mark(f" {word}")

    def vocabulary(self, words: list[str]) -> list[str]:
        """None: the tokenizer is given."""
        return []


MARKUPS: dict[str, type[Tagged] | type[Plain]] = {"tagged": Tagged, "plain": Plain}
