"""Numbers told as words by their rank in the training window: words are read better than digits.

The cut points are fitted once, on what existed before the end of training, and travel with the
model: serving tells a number as training did.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from brewhouse.domains.spec import Column, Domain


@dataclass(frozen=True, kw_only=True)
class Quantiles:
    """Words of one column and the values between them; `limits` has one value less than `words`."""

    words: tuple[str, ...]
    limits: tuple[float, ...]

    def word(self, value: Any) -> str:
        """The word of a value; empty for a missing one."""
        if value is None or math.isnan(value):
            return ""
        return self.words[bisect_right(self.limits, value)]


@dataclass(frozen=True, kw_only=True)
class NumberWords:
    """Quantiles of the columns of members and items that are told as words."""

    members: Mapping[str, Quantiles]
    items: Mapping[str, Quantiles]

    @classmethod
    def fit(
        cls, domain: Domain, *, members: pa.Table, items: pa.Table, train_end: pa.Scalar
    ) -> Self:
        """Fit on versions valid before the end of training; ties go to the higher word.

        Args:
            domain: Says which columns have words.
            members: Profile versions of the members that may be trained on.
            items: Item versions.
            train_end: Timestamp.
        """
        return cls(
            members=_fit(domain.members.columns, members, train_end),
            items=_fit(domain.items.columns, items, train_end),
        )

    def describe(self) -> dict[str, Any]:
        """JSON form."""
        return {
            part: {k: {"words": list(q.words), "limits": list(q.limits)} for k, q in table.items()}
            for part, table in (("members", self.members), ("items", self.items))
        }

    @classmethod
    def parse(cls, value: Mapping[str, Any]) -> Self:
        """Read the JSON form."""
        return cls(**{part: {k: _quantiles(q) for k, q in value[part].items()} for part in value})


def _quantiles(value: Mapping[str, Any]) -> Quantiles:
    return Quantiles(words=tuple(value["words"]), limits=tuple(value["limits"]))


def _fit(
    columns: Mapping[str, Column], table: pa.Table, train_end: pa.Scalar
) -> dict[str, Quantiles]:
    known = table.filter(pc.less(table.column("valid_from"), train_end))
    fitted = {}
    for name, column in columns.items():
        if not column.words:
            continue
        values = known.column(name).drop_null().to_numpy().astype(np.float64)
        values = values[~np.isnan(values)]
        shares = np.arange(1, len(column.words)) / len(column.words)
        limits = np.quantile(values, shares) if len(values) else np.zeros(len(shares))
        fitted[name] = Quantiles(words=tuple(column.words), limits=tuple(limits.tolist()))
    return fitted
