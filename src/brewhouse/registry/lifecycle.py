"""Life-cycle of a candidate. A machine may only ever create PENDING_APPROVAL; a person decides."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a model version stands."""

    PENDING_APPROVAL = "PENDING_APPROVAL"
    APPROVED = "APPROVED"
    REJECTED = "REJECTED"
