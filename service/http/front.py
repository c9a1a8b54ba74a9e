"""Where requests come in: those of compiled routes are answered here, all others by FastAPI.

FastAPI's own way to a route leads through a dozen layers that have nothing to do for a recommendation.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from http import HTTPStatus
from time import perf_counter
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.types import Receive, Scope, Send

from service.http.problems import RETRY_AFTER, Problem, render
from service.http.routes import CompiledRoute
from service.http.security import within_limit
from service.process.metrics import IN_FLIGHT, REFUSED, REQUEST_SECONDS
from service.process.settings import Settings

seconds_of = cache(REQUEST_SECONDS.labels)  # by method, route template and status; never by raw path


class Front(FastAPI):
    """FastAPI, with a short way to compiled routes.

    Only so many of their requests may be under way: the rest is refused, so that those keep their latency.
    What operators ask stays open: it tells of the overload, and may end it.
    """

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(**options)
        self._max_body_bytes = settings.max_body_bytes
        self._most_under_way = settings.max_requests_in_flight
        self._under_way = 0
        self._exact: dict[tuple[str, str], CompiledRoute] = {}
        self._others: list[CompiledRoute] = []

    def add_routes(self, routes: Iterable[BaseRoute]) -> None:
        """Add routes as they are: what `include_router` makes of them costs each request some 40 µs more."""
        for route in routes:
            self.router.routes.append(route)
            if isinstance(route, CompiledRoute) and route.param_convertors:
                self._others.append(route)
            elif isinstance(route, CompiledRoute):
                self._exact.update(((method, route.path), route) for method in route.methods or ())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._route(scope) if scope["type"] == "http" else None
        if route is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        started, failure = perf_counter(), None
        try:
            response = await self._answer(route, scope, receive)
        except Exception as error:  # what nobody expected: the server shall log it, too
            failure = error
            response = await self.exception_handlers[Exception](Request(scope), error)  # type: ignore[misc]
        try:
            await response(scope, receive, send)
        finally:
            seconds = perf_counter() - started
            seconds_of(scope["method"], route.path_format, response.status_code).observe(seconds)
        if failure is not None:
            raise failure

    def _route(self, scope: Scope) -> CompiledRoute | None:
        """The route of a request, its parameters put into the scope."""
        method, path = scope["method"], scope["path"]
        if (route := self._exact.get((method, path))) is not None:
            scope["path_params"] = {}
            return route
        for route in self._others:
            if method in route.methods and (match := route.path_regex.match(path)):  # type: ignore[operator]
                scope["path_params"] = match.groupdict()
                return route
        return None

    async def _answer(self, route: CompiledRoute, scope: Scope, receive: Receive) -> Response:
        """The route's answer, or that of the handler of what it raises. Raises what has no handler."""
        if self._under_way >= self._most_under_way:
            REFUSED.labels("overload").inc()
            return render(self._overloaded())
        self._under_way += 1
        IN_FLIGHT.inc()
        try:
            if route.has_body:
                receive = within_limit(self._max_body_bytes, scope, receive)
            return await route.answer(Request(scope, receive))
        except Exception as error:
            kinds = type(error).__mro__
            kinds = kinds[: kinds.index(Exception)]
            handler = next((h for kind in kinds if (h := self.exception_handlers.get(kind))), None)
            if handler is None:
                raise
            response: Response = await handler(Request(scope), error)  # type: ignore[misc]
            return response
        finally:
            self._under_way -= 1
            IN_FLIGHT.dec()

    def _overloaded(self) -> Problem:
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "overloaded",
            f"this worker has {self._most_under_way} requests under way: nothing was done, try again",
            RETRY_AFTER,
        )
