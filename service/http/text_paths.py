"""Paths that are text: with a line feed or half a letter in it, a path would be taken for another one."""

from __future__ import annotations

from collections.abc import Awaitable
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.problems import invalid_input, render


class TextPaths:
    """ASGI middleware that answers 422 to a path that is not UTF-8, or holds a line feed.

    The server decodes what is not UTF-8 to U+FFFD, whatever it was, and the router's `.` and `$` overlook
    line feeds. Only a percent sign can bring either of them in. Other control characters are found by the
    schemas.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if b"%" in scope.get("raw_path", b""):
            wrong = _what_is_wrong(scope["raw_path"])
            if wrong is not None:
                return render(invalid_input("path", wrong))(scope, receive, send)
        return self._app(scope, receive, send)


def _what_is_wrong(raw_path: bytes) -> str | None:
    try:
        path = unquote_to_bytes(raw_path).decode()
    except UnicodeDecodeError:
        return "not UTF-8"
    return "holds a line feed" if "\n" in path else None
