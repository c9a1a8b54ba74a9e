"""Sees every request: gives it an id and its patience with Redis, times it, and tells of some in the log.

Timed and told by method, route template and status, never by raw path or query. What of a request is known
beyond that is looked for only when its line is written.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from time import perf_counter
from typing import Any

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.guards.keyring import KEY
from service.process.metrics import REQUEST_SECONDS
from service.process.request_ids import HEADER, SCOPE_KEY, request_id
from service.state.link import PATIENCE, Patience

# Where an operation leaves in the scope what it was asked (by place: path, query, body), and its answer.
ASKED = "nextclick.asked"
ANSWER = "nextclick.answer"
# Where a file leaves in the scope how long it may be kept; an answer is of its moment, and of one visitor.
CACHE_CONTROL = "nextclick.cache_control"
NO_STORE = b"no-store"
HASH_LENGTH = 12

_seconds_of = cache(REQUEST_SECONDS.labels)

log = structlog.get_logger()


class RequestLog:
    """ASGI middleware: from the request's head to the last byte of its answer.

    A line is written for a `share` of the requests, and for all that fail by our fault or are slow.
    """

    def __init__(
        self,
        app: ASGIApp,
        share: float,
        slow_seconds: float,
        random_number: Callable[[], float] = random.random,
    ) -> None:
        self._app = app
        self._share = share
        self._slow_seconds = slow_seconds
        self._random_number = random_number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what an exception becomes
        scope[SCOPE_KEY] = known_as = request_id(scope["headers"])

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                kept = (b"cache-control", scope.get(CACHE_CONTROL, NO_STORE))
                message["headers"] = [*message.get("headers", ()), (HEADER, known_as), kept]
            await send(message)

        patience = PATIENCE.set(Patience())
        started = perf_counter()
        try:
            await self._app(scope, receive, watch)
        except Exception as error:
            error.add_note(f"request id: {known_as.decode()}")  # the server logs it, with all notes
            raise
        finally:
            seconds = perf_counter() - started
            PATIENCE.reset(patience)
            route = getattr(scope.get("route"), "path_format", "other")
            _seconds_of(scope["method"], route, status).observe(seconds)
            if status >= 500 or seconds >= self._slow_seconds or self._random_number() < self._share:
                _tell(scope, route, status, seconds)


def session_hash(session_id: str) -> str:
    """What stands for a session in the log: the same everywhere, so that who knows the id finds its lines."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:HASH_LENGTH]


def _tell(scope: Scope, route: str, status: int, seconds: float) -> None:
    facts: dict[str, Any] = {
        "method": scope["method"],
        "route": route,
        "status": status,
        "ms": round(seconds * 1000, 3),
        "request_id": scope[SCOPE_KEY].decode(),
    }
    key = scope.get(KEY)
    if key is not None:
        facts["key"] = key.label
    for asked in scope.get(ASKED, {}).values():
        session_id = getattr(asked, "session_id", None)
        if session_id is not None:
            facts["session"] = session_hash(session_id)
    answer = scope.get(ANSWER)
    answer = getattr(answer, "recommendations", None) or answer
    for name in ("version", "stage", "degraded"):
        value = getattr(answer, name, None)
        if value is not None:
            facts[name] = value
    say = log.warning if status >= HTTPStatus.INTERNAL_SERVER_ERROR else log.info
    say("request", **facts)
