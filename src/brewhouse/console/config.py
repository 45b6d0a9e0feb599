"""Where the console listens and how it knows who asks; YAML, checked before anything starts."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, IPvAnyNetwork

from brewhouse.domains.loader import parse_model, read_yaml
from brewhouse.domains.strict import Strict
from brewhouse.errors import ConfigError


class LocalIdentity(Strict):
    """Whoever uses this machine: the user of the operating system. Loopback only."""

    kind: Literal["local"]


class ProxyIdentity(Strict):
    """A header that an authenticating proxy sets, as Kubeflow's gateway does."""

    kind: Literal["proxy"]
    header: str = Field(default="kubeflow-userid", description="Header with the user's id")
    prefix: str = Field(default="", description="What the proxy puts in front of the id")
    trusted: list[IPvAnyNetwork] = Field(
        min_length=1, description="Networks the proxy calls from; from elsewhere nobody is let in"
    )


class OidcIdentity(Strict):
    """A bearer token of an OpenID Connect provider, as oauth2-proxy or a client sends it."""

    kind: Literal["oidc"]
    issuer: str = Field(description="`iss` of the tokens")
    audience: str = Field(description="`aud` of the tokens")
    jwks: str = Field(description="Public keys: an https URL, or a file")
    claim: str = Field(default="email", description="Claim that names the user")


Identity = Annotated[LocalIdentity | ProxyIdentity | OidcIdentity, Field(discriminator="kind")]


class ConsoleConfig(Strict):
    """YAML of `brewhouse console --config`."""

    host: str = Field(default="127.0.0.1", description="Address to listen on")
    port: int = Field(default=8600, ge=1, le=65535)
    identity: Identity = LocalIdentity(kind="local")
    read_only: bool = Field(default=False, description="Show everything, take no decision")
    hosts: list[str] = Field(
        default=["127.0.0.1", "localhost"],
        min_length=1,
        description="Values of the Host header that are answered; `*.example.org` for a domain",
    )
    root_path: str = Field(
        default="", pattern=r"^(/[\w.-]+)*$", description="Path under which a proxy serves it"
    )
    frame_ancestors: list[str] = Field(
        default=[], description="Origins that may frame it, such as Kubeflow's dashboard: 'self'"
    )
    secure_cookies: bool | None = Field(
        default=None, description="Cookies over https alone; by default wherever a proxy stands"
    )
    secret_file: Path | None = Field(
        default=None,
        description="File with the secret of form tokens, the same for every replica; drawn at "
        "start if absent",
    )
    metrics: bool = Field(
        default=True, description="Answer Prometheus at /metrics, which asks nobody to sign in"
    )
    refusals_per_minute: int = Field(
        default=30, ge=1, description="Refusals of one address that are recorded a minute"
    )

    @property
    def secure(self) -> bool:
        """Whether cookies go over https alone."""
        return self.identity.kind != "local" if self.secure_cookies is None else self.secure_cookies


def load_config(path: Path | None) -> ConsoleConfig:
    """Read a configuration, or take the defaults.

    Raises:
        ConfigError: It has mistakes, or would let anyone in.
    """
    if path is None:
        return ConsoleConfig()
    value, lines = read_yaml(path)
    return parse_model(ConsoleConfig, value or {}, path=path, lines=lines)


def check_config(config: ConsoleConfig) -> None:
    """Refuse to serve the operating system's user to a network.

    Raises:
        ConfigError: Identity `local` on an address that others reach.
    """
    if config.identity.kind == "local" and not is_loopback(config.host):
        msg = (
            f"identity local on {config.host} would make everyone who reaches it the user of this "
            "machine; listen on 127.0.0.1, or set identity to proxy or oidc"
        )
        raise ConfigError(msg)


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
