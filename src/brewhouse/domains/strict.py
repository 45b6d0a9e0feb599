"""The base of all YAML models, and what a domain says for the models made from it."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


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


def _duration(value: object) -> object:
    if isinstance(value, str) and value[:-1].replace(".", "", 1).isdigit() and value[-1] in _UNITS:
        return timedelta(seconds=float(value[:-1]) * _UNITS[value[-1]])
    if isinstance(value, timedelta):
        return value
    msg = f"{value!r} is no duration; write a number and s, m, h, d or w, such as 30m or 1d"
    raise ValueError(msg)


Duration = Annotated[timedelta, BeforeValidator(_duration)]
