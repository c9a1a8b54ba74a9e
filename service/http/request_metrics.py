"""Times every request, by method, route template and status; never by raw path."""

from __future__ import annotations

from functools import cache
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.process.metrics import REQUEST_SECONDS

_seconds_of = cache(REQUEST_SECONDS.labels)


class RequestMetrics:
    """ASGI middleware: from the request's head to the last byte of its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500  # what an exception becomes

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = perf_counter()
        try:
            await self._app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path_format", "other")
            _seconds_of(scope["method"], route, status).observe(perf_counter() - started)
