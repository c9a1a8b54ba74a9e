"""Who gets into the console, and what of it a browser may keep: no browser, no NiceGUI, no network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Message

from console.door.gate import COOKIE, LIFETIME_SECONDS, MOST_LOGINS, Gate, Logins
from console.door.login import login_routes
from console.service import Service, connection

KEY = "the-admin's-key"
SERVICE = "http://service:8000"
ORIGIN = {"Origin": "http://console"}
pytestmark = pytest.mark.anyio


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def answers(request: httpx.Request) -> httpx.Response:
    """The service: it knows one key, and has had enough of one guesser."""
    key = request.headers.get("x-api-key")
    if key == KEY:
        return httpx.Response(200, json={"hidden": []})
    if key == "once too often":
        problem = {"type": "urn:nextclick:problem:wrong-keys", "detail": "more than 10 wrong keys per minute"}
        return httpx.Response(429, json=problem, headers={"Retry-After": "42"})
    if key == "while it is away":
        raise httpx.ConnectError("refused")
    if key == "of another program":
        return httpx.Response(200, text="<html>")
    problem = {"type": "urn:nextclick:problem:key-wrong", "detail": "the key in the header"}
    return httpx.Response(403, json=problem)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def logins(clock: Clock) -> Logins:
    return Logins(clock)


@pytest.fixture
async def app(logins: Logins) -> AsyncIterator[FastAPI]:
    async with connection(httpx.MockTransport(answers)) as http:
        app = FastAPI(openapi_url=None)
        app.include_router(login_routes(http, SERVICE, logins))

        @app.api_route("/{path:path}", methods=["GET", "POST"])
        async def page(request: Request) -> Response:
            return PlainTextResponse("a page")

        app.add_middleware(Gate, logins=logins)
        yield app


@pytest.fixture
async def browser(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://console") as browser:
        yield browser


async def log_in(browser: httpx.AsyncClient, key: str = KEY, **headers: str) -> httpx.Response:
    return await browser.post("/login", data={"key": key}, headers={**ORIGIN, **headers})


@pytest.mark.parametrize(
    "path", ["/", "/models", "/_nicegui/static/nicegui.js", "/_nicegui_ws/socket.io/", "/login/"]
)
async def test_nothing_is_had_without_a_login(browser: httpx.AsyncClient, path: str) -> None:
    answer = await browser.get(path)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    assert (await browser.post(path, headers=ORIGIN)).status_code == 403


@pytest.mark.parametrize("path", ["/login", "/console.css"])
async def test_what_is_open_may_be_asked_for_by_head(browser: httpx.AsyncClient, path: str) -> None:
    assert (await browser.head(path)).status_code == 200


async def test_the_right_key_lets_in_and_is_not_kept_by_the_browser(browser: httpx.AsyncClient) -> None:
    answer = await log_in(browser)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"].lower()
    assert cookie.startswith(COOKIE)
    assert {"httponly", "samesite=strict", "path=/"} <= set(cookie.split("; "))
    assert KEY not in str(answer.headers) + answer.text
    assert (await browser.get("/")).text == "a page"
    assert (await browser.get("/login")).headers["location"] == "/"


@pytest.mark.parametrize(
    ("key", "status", "words"),
    [
        ("guess", 403, "This is not the service&#x27;s admin key."),
        ("while it is away", 502, "the service at http://service:8000 does not answer: refused"),
        ("of another program", 502, "is no Nextclick service"),
        ("ключ", 502, "characters that no key has"),
        ("x" * 5000, 413, "no key is as long as that"),
    ],
)
async def test_another_key_does_not(browser: httpx.AsyncClient, key: str, status: int, words: str) -> None:
    answer = await log_in(browser, key)
    assert (answer.status_code, words in answer.text) == (status, True)
    assert "set-cookie" not in answer.headers
    assert key not in answer.text or "away" in key
    assert (await browser.get("/")).status_code == 303


async def test_the_limit_of_wrong_keys_is_passed_on(browser: httpx.AsyncClient) -> None:
    answer = await log_in(browser, "once too often")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "42")
    assert "more than 10 wrong keys per minute (try again in 42 s)" in answer.text


async def test_what_other_programs_set_is_no_hindrance(browser: httpx.AsyncClient) -> None:
    await log_in(browser)
    mixed = f"odd[name]=1; a b=c; {COOKIE}={browser.cookies[COOKIE]}; z"
    browser.cookies.clear()
    assert (await browser.get("/", headers={"Cookie": mixed})).text == "a page"


async def test_logout_ends_it_everywhere(browser: httpx.AsyncClient, logins: Logins) -> None:
    await log_in(browser)
    token = browser.cookies[COOKIE]
    closed: list[str] = []
    login = logins.of(token)
    assert login is not None
    login.at_end.append(lambda: closed.append("page"))
    answer = await browser.post("/logout", headers=ORIGIN)
    assert (answer.headers["location"], closed) == ("/login", ["page"])
    browser.cookies.set(COOKIE, token)  # a browser that kept it
    assert (await browser.get("/")).status_code == 303


async def test_a_login_ends_by_itself(browser: httpx.AsyncClient, clock: Clock) -> None:
    await log_in(browser)
    clock.now = LIFETIME_SECONDS - 1
    assert (await browser.get("/")).status_code == 200
    clock.now = LIFETIME_SECONDS
    assert (await browser.get("/")).status_code == 303


async def test_a_new_login_has_a_new_token(browser: httpx.AsyncClient) -> None:
    await log_in(browser)
    old = browser.cookies[COOKIE]
    await log_in(browser)
    assert browser.cookies[COOKIE] != old
    browser.cookies.clear()
    browser.cookies.set(COOKIE, old)
    assert (await browser.get("/")).status_code == 303


async def test_logins_are_bounded(logins: Logins) -> None:
    service = Service(connection(), SERVICE, KEY)
    tokens = [logins.begin(service) for _ in range(MOST_LOGINS + 1)]
    assert logins.of(tokens[0]) is None
    assert all(logins.of(token) for token in tokens[1:])
    assert KEY not in repr(service)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://console.evil.example", "null", "http://console:81"]
)
async def test_another_sites_page_changes_nothing(browser: httpx.AsyncClient, origin: str) -> None:
    assert (await log_in(browser, KEY, Origin=origin)).status_code == 403
    await log_in(browser)
    assert (await browser.post("/logout", headers={"Origin": origin})).status_code == 403
    assert (await browser.get("/")).status_code == 200


async def test_nobody_may_frame_a_page(browser: httpx.AsyncClient) -> None:
    for path in ("/login", "/"):
        answer = await browser.get(path)
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    await log_in(browser)
    answer = await browser.get("/")
    assert answer.text == "a page"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"


class Socket:
    """A websocket as the server shows it: what the application under the gate makes of it."""

    def __init__(self, logins: Logins, **headers: str) -> None:
        self.sent: list[Message] = []
        self.received: list[Message] = []
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "path": "/_nicegui_ws/socket.io/",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        }
        self._gate = Gate(self._app, logins)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        while True:
            message = await receive()
            self.received.append(message)
            if message["type"] == "websocket.disconnect":
                return

    async def open(self, receive: Any) -> None:
        async def send(message: Message) -> None:
            self.sent.append(message)

        await self._gate(self.scope, receive, send)


async def never() -> Message:
    raise AssertionError("nobody listens")


async def test_a_websocket_wants_a_login_too(logins: Logins) -> None:
    socket = Socket(logins, host="console", origin="http://console")
    await socket.open(never)
    assert ([message["type"] for message in socket.sent], socket.received) == (["websocket.close"], [])


async def test_another_sites_page_opens_no_websocket(logins: Logins) -> None:
    token = logins.begin(Service(connection(), SERVICE, KEY))
    socket = Socket(logins, host="console", origin="http://evil.example", cookie=f"{COOKIE}={token}")
    await socket.open(never)
    assert ([message["type"] for message in socket.sent], socket.received) == (["websocket.close"], [])


async def test_an_open_websocket_ends_with_its_login(logins: Logins) -> None:
    token = logins.begin(Service(connection(), SERVICE, KEY))
    socket = Socket(logins, host="console", origin="http://console", cookie=f"{COOKIE}={token}")
    event = {"type": "websocket.receive", "text": "a click on a button"}

    async def receive() -> Message:
        if len(socket.received) == 1:
            logins.end(token)  # and then there comes one more
        return event

    await socket.open(receive)
    assert [message["type"] for message in socket.received] == ["websocket.receive", "websocket.disconnect"]
