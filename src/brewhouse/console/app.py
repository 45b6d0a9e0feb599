"""Puts the console together: pages, API, headers of every answer, errors told alike."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import Receive, Scope, Send

import brewhouse
from brewhouse.console import api, incident_api, incident_pages, pages
from brewhouse.console.config import ConsoleConfig
from brewhouse.console.desk import Desk
from brewhouse.console.guard import BodyLimit
from brewhouse.console.identity import UnknownActorError
from brewhouse.errors import (
    BrewhouseError,
    ConfigError,
    LifecycleError,
    PermissionDenied,
    UnknownIncidentError,
    UnknownVersionError,
)
from brewhouse.platform.prometheus import CONTENT_TYPE, exposition
from brewhouse.release.service import Release

STATUS: dict[type[BrewhouseError], int] = {
    UnknownActorError: 401,
    PermissionDenied: 403,
    UnknownVersionError: 404,
    UnknownIncidentError: 404,
    LifecycleError: 409,
    ConfigError: 422,
    BrewhouseError: 503,
}
API = "/api/"
PROBES = ("/healthz", "/readyz", "/metrics")
_PLAIN = {
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: with it browsers hide the origin of our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def create_app(config: ConsoleConfig, release: Release) -> FastAPI:
    """Build the console.

    Args:
        config: How it knows who asks.
        release: The service beneath.

    Raises:
        ConfigError: The configuration would let anyone in.
    """
    app = FastAPI(
        title="Brewhouse",
        version=brewhouse.__version__,
        summary="Decide about versions of the ranker, and read why",
        openapi_url="/api/openapi.json",
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        root_path=config.root_path,
    )
    app.state.desk = Desk.open(config, release)
    app.include_router(api.router)
    app.include_router(incident_api.router)
    app.include_router(pages.router)
    app.include_router(incident_pages.router)
    static = str(files("brewhouse.console") / "static")
    app.mount("/static", StaticFiles(directory=static), name="static")
    app.add_api_route("/healthz", _healthy, include_in_schema=False)
    app.add_api_route("/readyz", _ready, include_in_schema=False)
    if config.metrics:
        app.add_api_route("/metrics", _metrics, include_in_schema=False)
    app.add_middleware(BodyLimit)
    app.add_middleware(KnownHosts, allowed_hosts=config.hosts, www_redirect=False)
    app.middleware("http")(_with_headers)
    app.add_exception_handler(BrewhouseError, _told)
    app.add_exception_handler(RequestValidationError, _misunderstood)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(SQLAlchemyError, _unreachable)
    return app


class KnownHosts(TrustedHostMiddleware):
    """Refuses unknown hosts, but of probes: kubelets and Prometheus call a pod by its address."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its Host is known or its path needs none."""
        if scope["type"] == "http" and scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def policy(config: ConsoleConfig) -> str:
    """Content security policy of the pages: nothing from elsewhere, nothing inline."""
    ancestors = " ".join(config.frame_ancestors) or "'none'"
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        f"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors {ancestors}"
    )


async def _with_headers(
    request: Request, call_next: Callable[[Request], Awaitable[Response]]
) -> Response:
    if request.method == "POST" and _of_api(request):
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        # A page of another site can send a form without being asked, JSON it cannot.
        if kind != "application/json" and request.headers.get("content-length", "0") != "0":
            problem = api.Problem(kind="HTTPException", message="send application/json")
            return JSONResponse(problem.model_dump(), 415)
    response = await call_next(request)
    for name, value in _PLAIN.items():
        response.headers.setdefault(name, value)
    config = request.app.state.desk.config
    response.headers.setdefault("Content-Security-Policy", policy(config))
    if not config.frame_ancestors:
        response.headers.setdefault("X-Frame-Options", "DENY")
    if config.secure:
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    return response


def _healthy() -> PlainTextResponse:
    return PlainTextResponse("ok")


def _ready(request: Request) -> PlainTextResponse:
    """Ledger and registry answer."""
    release = request.app.state.desk.release
    try:
        release.champion()
        release.registry.versions(release.model)
    except (BrewhouseError, SQLAlchemyError, OSError) as error:
        return PlainTextResponse(f"not ready: {type(error).__name__}", 503)
    return PlainTextResponse("ready")


def _metrics(request: Request) -> PlainTextResponse:
    """Numbers of drift, for Prometheus: of models and surfaces, never of members."""
    text = exposition(request.app.state.desk.drift)
    return PlainTextResponse(text, media_type=CONTENT_TYPE)


def _of_api(request: Request) -> bool:
    return request.scope["path"].removeprefix(request.scope.get("root_path", "")).startswith(API)


def _status(error: Exception) -> int:
    return next(code for kind, code in STATUS.items() if isinstance(error, kind))


def _answer(request: Request, code: int, kind: str, message: str, **headers: str) -> Response:
    if _of_api(request):
        problem = api.Problem(kind=kind, message=message)
        return JSONResponse(problem.model_dump(), code, headers=headers)
    return pages.problem(request, code, message, headers)


async def _told(request: Request, error: Exception) -> Response:
    code = _status(error)
    headers = {"WWW-Authenticate": "Bearer"} if code == 401 else {}
    kind = type(error).__name__
    return _answer(request, code, kind, str(error), **headers)


async def _unreachable(request: Request, error: Exception) -> Response:
    # The kind alone: a driver's message may hold the database's address and user.
    logging.getLogger(__name__).error("database: %s", type(error).__name__)
    message = f"the decisions database does not answer ({type(error).__name__}); try again"
    return _answer(request, 503, "RegistryError", message)


async def _misunderstood(request: Request, error: Exception) -> Response:
    found: list[Any] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    where = ".".join(str(part) for part in found[0]["loc"]) if found else "request"
    told = found[0]["msg"] if found else str(error)
    return _answer(request, 422, "RequestValidationError", f"{where}: {told}")


async def _http(request: Request, error: Exception) -> Response:
    code = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "error"
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    return _answer(request, code, "HTTPException", detail, **headers)
