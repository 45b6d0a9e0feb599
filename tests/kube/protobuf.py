"""Namespaces and secrets as kubectl sends new ones: protobuf in an envelope.

https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding
"""

from __future__ import annotations

import base64
from typing import Any

MAGIC = b"k8s\x00"
Fields = dict[int, list[bytes]]


def decoded(body: bytes) -> dict[str, Any]:
    """The object.

    Raises:
        ValueError: It is of a kind that is not known here.
    """
    envelope = _fields(body.removeprefix(MAGIC))
    kind = _fields(envelope[1][0])
    found: dict[str, Any] = {"apiVersion": kind[1][0].decode(), "kind": kind[2][0].decode()}
    if found["kind"] not in ("Namespace", "Secret"):
        msg = f"protobuf of a {found['kind']} is not read here"
        raise ValueError(msg)
    value = _fields(envelope[2][0])
    meta = _fields(value[1][0])
    found["metadata"] = {
        name: meta[number][0].decode()
        for number, name in ((1, "name"), (3, "namespace"))
        if meta.get(number, [b""])[0]
    }
    if found["kind"] == "Secret":
        entries = [_fields(entry) for entry in value.get(2, [])]
        found["data"] = {e[1][0].decode(): base64.b64encode(e[2][0]).decode() for e in entries}
        found["type"] = value[3][0].decode()
    return found


def _fields(data: bytes) -> Fields:
    """Fields that have a length, by number; numbers are passed over."""
    found: Fields = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        size, at = _varint(data, at)
        if tag & 7 == 2:
            found.setdefault(tag >> 3, []).append(data[at : at + size])
            at += size
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
