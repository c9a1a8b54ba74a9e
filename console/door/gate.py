"""Who is logged in, and the gate before everything: no page, file or websocket is had without a login.

The browser holds a random token and nothing else; the admin's key stays in this process.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from console.service import Service

COOKIE = "nextclick_console"
LIFETIME_SECONDS = 12 * 3600  # of a login, whatever is done with it
MOST_LOGINS = 100  # the oldest ends for a new one
LOGIN_KEY = "nextclick.login"  # in a request's scope
OPEN = frozenset({"/login", "/console.css", "/favicon.ico"})  # without a login
SAFE_METHODS = frozenset({"GET", "HEAD"})
# NiceGUI's pages hold scripts and styles, and Vue compiles its templates; pictures are the shop's.
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: http: https:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
LOGIN_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)


class Login:
    """Somebody who has shown the admin's key."""

    def __init__(self, service: Service, ends_at: float) -> None:
        self.service = service
        self.ends_at = ends_at
        self.ended = asyncio.Event()
        self.at_end: list[Callable[[], None]] = []

    def end(self) -> None:
        """Close what is open of it; its websockets are told by the gate."""
        self.ended.set()
        for call in self.at_end:
            call()
        self.at_end.clear()


class Logins:
    """Everybody who is logged in, by token."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._logins: dict[str, Login] = {}

    def begin(self, service: Service) -> str:
        """Returns the token that is the browser's to keep."""
        self._end_old_ones()
        while len(self._logins) >= MOST_LOGINS:
            self.end(next(iter(self._logins)))
        token = secrets.token_urlsafe(32)
        self._logins[token] = Login(service, self._clock() + LIFETIME_SECONDS)
        return token

    def of(self, token: str | None) -> Login | None:
        """The login of a token, if it is one and has not ended."""
        self._end_old_ones()
        return self._logins.get(token or "")

    def end(self, token: str | None) -> None:
        login = self._logins.pop(token or "", None)
        if login is not None:
            login.end()

    def end_all(self) -> None:
        for token in list(self._logins):
            self.end(token)

    def _end_old_ones(self) -> None:
        now = self._clock()
        for token in [token for token, login in self._logins.items() if login.ends_at <= now]:
            self.end(token)


class Gate:
    """Middleware around everything else; tells the browser, too, what the pages may do."""

    def __init__(self, app: ASGIApp, logins: Logins) -> None:
        self._app = app
        self._logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        open_to_all = scope["path"] in OPEN and scope["type"] == "http"
        login = self._logins.of(token_of(headers))
        if not _same_origin(scope, headers):
            await _refuse(scope, receive, send, "this call comes from another site's page")
        elif login is None and not open_to_all:
            if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
                await RedirectResponse("/login", 303, _told(LOGIN_POLICY))(scope, receive, send)
            else:
                await _refuse(scope, receive, send, "log in first")
        else:
            scope[LOGIN_KEY] = login
            policy = LOGIN_POLICY if open_to_all else POLICY
            receives = receive
            if login is not None and scope["type"] == "websocket":
                receives = _until_ended(receive, login)
            await self._app(scope, receives, _with_headers(send, _told(policy)))


def token_of(headers: Headers) -> str | None:
    """The token that a request's cookie holds."""
    # Not by http.cookies, which reads none behind one that it cannot: another program may have set that.
    return cookie_parser(headers.get("cookie", "")).get(COOKIE)


def _same_origin(scope: Scope, headers: Headers) -> bool:
    """Browsers name the page's origin with whatever may change something, and with every websocket."""
    if scope["type"] == "http" and scope["method"] in SAFE_METHODS:
        return True
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc == headers.get("host")


def _told(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": policy,
        "X-Frame-Options": "DENY",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "same-origin",  # with none at all, browsers say `Origin: null` of our own forms
        "Cross-Origin-Opener-Policy": "same-origin",
    }


def _with_headers(send: Send, added: Mapping[str, str]) -> Send:
    async def sends(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(added)
        await send(message)

    return sends


def _until_ended(receive: Receive, login: Login) -> Receive:
    """What a websocket receives, until whoever opened it is logged in no more."""

    async def receives() -> Message:
        message = asyncio.ensure_future(receive())
        ended = asyncio.ensure_future(login.ended.wait())
        try:
            await asyncio.wait({message, ended}, return_when=asyncio.FIRST_COMPLETED)
            if login.ended.is_set():
                return {"type": "websocket.disconnect", "code": 1008}
            return message.result()
        finally:
            message.cancel()
            ended.cancel()

    return receives


async def _refuse(scope: Scope, receive: Receive, send: Send, why: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": why})
        return
    response: Any = PlainTextResponse(why, 403, _told(LOGIN_POLICY))
    await response(scope, receive, send)
