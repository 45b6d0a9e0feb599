"""Who asks: each way of knowing it, and the error where it is not known."""

from __future__ import annotations

from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from brewhouse.console.config import (
    ConsoleConfig,
    LocalIdentity,
    OidcIdentity,
    ProxyIdentity,
    is_loopback,
)
from brewhouse.errors import BrewhouseError, ConfigError
from brewhouse.registry.approvals import Actor
from brewhouse.release.settings import whoami

if TYPE_CHECKING:
    from starlette.requests import Request

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
"""Asymmetric alone: a public key must never serve as the secret of an HMAC."""


class UnknownActorError(BrewhouseError):
    """Nobody is signed in, or not by a way that is trusted.

    Attributes:
        claimed: Who the request says it is; not verified.
    """

    exit_code = 12

    def __init__(self, message: str, *, claimed: Actor) -> None:
        super().__init__(message)
        self.claimed = claimed


class Identifier(Protocol):
    """Tells who a request comes from."""

    def actor(self, request: Request) -> Actor:
        """The actor.

        Raises:
            UnknownActorError: It is not known.
        """
        ...


def identifier(config: ConsoleConfig) -> Identifier:
    """The way that a configuration asks for."""
    if isinstance(config.identity, ProxyIdentity):
        return ByProxy(config.identity)
    if isinstance(config.identity, OidcIdentity):
        return ByToken(config.identity)
    return ByMachine(config.identity)


def address(request: Request) -> str:
    """Where the connection comes from; headers that claim to know better are not believed."""
    return request.client.host if request.client else ""


class ByMachine:
    """The operating system's user, for requests from this machine."""

    def __init__(self, given: LocalIdentity) -> None:
        self.given = given

    def actor(self, request: Request) -> Actor:
        """See `Identifier`."""
        if not is_loopback(address(request)):
            msg = f"identity local answers this machine alone, not {address(request)}"
            raise UnknownActorError(msg, claimed=Actor(name="unknown", via="local"))
        return Actor(name=whoami(), via="local")


class ByProxy:
    """A header, from trusted networks alone."""

    def __init__(self, given: ProxyIdentity) -> None:
        self.given = given

    def actor(self, request: Request) -> Actor:
        """See `Identifier`."""
        values = request.headers.getlist(self.given.header)
        name = values[0].strip().removeprefix(self.given.prefix) if values else ""
        claimed = Actor(name=name or "unknown", via="proxy")
        if not self._trusted(address(request)):
            msg = f"{self.given.header} is believed from the proxy alone, not from "
            msg += address(request) or "an unknown address"
            raise UnknownActorError(msg, claimed=claimed)
        if len(values) != 1 or not name or not name.isprintable():
            msg = f"the proxy sent {len(values)} usable headers {self.given.header}; one is needed"
            raise UnknownActorError(msg, claimed=claimed)
        return claimed

    def _trusted(self, source: str) -> bool:
        try:
            return any(ip_address(source) in network for network in self.given.trusted)
        except ValueError:
            return False


class ByToken:
    """A signed token of an OpenID Connect provider."""

    def __init__(self, given: OidcIdentity) -> None:
        self.given = given

    def actor(self, request: Request) -> Actor:
        """See `Identifier`."""
        import jwt

        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        nobody = Actor(name="unknown", via="oidc")
        if scheme.lower() != "bearer" or not token:
            msg = "a bearer token of the identity provider is needed"
            raise UnknownActorError(msg, claimed=nobody)
        try:
            claims = jwt.decode(
                token.strip(),
                self._key(token.strip()),
                algorithms=ALGORITHMS,
                audience=self.given.audience,
                issuer=self.given.issuer,
                options={"require": ["exp", "iat", "iss", "aud", self.given.claim]},
            )
        except jwt.PyJWTError as error:
            # The reason alone: a token must not reach a log.
            msg = f"the token is not accepted: {type(error).__name__}"
            raise UnknownActorError(msg, claimed=nobody) from error
        name = str(claims[self.given.claim])
        if not name.strip() or not name.isprintable():
            msg = f"the token's claim {self.given.claim} is no name"
            raise UnknownActorError(msg, claimed=nobody)
        if self.given.claim == "email" and claims.get("email_verified") is False:
            msg = f"the provider has not verified the address {name}"
            raise UnknownActorError(msg, claimed=Actor(name=name, via="oidc"))
        return Actor(name=name, via="oidc")

    def _key(self, token: str) -> Any:
        import jwt

        if self.given.jwks.startswith("https://"):
            return self._remote.get_signing_key_from_jwt(token).key
        wanted = jwt.get_unverified_header(token).get("kid")
        for key in self._local.keys:
            if key.key_id == wanted:
                return key.key
        msg = "no such key"
        raise jwt.InvalidKeyError(msg)

    @cached_property
    def _remote(self) -> Any:
        import jwt

        return jwt.PyJWKClient(self.given.jwks, lifespan=300, timeout=10)

    @cached_property
    def _local(self) -> Any:
        import jwt

        try:
            return jwt.PyJWKSet.from_json(Path(self.given.jwks).read_text())
        except (OSError, ValueError, jwt.PyJWTError) as error:
            msg = f"identity.jwks {self.given.jwks}: no key set: {error}; give an https URL or file"
            raise ConfigError(msg) from error
