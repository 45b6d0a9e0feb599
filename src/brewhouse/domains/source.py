"""Where a domain's raw tables are, how SQL maps them, and how negatives are drawn."""

from __future__ import annotations

from pydantic import Field

from brewhouse.domains.strict import Duration, Strict


class Negatives(Strict):
    """How negatives are drawn for a surface whose log holds only positives."""

    surface: str = Field(description="Surface whose events get sampled negatives")
    per_positive: int = Field(ge=1, description="Negatives per positive")
    within: Duration = Field(description="Items shown at most this long from the positive")
    same: str | None = Field(default=None, description="Item column some negatives share")
    same_count: int = Field(default=0, ge=0, description="How many of them share it")
    exclude_authors: str | None = Field(
        default=None, description="Item column naming a member who may not be asked about it"
    )


class Source(Strict):
    """Where raw tables are and the SQL (DuckDB) that maps them onto the canonical ones."""

    files: dict[str, str] = Field(description="Table name -> file in the source folder")
    views: dict[str, str] = Field(default_factory=dict, description="Name -> SELECT the others use")
    members: str = Field(description="SELECT giving member_id, valid_from and the member columns")
    items: str = Field(description="SELECT giving item_id, valid_from, created_at, kind, columns")
    interactions: str = Field(description="SELECT giving the canonical interaction columns")
    negatives: list[Negatives] = Field(default_factory=list, description="Sampling policies")
    oracle: str | None = Field(default=None, description="File with true probabilities, if any")
