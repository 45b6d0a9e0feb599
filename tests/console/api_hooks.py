"""Hooks of schemathesis: half of what it sends is about a version that exists, as it now stands."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_path_parameters(_context: Any, path_parameters: dict[str, Any] | None) -> Any:
    """Versions and incidents 1 and 2 are there."""
    if path_parameters and "number" in path_parameters:
        asked = path_parameters["number"]
        place = 1 + sum(str(asked).encode("utf-8", "replace")) % 2
        path_parameters["number"] = place if isinstance(asked, int) else str(place)
    return path_parameters


@schemathesis.hook
def map_body(_context: Any, body: Any) -> Any:
    """A revision that can be right, and a reason that is long enough."""
    if isinstance(body, dict):
        if isinstance(body.get("revision"), int):
            # Version 1 waits for approval at revision 3, version 2 for a waiver at revision 2.
            body["revision"] = 2 if body.get("act") == "waive" else 3
        if isinstance(body.get("reason"), str):
            body["reason"] += " because of it"
        if body.get("act") in ("approve", "reject", "order"):
            body.pop("until", None)
    return body
