"""Entries of the ledger: what is written of an act, chained by hash and signed.

Each entry's hash covers the hash of the one before it, so a row that is changed, taken out or put
in breaks every later one; the signature (Ed25519, RFC 8032) says that the row was written by a
holder of the key, whatever else can write to the database.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from brewhouse.errors import ConfigError, LifecycleError
from brewhouse.files import canonical_json
from brewhouse.registry.lifecycle import Act, State, after

GENESIS = "0" * 64
"""What the first entry is chained to."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """An act that is to be written.

    Attributes:
        act: What is done.
        model, version: With which registered version.
        revision: How many entries of this version the actor had seen; None to take what is there.
        actor, role: Who, and in what function.
        reason: Why, in the actor's words.
        until: Last day of a waiver, ISO date.
        order: Number of the entry that this one carries out.
        artifact, results, verdict: Digests of what the act is about.
        policy: Name and version of the approval policy.
        champion: Version in use when it was decided.
    """

    act: Act
    model: str
    version: str
    actor: str
    role: str
    revision: int | None = None
    reason: str = ""
    until: str = ""
    order: int = 0
    artifact: str = ""
    results: str = ""
    verdict: str = ""
    policy: str = ""
    champion: str = ""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A row of the ledger; fields as in `Draft`.

    Attributes:
        number: Place in the chain, from 1.
        at: When it was written, ISO time in UTC.
        revision: Place among the entries of its version, from 1.
        before, after: States of the version; `before` is empty at first.
        previous: Hash of the entry before.
        hash: SHA-256 of everything above, in canonical JSON.
        key: Fingerprint of the signing key.
        signature: Of the hash, base64.
    """

    number: int
    at: str
    act: str
    model: str
    version: str
    revision: int
    before: str
    after: str
    actor: str
    role: str
    reason: str
    until: str
    order: int
    artifact: str
    results: str
    verdict: str
    policy: str
    champion: str
    previous: str
    hash: str = ""
    key: str = ""
    signature: str = ""

    def digest(self) -> str:
        """The hash that this entry should have."""
        content = {k: v for k, v in asdict(self).items() if k not in ("hash", "key", "signature")}
        return hashlib.sha256(canonical_json(content).encode()).hexdigest()


class Signer:
    """Holds the private key that entries are signed with."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = key.public_key()
        self.fingerprint = fingerprint(self.public)

    @classmethod
    def load(cls, path: Path, *, create: bool = False) -> Signer:
        """Read a private key in PEM.

        Args:
            path: File.
            create: Make one, readable by its owner alone, if there is none.

        Raises:
            ConfigError: There is no key, or it is of another kind.
        """
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_new(path, Ed25519PrivateKey.generate())
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (OSError, ValueError, TypeError) as error:
            msg = f"{path}: no signing key ({error}); make one with `brewhouse ledger key`"
            raise ConfigError(msg) from error
        if not isinstance(key, Ed25519PrivateKey):
            msg = f"{path}: the signing key must be Ed25519; make one with `brewhouse ledger key`"
            raise ConfigError(msg)
        return cls(key)

    def sign(self, entry: Entry) -> Entry:
        """The entry with its hash and signature."""
        digest = entry.digest()
        signature = base64.b64encode(self._key.sign(bytes.fromhex(digest))).decode()
        return replace(entry, hash=digest, key=self.fingerprint, signature=signature)

    def public_pem(self) -> bytes:
        """The key that others check signatures with."""
        return self.public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def _write_new(path: Path, key: Ed25519PrivateKey) -> None:
    """Of several that make a key at once, the first to link its file wins."""
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    handle, name = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "wb") as stream:
        stream.write(pem)
    with contextlib.suppress(FileExistsError):
        os.link(name, path)
    Path(name).unlink()


def fingerprint(key: Ed25519PublicKey) -> str:
    """Short name of a public key: the first 16 hex digits of its SHA-256."""
    raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return hashlib.sha256(raw).hexdigest()[:16]


def read_public(paths: Iterable[Path]) -> dict[str, Ed25519PublicKey]:
    """Trusted keys by fingerprint, from PEM files.

    Raises:
        ConfigError: A file is no Ed25519 public key.
    """
    keys = {}
    for path in paths:
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except ValueError as error:
            msg = f"{path}: no public key: {error}"
            raise ConfigError(msg) from error
        if not isinstance(key, Ed25519PublicKey):
            msg = f"{path}: a public key of another kind; entries are signed with Ed25519"
            raise ConfigError(msg)
        keys[fingerprint(key)] = key
    return keys


def check_chain(entries: Sequence[Entry], trusted: Mapping[str, Ed25519PublicKey]) -> list[str]:
    """What is wrong with a ledger, a line each; empty if it is whole.

    Hashes, signatures, numbering, and that every move was a legal one.
    """
    found: list[str] = []
    previous = GENESIS
    states: dict[tuple[str, str], State] = {}
    revisions: dict[tuple[str, str], int] = {}
    for place, entry in enumerate(entries, start=1):
        name = f"entry {entry.number} ({entry.act} {entry.model} version {entry.version})"
        if entry.number != place:
            found.append(f"{name}: stands at place {place}; entries are missing or were put in")
        if entry.previous != previous:
            found.append(f"{name}: does not follow the entry before it")
        if entry.digest() != entry.hash:
            found.append(f"{name}: its content is not what was hashed")
        found += _check_signature(entry, trusted, name)
        found += _check_move(entry, states, revisions, name)
        champions = [v for (m, v), s in states.items() if (m, s) == (entry.model, State.CHAMPION)]
        if len(champions) > 1:
            found.append(f"{name}: versions {', '.join(champions)} are champion at once")
        previous = entry.hash
    return found


def _check_signature(entry: Entry, trusted: Mapping[str, Ed25519PublicKey], name: str) -> list[str]:
    key = trusted.get(entry.key)
    if key is None:
        return [f"{name}: signed with key {entry.key or 'none'}, which is not trusted"]
    try:
        key.verify(base64.b64decode(entry.signature, validate=True), bytes.fromhex(entry.hash))
    except (InvalidSignature, ValueError):
        return [f"{name}: its signature is wrong"]
    return []


def _check_move(
    entry: Entry,
    states: dict[tuple[str, str], State],
    revisions: dict[tuple[str, str], int],
    name: str,
) -> list[str]:
    key = (entry.model, entry.version)
    before = states.get(key)
    revision = revisions.get(key, 0) + 1
    found = []
    try:
        expected = after(Act(entry.act), before, version=entry.version)
        if (entry.before, entry.after) != (before or "", expected):
            found.append(f"{name}: claims {entry.before or 'nothing'} to {entry.after}")
        states[key] = expected
    except (LifecycleError, ValueError) as error:
        found.append(f"{name}: {error}")
    if entry.revision != revision:
        found.append(f"{name}: revision {entry.revision} where {revision} was due")
    revisions[key] = revision
    return found
