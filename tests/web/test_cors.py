"""Pages of other origins, as their browsers ask: first whether they may, then with an Origin each time."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.types import Message

from service.live.deployment import publish
from service.process.origins import Origins
from service.process.protocol import LONG_BODY
from tests.service.bundles import Shop
from tests.service.processes import Service, running
from tests.web.wire import Answer, Wire, request

SHOP, OTHER_SHOP, BOUND, EVIL = (
    f"https://{name}.example" for name in ("shop", "other-shop", "bound", "evil")
)
KEY, BOUND_KEY = "public-key-0123456789", "bound-key-0123456789"
KEYS = [
    {"label": "web", "scope": "public", "key": KEY},
    {"label": "bound", "scope": "public", "key": BOUND_KEY, "origins": [BOUND]},
]
ADMIN_KEY = "admin-key"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
MAX_BODY_BYTES, MAX_HEAD_BYTES = 3000, 2048


@contextmanager
def serving(directory: Path, **environment: str) -> Iterator[Service]:
    artifacts = directory / "artifacts"
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    settings = {
        "NEXTCLICK_ARTIFACTS_DIR": str(artifacts),
        "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "60",
        "NEXTCLICK_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        "NEXTCLICK_MAX_HEAD_BYTES": str(MAX_HEAD_BYTES),
    }
    with running(directory, workers=1, **settings | environment) as service:
        service.each("/health/ready")
        yield service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    environment = {
        "NEXTCLICK_KEYS": json.dumps(KEYS),
        "NEXTCLICK_ADMIN_API_KEY": ADMIN_KEY,
        "NEXTCLICK_CORS_ORIGINS": f"{SHOP},{OTHER_SHOP}",
        "NEXTCLICK_RATE_LIMIT_PER_MINUTE": "100000",
    }
    directory = tmp_path_factory.mktemp("cors")
    with serving(directory, **environment) as service:
        yield service
    shutil.rmtree(directory)


def preflight(wire: Wire, origin: str, method: str = "POST", path: str = "/recommend") -> Answer:
    headers = (
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", "content-type,x-api-key"),
    )
    return wire.ask("OPTIONS", path, None, ("Origin", origin), *headers)


def may_read(answer: Answer, origin: str) -> bool:
    """Whether a browser shows this answer to a page of this origin, and its headers."""
    assert answer.headers.get("vary") == "Origin", "or a cache would tell one page what another may read"
    allowed = answer.headers.get("access-control-allow-origin")
    assert allowed in (None, origin)
    assert "access-control-allow-credentials" not in answer.headers
    exposed = answer.headers.get("access-control-expose-headers")
    assert exposed == ("X-Request-ID, Retry-After" if allowed else None)
    return allowed == origin


@pytest.mark.parametrize("origin", [SHOP, OTHER_SHOP, BOUND])
@pytest.mark.parametrize("method", METHODS)
def test_a_browser_that_asks_first_is_told_once_a_day(service: Service, origin: str, method: str) -> None:
    with Wire(service.port) as wire:
        for path in ("/recommend", "/sessions/s/click", "/admin/placements/home", "/nowhere", "/"):
            answer = preflight(wire, origin, method, path)
            assert (answer.status, answer.body) == (204, b"")
            headers = answer.headers
            assert headers["access-control-allow-origin"] == origin
            assert method in headers["access-control-allow-methods"].split(", ")
            assert {"Content-Type", "X-API-Key"} <= set(headers["access-control-allow-headers"].split(", "))
            assert headers["access-control-max-age"] == "86400"
            assert headers["vary"] == "Origin"


@pytest.mark.parametrize("origin", [EVIL, "null", f"{SHOP}:8443", "http://shop.example", f"{SHOP}.evil", ""])
def test_others_are_not_let_in(service: Service, origin: str) -> None:
    with Wire(service.port) as wire:
        refused = preflight(wire, origin)
        assert (refused.status, refused.problem) == (403, "origin-not-allowed")
        assert not may_read(refused, origin)
        assert EVIL not in str(refused.json())
        answer = wire.ask("GET", "/trending", None, ("Origin", origin), ("X-API-Key", KEY))
        assert (answer.status, may_read(answer, origin)) == (200, False), "the browser keeps it from the page"


def test_options_without_a_question_are_as_before(service: Service) -> None:
    with Wire(service.port) as wire:
        assert wire.ask("OPTIONS", "/recommend").status == 405
        answer = wire.ask("OPTIONS", "/recommend", None, ("Origin", SHOP))
        assert (answer.status, may_read(answer, SHOP)) == (405, True)


def test_a_page_reads_what_it_is_answered_and_why_it_is_refused(service: Service) -> None:
    body = json.dumps({"items": ["i1"]}).encode()
    cases: tuple[tuple[int, str, str, bytes | None, str | None], ...] = (
        (200, "GET", "/recommend?session_id=s", None, KEY),
        (200, "POST", "/recommend", body, KEY),
        (200, "POST", "/sessions/s/click", b'{"item_id": "i1"}', KEY),
        (200, "GET", "/items", None, KEY),
        (401, "GET", "/trending", None, None),
        (403, "GET", "/trending", None, "wrong"),
        (403, "GET", "/trending", None, BOUND_KEY),
        (404, "GET", "/nowhere", None, KEY),
        (404, "GET", "/items/nothing", None, KEY),
        (405, "DELETE", "/trending", None, KEY),
        (413, "POST", "/recommend", b" " * (MAX_BODY_BYTES + 1), KEY),
        (422, "GET", "/recommend", None, KEY),
        (422, "GET", "/trending%ff", None, KEY),
        (200, "GET", "/admin/hidden", None, ADMIN_KEY),
        (200, "GET", "/models", None, KEY),
        (200, "GET", "/health/live", None, None),
    )
    for status, method, path, content, key in cases:
        with Wire(service.port) as wire:
            headers = [("Origin", SHOP), *([("X-API-Key", key)] if key is not None else [])]
            answer = wire.ask(method, path, content, *headers)
            assert (answer.status, may_read(answer, SHOP)) == (status, True), path


HEAD = request("POST", "/recommend", None, ("Origin", SHOP), ("X-API-Key", KEY))[:-2]


def test_a_page_reads_what_its_connection_says(service: Service) -> None:
    """Refused before there is a call: the id of it, and who may read it, are told all the same."""
    with Wire(service.port) as wire:
        wire.send(HEAD + b"X-Long: " + b"x" * MAX_HEAD_BYTES)
        long = wire.answer()
        assert (long.status, may_read(long, SHOP)) == (431, True)
    with Wire(service.port) as wire:
        wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        wire.send(b"1;" + b"x" * 2 * (8 * MAX_BODY_BYTES + MAX_HEAD_BYTES) + b"\r\n")
        long = wire.answer()
        assert (long.status, may_read(long, SHOP)) == (413, True)
        wire.forget()


def test_a_page_reads_that_it_was_too_slow(tmp_path: Path) -> None:
    torn = HEAD + b"Content-Length: 9\r\n\r\nabc"
    settings = {"NEXTCLICK_CORS_ORIGINS": SHOP, "NEXTCLICK_BODY_TIMEOUT_SECONDS": "0.05"}
    with serving(tmp_path, **settings) as service:
        with Wire(service.port) as wire:
            wire.send(torn)
            late = wire.answer()
            assert (late.status, may_read(late, SHOP)) == (408, True)
        with Wire(service.port) as wire:  # one whose turn comes after another's
            wire.send(request("GET", "/health/live") + torn)
            answers = [wire.answer(), wire.answer()]
            assert [(each.status, may_read(each, SHOP)) for each in answers] == [(200, False), (408, True)]


def test_a_page_reads_what_its_connection_says_in_its_turn() -> None:
    """Of a request that waits for the answer to another one: as an application in its place."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        raise AssertionError("nothing more is read")

    for origin, may in ((SHOP, True), (EVIL, False)):
        scope = {"type": "http", "headers": [(b"origin", origin.encode()), (b"x-request-id", b"mine")]}
        sent.clear()
        asyncio.run(LONG_BODY.told_to(Origins([SHOP]))(scope, receive, send))
        headers = dict(sent[0]["headers"])
        assert (sent[0]["status"], headers[b"x-request-id"]) == (413, b"mine")
        assert headers.get(b"access-control-allow-origin") == (SHOP.encode() if may else None)


def test_who_sends_no_origin_is_told_nothing(service: Service) -> None:
    with Wire(service.port) as wire:
        answer = wire.ask("GET", "/trending", None, ("X-API-Key", KEY))
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert answer.headers["vary"] == "Origin"


def test_a_key_is_bound_to_its_own_origins(service: Service) -> None:
    """Who may read and who may ask are two things: a page of another origin that is let in may not use it."""
    with Wire(service.port) as wire:
        for origin, status in ((BOUND, 200), (SHOP, 403), (EVIL, 403), ("null", 403)):
            answer = wire.ask("GET", "/trending", None, ("Origin", origin), ("X-API-Key", BOUND_KEY))
            assert (answer.status, may_read(answer, origin)) == (status, origin in (BOUND, SHOP))
            answer = wire.ask(
                "POST",
                f"/sessions/s/click?key={BOUND_KEY}",
                b'{"item_id": "i1"}',
                ("Origin", origin),
            )
            assert answer.status == status


def test_a_beacon_is_sent_without_asking_and_stored(service: Service) -> None:
    """Of no page's own headers, and of a type that browsers send anywhere."""
    body = b'{"item_id": "i1", "event_id": "e"}'
    head = f"POST /sessions/beacon/click?key={KEY} HTTP/1.1\r\nHost: x\r\nOrigin: {SHOP}\r\n"
    kind = f"Content-Type: text/plain;charset=UTF-8\r\nContent-Length: {len(body)}\r\n\r\n"
    with Wire(service.port) as wire:
        for duplicate in (False, True):
            wire.send((head + kind).encode() + body)
            answer = wire.answer()
            assert (answer.status, may_read(answer, SHOP)) == (200, True)
            assert answer.json() == {"session_id": "beacon", "length": 1, "duplicate": duplicate}


def test_anyone_may_be_let_in(tmp_path: Path) -> None:
    with serving(tmp_path, NEXTCLICK_CORS_ORIGINS="*") as service, Wire(service.port) as wire:
        for origin in (SHOP, EVIL, "null"):
            assert preflight(wire, origin).status == 204
            answer = wire.ask("GET", "/trending", None, ("Origin", origin))
            assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, "*")
            assert "vary" not in answer.headers, "it is the same for all"


def test_nobody_is_by_default(tmp_path: Path) -> None:
    with serving(tmp_path) as service, Wire(service.port) as wire:
        refused = preflight(wire, SHOP)
        assert (refused.status, refused.problem) == (403, "origin-not-allowed")
        assert "NEXTCLICK_CORS_ORIGINS" in refused.json()["detail"]
        answer = wire.ask("GET", "/trending", None, ("Origin", SHOP))
        assert answer.status == 200
        assert not [name for name in answer.headers if name.startswith("access-control") or name == "vary"]
