"""What a domain folder may say: the pydantic models behind `domain.yaml`.

Every field has a description; `brewhouse domain validate --help` prints them.
"""

from __future__ import annotations

import string
from datetime import timedelta
from typing import Literal

from pydantic import Field, model_validator

from brewhouse.domains.source import Source
from brewhouse.domains.strict import Duration, Release, Strict

Baseline = Literal[
    "popularity",
    "member_mean",
    "item_mean",
    "lightgbm",
    "dcn_v2",
    "din",
    "sequence",
    "dcn_v2_text",
]
"""Conventional models that are trained beside the ranker, `docs/reference/baselines.md`."""
ColumnType = Literal["string", "integer", "number", "boolean", "timestamp"]
Severity = Literal["block", "warn"]
SLICES = ("history", "item_age", "popularity", "tenure")
"""Slice dimensions of every domain."""


def template_fields(template: str) -> list[str]:
    """Names in braces, in order."""
    return [name for _, name, _, _ in string.Formatter().parse(template) if name]


class Column(Strict):
    """One attribute of members or items."""

    type: ColumnType = Field(description="Arrow type of the column")
    required: bool = Field(default=False, description="Empty values block the pipeline")
    min: float | None = Field(default=None, description="Smallest allowed number")
    max: float | None = Field(default=None, description="Largest allowed number")
    values: list[str] | None = Field(default=None, description="Closed set of allowed values")
    words: list[str] | None = Field(
        default=None,
        min_length=2,
        description="Number told as one of these words, lowest first, by its quantile among items "
        "or profiles of the training window",
    )


class Members(Strict):
    """Versioned member profiles and how they are told."""

    columns: dict[str, Column] = Field(description="Attributes beyond member_id, valid_from")
    profile: str = Field(description="Template of the profile at the head of a prompt")
    update: str = Field(description="Template of a profile change inside a history")


class ItemKind(Strict):
    """How items of one kind are told."""

    template: str = Field(description="Template of the item; put what matters last")
    tellings: dict[str, str] = Field(
        default_factory=dict, description="This kind's own form of the tellings of all items"
    )
    noun: str = Field(description="What one such item is called, in the table1 layout")


class Items(Strict):
    """Versioned items and how they are told."""

    columns: dict[str, Column] = Field(description="Attributes beyond item_id, kind, times")
    tellings: dict[str, str] = Field(
        default_factory=dict, description="Further templates by name, for styles to choose"
    )
    kinds: dict[str, ItemKind] = Field(description="Kinds of items")
    match: list[str] = Field(
        default_factory=list, description="Item columns that baselines count matches on"
    )
    multi: dict[str, str] = Field(
        default_factory=dict, description="Match columns holding several values: their separator"
    )


class Action(Strict):
    """One action a member may take."""

    word: str = Field(description="How the action is told, in history and as an answer")
    past: str = Field(description="Phrase for the table1 layout, such as 'has applied to'")


class Surface(Strict):
    """One place where items are shown."""

    word: str = Field(description="How the surface is told")
    actions: list[str] = Field(min_length=2, description="Actions possible here, `none` included")
    kinds: list[str] = Field(min_length=1, description="Kinds of items shown here")
    in_training: bool = Field(default=True, description="False: a T2 surface, never trained on")
    history: bool = Field(default=True, description="Whether its events may stand in a history")
    base_rate: tuple[float, float] | None = Field(
        default=None, description="Band in which the share of actions other than none must lie"
    )


class Regions(Strict):
    """Members outside the allowed regions never enter training."""

    column: str = Field(description="Member column that holds the region")
    allowed: list[str] = Field(min_length=1, description="Regions that may be trained on")


class History(Strict):
    """What counts as evidence."""

    lag: Duration = Field(
        default=timedelta(0), description="Distance between the end of history and the question"
    )
    max_events: int = Field(default=48, ge=0, description="Newest interactions kept in a prompt")
    max_tokens: int = Field(default=512, ge=16, description="Token budget of a trunk")


class Buckets(Strict):
    """A duration told as one word: the first limit that is not exceeded names it."""

    limits: list[tuple[Duration, str]] = Field(min_length=1, description="Upper bounds and words")
    beyond: str = Field(description="Word for anything longer")


class Time(Strict):
    """Time is told as the item's age when shown and as gaps between interactions."""

    age: Buckets = Field(description="Words for the age of an item")
    gap: Buckets | None = Field(
        default=None, description="Words for gaps; gaps under the first limit are not told"
    )


class Telling(Strict):
    """How a style tells an item, in a history or in a question."""

    item: str | None = Field(
        default=None,
        description="Name in `items.tellings`; the kind's `template` if empty",
    )
    age: bool = Field(default=True, description="Whether the item's age when shown is told")
    gap: bool = Field(default=True, description="Whether the time since the last event is told")


class Style(Strict):
    """One way of telling everything. What is empty is told as the domain says."""

    share: float = Field(
        default=1.0, ge=0, description="Weight in the training mix; 0 holds it out"
    )
    instruction: str | None = Field(default=None, description="First line of the prompt")
    profile: str | None = Field(default=None, description="Template of the profile")
    update: str | None = Field(default=None, description="Template of a profile change")
    history: Telling = Field(default=Telling(), description="How past items are told")
    question: Telling = Field(default=Telling(), description="How the item asked about is told")
    numbers: Literal["words", "digits"] = Field(
        default="words", description="Whether columns with `words` are told as words or as digits"
    )


class Prompt(Strict):
    """Words around the data."""

    instruction: str = Field(description="First line of every prompt")
    note: str = Field(default="", description="Note of the table1 layout")
    styles: dict[str, Style] = Field(
        default_factory=lambda: {"standard": Style()},
        min_length=1,
        description="Ways of telling, mixed in training; the first is used for tests and serving",
    )


class Validation(Strict):
    """Checks beyond schema and labels."""

    freshness: Duration | None = Field(
        default=None, description="Largest distance from the newest event to `train_end`"
    )
    pii: Severity = Field(default="block", description="What mails and phone numbers in texts do")
    base_rate: Severity = Field(default="warn", description="What a base rate out of band does")
    text: list[str] = Field(default_factory=list, description="Item columns that must not be empty")


class SliceColumn(Strict):
    """A column by whose values results are told apart."""

    of: Literal["member", "item"] = Field(description="Whose column it is")
    column: str = Field(description="Name of the column; its value at the row's moment counts")


class Defaults(Strict):
    """Split and sizes used when a run does not say otherwise."""

    train_end: str | None = Field(default=None, description="End of training, YYYY-MM-DD")
    train_days: float = Field(default=365, gt=0, description="Length of the training window")
    gap_days: float = Field(default=7, ge=0, description="Gap between training and test")
    test_days: float = Field(default=28, gt=0, description="Length of a test window")
    horizons_weeks: list[int] = Field(default_factory=lambda: [0], description="Test horizons")


class Domain(Strict):
    """A data world: its columns, surfaces, actions, templates and how its source is read."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", description="Name of the domain")
    version: int = Field(ge=1, description="Raise it when a template or rule changes")
    description: str = Field(description="One sentence")
    licence: str = Field(description="Licence of the data")
    members: Members
    items: Items
    actions: dict[str, Action]
    surfaces: dict[str, Surface]
    regions: Regions | None = None
    history: History = History()
    time: Time
    prompt: Prompt
    source: Source
    validation: Validation = Validation()
    slices: dict[str, SliceColumn] = Field(
        default_factory=dict,
        description="Further slices by name, such as language or seniority",
    )
    defaults: Defaults = Defaults()
    production: Baseline = Field(
        default="lightgbm", description="Baseline that stands in for the production model"
    )
    release: Release | None = Field(
        default=None,
        description="What a model owner must be told; without it nothing is registered",
    )
    simulator: str | None = Field(default=None, description="Name of a built-in simulated source")

    @model_validator(mode="after")
    def _consistent(self) -> Domain:
        problems = [
            *self._template_problems(),
            *self._style_problems(),
            *self._reference_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _template_problems(self) -> list[str]:
        member = {"member_id", *self.members.columns}
        item = set(self.items.columns)
        templates = [
            ("members.profile", self.members.profile, member),
            ("members.update", self.members.update, member),
            *((f"items.kinds.{k}.template", v.template, item) for k, v in self.items.kinds.items()),
            *((f"items.tellings.{name}", text, item) for name, text in self.items.tellings.items()),
            *(
                (f"items.kinds.{k}.tellings.{name}", text, item)
                for k, v in self.items.kinds.items()
                for name, text in v.tellings.items()
            ),
            *(
                (f"prompt.styles.{name}.{part}", text, member)
                for name, style in self.prompt.styles.items()
                for part, text in (("profile", style.profile), ("update", style.update))
                if text is not None
            ),
        ]
        return [
            f"{where} names column '{field}', known are {sorted(known)}"
            for where, template, known in templates
            for field in template_fields(template)
            if field not in known
        ]

    def _style_problems(self) -> list[str]:
        told = self.items.tellings
        found = [
            f"items.kinds.{k}.tellings: '{name}' is not in items.tellings"
            for k, kind in self.items.kinds.items()
            for name in kind.tellings
            if name not in told
        ]
        found += [
            f"prompt.styles.{name}.{part}.item: '{telling.item}' is not in items.tellings"
            for name, style in self.prompt.styles.items()
            for part, telling in (("history", style.history), ("question", style.question))
            if telling.item is not None and telling.item not in told
        ]
        if not any(style.share for style in self.prompt.styles.values()):
            found.append("prompt.styles: every style is held out; give one a share above 0")
        columns = {**self.members.columns, **self.items.columns}
        found += [
            f"column '{name}' has words but is of type {column.type}; only numbers are told by rank"
            for name, column in columns.items()
            if column.words and column.type not in ("integer", "number")
        ]
        return found

    def _reference_problems(self) -> list[str]:
        found = []
        for name, surface in self.surfaces.items():
            found += [
                f"surfaces.{name}: unknown action '{a}'"
                for a in surface.actions
                if a not in self.actions
            ]
            found += [
                f"surfaces.{name}: unknown kind '{k}'"
                for k in surface.kinds
                if k not in self.items.kinds
            ]
        columns = {"member": self.members.columns, "item": self.items.columns}
        found += [
            f"slices.{name}: '{one.column}' is no {one.of} column"
            for name, one in self.slices.items()
            if one.column not in columns[one.of]
        ]
        found += [
            f"slices.{name}: the name is taken by a slice that every domain has"
            for name in self.slices
            if name in (*SLICES, "region")
        ]
        words = [a.word for a in self.actions.values()] + [s.word for s in self.surfaces.values()]
        found += [
            f"word '{w}' stands for two things"
            for w in sorted({w for w in words if words.count(w) > 1})
        ]
        if self.regions and self.regions.column not in self.members.columns:
            found.append(f"regions.column '{self.regions.column}' is no member column")
        for column in (*self.items.match, *self.items.multi, *self.validation.text):
            if column not in self.items.columns:
                found.append(
                    f"'{column}' is no item column (items.match, items.multi or validation.text)"
                )
        for policy in self.source.negatives:
            if policy.surface not in self.surfaces:
                found.append(f"source.negatives: unknown surface '{policy.surface}'")
            elif "none" not in self.surfaces[policy.surface].actions:
                found.append(f"source.negatives: surface '{policy.surface}' has no action 'none'")
        return found

    @property
    def slice_names(self) -> list[str]:
        """Dimensions that results are told apart by."""
        region = ["region"] if self.regions else []
        return [*SLICES, *region, *self.slices]

    @property
    def style(self) -> str:
        """Name of the style used for tests and serving: the first."""
        return next(iter(self.prompt.styles))

    @property
    def history_surfaces(self) -> list[str]:
        """Surfaces whose events may stand in a prompt: never those held out of training."""
        return [n for n, s in self.surfaces.items() if s.history and s.in_training]

    @property
    def training_surfaces(self) -> list[str]:
        """Surfaces that may give training targets."""
        return [n for n, s in self.surfaces.items() if s.in_training]
