"""A registered version as it stands, and what a run says of one that it registers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from brewhouse.registry.entries import Entry
from brewhouse.registry.lifecycle import Act, State
from brewhouse.release.store import VersionFolder


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version as it stands.

    Attributes:
        model, version: Name in the registry.
        state: From the ledger; EXPIRED also where that is due and not written yet.
        expiry: Why it has expired; empty if it has not.
        revision: Number of its entries: what a decision about it must name.
        author: Who started its run.
        source: Where it is kept.
        tracking_uri: MLflow that lists it.
        tags: Of MLflow: domain, verdict, digests.
        entries: Its history, oldest first.
        acts: What persons may decide about it now.
    """

    model: str
    version: str
    state: State
    expiry: str
    revision: int
    author: str
    source: str
    tracking_uri: str
    tags: Mapping[str, str]
    entries: tuple[Entry, ...]
    acts: tuple[Act, ...]

    @property
    def folder(self) -> VersionFolder:
        """Where it is kept."""
        return VersionFolder(self.source, tracking_uri=self.tracking_uri)

    def public(self) -> dict[str, Any]:
        """For machines."""
        return {
            "model": self.model,
            "version": self.version,
            "state": self.state.value,
            "expiry": self.expiry,
            "revision": self.revision,
            "author": self.author,
            "source": self.source,
            "tags": dict(self.tags),
            "acts": [act.value for act in self.acts],
            "entries": [asdict(e) for e in self.entries],
        }


@dataclass(frozen=True, kw_only=True)
class Registration:
    """A version that a run registers; digests as in `Draft`."""

    model: str
    version: str
    author: str
    artifact: str
    results: str
    verdict: str
    passed: bool
