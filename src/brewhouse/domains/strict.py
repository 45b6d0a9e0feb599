"""The base of all YAML models, and what a domain says for the models made from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Release(Strict):
    """What must be known of a model before anybody may approve it."""

    owner: str = Field(min_length=1, description="Person or team that answers for the model")
    intended_use: str = Field(min_length=1, description="What it is for")
    out_of_scope: str = Field(default="", description="What it must not be used for")
    limits: list[str] = Field(min_length=1, description="Where it is known to fall short")
    model_licence: str = Field(default="apache-2.0", description="SPDX id of the model's licence")
