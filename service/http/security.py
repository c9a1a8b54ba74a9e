"""What a request must pass before a handler sees it: body size, API key, rate limit."""

from __future__ import annotations

import math
import secrets
from http import HTTPStatus
from typing import Annotated

from fastapi import Request, Security
from fastapi.security import APIKeyHeader
from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import Problem, render
from service.process.metrics import REDIS_ERRORS, REFUSED
from service.process.settings import Settings
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

HEADER = "X-API-Key"
Key = Annotated[str | None, Security(APIKeyHeader(name=HEADER, auto_error=False))]


class BodyLimit:
    """Refuses a body larger than `max_bytes`, declared or streamed, without reading more than that.

    Starlette's own limit answers in plain text; this one answers a problem document.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            try:
                receive = within_limit(self._max_bytes, scope, receive)
            except Problem as problem:
                await render(problem)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def within_limit(max_bytes: int, scope: Scope, receive: Receive) -> Receive:
    """`receive`, but it raises `Problem` once the body is too large. Raises it at once for a declared one."""
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    if int(declared) > max_bytes:  # the server checked the number
        raise _too_large(max_bytes)
    received = 0

    async def receive_within_limit() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > max_bytes:
            raise _too_large(max_bytes)
        return message

    return receive_within_limit


def _too_large(max_bytes: int) -> Problem:
    REFUSED.labels("body").inc()
    return Problem(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        "body-too-large",
        f"the body is larger than {max_bytes} bytes",
        {"Connection": "close"},
    )


class Gate:
    """The checks that need the settings and the store; `shopper` and `admin` guard routes."""

    def __init__(self, settings: Settings, store: SessionStore) -> None:
        self._api_key = settings.api_key
        self._admin_api_key = settings.admin_api_key
        self._limit_per_minute = settings.rate_limit_per_minute
        self._store = store
        self.is_open = self._api_key is None and self._limit_per_minute == 0  # to shoppers

    def require_api_key(self, key: str | None) -> None:
        """Refuses a request without the shoppers' key, where one is configured."""
        if self._api_key is not None:
            _require(self._api_key, key)

    def require_admin_key(self, key: str | None) -> None:
        """Refuses a request without the admin's key, and every request where none is configured."""
        if self._admin_api_key is None:
            raise Problem(
                HTTPStatus.FORBIDDEN,
                "admin-disabled",
                "no admin key is configured: set NEXTCLICK_ADMIN_API_KEY to use /admin",
            )
        _require(self._admin_api_key, key)

    async def take_token(self, client: str) -> None:
        """Refuses a client's requests beyond its rate; lets all pass while Redis is down."""
        if self._limit_per_minute == 0:
            return
        try:
            wait_seconds = await self._store.take_token(client, self._limit_per_minute)
        except StoreUnavailable:
            REDIS_ERRORS.labels("take_token").inc()
            return
        if wait_seconds > 0:
            REFUSED.labels("rate").inc()
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate-limited",
                f"more than {self._limit_per_minute} requests per minute",
                {"Retry-After": str(math.ceil(wait_seconds))},
            )


async def shopper(request: Request, key: Key) -> None:
    """Guards what a shop's pages call."""
    gate: Gate = request.app.state.gate
    if gate.is_open:
        return
    gate.require_api_key(key)
    await gate.take_token(request.client.host if request.client else "local")


async def admin(request: Request, key: Key) -> None:
    """Guards what changes how the service answers."""
    gate: Gate = request.app.state.gate
    gate.require_admin_key(key)


def _require(expected: SecretStr, key: str | None) -> None:
    if key is None:
        REFUSED.labels("key").inc()
        raise Problem(
            HTTPStatus.UNAUTHORIZED,
            "key-missing",
            f"send your key in the header {HEADER}",
            {"WWW-Authenticate": "ApiKey"},
        )
    if not secrets.compare_digest(expected.get_secret_value().encode(), key.encode()):
        REFUSED.labels("key").inc()
        raise Problem(HTTPStatus.FORBIDDEN, "key-wrong", f"the key in the header {HEADER} is not valid here")
