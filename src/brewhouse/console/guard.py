"""What stands between a request and a decision: origin, form token, and the record of refusals."""

from __future__ import annotations

import logging
import secrets
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from brewhouse.console.config import ConsoleConfig
from brewhouse.console.identity import address
from brewhouse.errors import ConfigError, PermissionDenied
from brewhouse.platform.ledger import Ledger
from brewhouse.registry.approvals import Actor

if TYPE_CHECKING:
    from starlette.requests import Request

SESSION = "brewhouse_session"
TOKEN_HOURS = 12
BODY_LIMIT = 64 * 1024
_LOG = logging.getLogger(__name__)
_ADDRESSES = 10_000


class Guard:
    """Lets through what comes from our own pages, and records what does not."""

    def __init__(self, config: ConsoleConfig, ledger: Ledger, model: str) -> None:
        """Take the secret from its file, or draw one.

        Raises:
            ConfigError: The file has no secret.
        """
        from itsdangerous import URLSafeTimedSerializer

        self.config, self.ledger, self.model = config, ledger, model
        self._tokens = URLSafeTimedSerializer(_secret(config.secret_file), salt="form")
        self._seen: dict[str, deque[float]] = defaultdict(deque)

    def token(self, actor: Actor, session: str) -> str:
        """A form's token: good for one actor in one browser, for some hours."""
        return str(self._tokens.dumps([actor.name, session]))

    def check_source(self, request: Request) -> None:
        """Refuse what another site's page sends.

        Raises:
            PermissionDenied: It does, or the console takes no decision.
        """
        if self.config.read_only:
            msg = "this console is read-only; decide with `brewhouse approve` and its like"
            raise PermissionDenied(msg)
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            msg = f"the request comes from a page of {origin[:200]}, not from this console"
            raise PermissionDenied(msg)
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            msg = "the browser says that another site's page sent this"
            raise PermissionDenied(msg)

    def check_token(self, request: Request, actor: Actor, token: str) -> None:
        """Refuse a form that this console did not give to this actor in this browser.

        Raises:
            PermissionDenied: It did not, or too long ago.
        """
        from itsdangerous import BadData

        try:
            value = self._tokens.loads(token, max_age=TOKEN_HOURS * 3600)
        except BadData as error:
            what = "has no token" if not token else "has a token that is old or not ours"
            msg = f"the form {what}; open the page again and decide there"
            raise PermissionDenied(msg) from error
        if value != [actor.name, request.cookies.get(SESSION, "")]:
            msg = "the form was made for somebody else; open the page again and decide there"
            raise PermissionDenied(msg)

    def record(self, request: Request, actor: Actor, act: str, version: str, reason: str) -> None:
        """Write a refusal down, unless this address has filled its share of the minute."""
        source = address(request)
        seen, now = self._seen[source], time.monotonic()
        while seen and now - seen[0] > 60:
            seen.popleft()
        if len(seen) >= self.config.refusals_per_minute:
            _LOG.warning("refusals of %s beyond the limit are not recorded", source)
            return
        seen.append(now)
        if len(self._seen) > _ADDRESSES:
            self._seen.clear()
        self.ledger.refuse(
            actor, act, model=self.model, version=version, reason=reason, address=source
        )


def new_session() -> str:
    """A browser's session; it carries no right, it only ties forms to the browser."""
    return secrets.token_urlsafe(24)


def _secret(path: Path | None) -> bytes:
    if path is None:
        return secrets.token_bytes(32)
    try:
        found = path.read_bytes().strip()
    except OSError as error:
        msg = f"secret_file {path} cannot be read: {error.strerror}"
        raise ConfigError(msg) from error
    if len(found) < 32:
        msg = f"secret_file {path} holds {len(found)} bytes; a secret needs 32 or more"
        raise ConfigError(msg)
    return found


class BodyLimit:
    """ASGI middleware that stops reading bodies that no form of ours can have."""

    def __init__(self, app: Any, limit: int = BODY_LIMIT) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, counting what it sends."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.exceptions import HTTPException

        taken = 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self.limit:
                raise HTTPException(413, f"more than {self.limit} bytes; reasons are shorter")
            return message

        await self.app(scope, counted, send)
