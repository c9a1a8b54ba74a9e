"""CORS: pages of origins that are let in may read what they are answered."""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.problems import Problem, render
from service.process.origins import HEADER, Origins

_ASKS = b"access-control-request-method"
_ALLOWED = b"access-control-allow-origin"

NOT_LET_IN = Problem(
    HTTPStatus.FORBIDDEN,
    "origin-not-allowed",
    "pages of this origin are not let in: NEXTCLICK_CORS_ORIGINS names those that are",
)


class Cors:
    """ASGI middleware that tells browsers who is let in, whatever is answered.

    Before a page of another origin may send more than a form could, its browser asks (a preflight). That is
    answered here: without a key, which it does not send, for every path, and for a day.
    """

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app = app
        self._origins = origins

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for name, value in scope.get("headers", ()):
            if name == HEADER:
                origin = value
                break
        else:
            return self._app(scope, receive, send)
        if scope["method"] == "OPTIONS" and any(name == _ASKS for name, _ in scope["headers"]):
            return self._preflight(origin)(scope, receive, send)
        headers = self._origins.told(origin)
        if not headers:  # the browser keeps the answer from the page
            return self._app(scope, receive, send)

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                there = message.get("headers", ())
                for name, _ in there:
                    if name == _ALLOWED:  # what is anybody's says so itself
                        break
                else:
                    message["headers"] = [*there, *headers]
            await send(message)

        return self._app(scope, receive, tell)

    def _preflight(self, origin: bytes) -> Response:
        headers = self._origins.preflight(origin)
        if not headers:
            return render(NOT_LET_IN)
        answer = Response(status_code=HTTPStatus.NO_CONTENT)
        answer.raw_headers = [*answer.raw_headers, *headers]
        return answer
