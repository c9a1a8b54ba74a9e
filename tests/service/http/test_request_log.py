"""The one line that a request gets in the log: which requests, and what it tells."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog.testing
from starlette.types import Receive, Scope, Send

from service.http.app import create_app
from service.http.problems import Problem
from service.http.request_log import RequestLog, session_hash
from service.live.deployment import publish
from service.process.settings import Settings
from tests.service.bundles import Shop
from tests.service.serving import PATIENT, Serving, serving

pytestmark = pytest.mark.anyio

Entry = dict[str, Any]


@pytest.fixture
def published(artifacts: Path) -> Path:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


@pytest.fixture
async def service(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    async with serving(published, redis_url, access_log_share=1, quality_share=0) as service:
        yield service


async def lines(service: Serving, *requests: tuple[str, str, object]) -> list[Entry]:
    """The lines of these requests."""
    with structlog.testing.capture_logs() as logs:
        for method, path, body in requests:
            await service.client.request(method, path, json=body)
    return [dict(entry) for entry in logs if entry["event"] == "request"]


async def test_it_tells_the_route_the_session_and_what_answered(service: Serving) -> None:
    click, hashed = {"item_id": "i5"}, session_hash("a session")
    clicked = {"status": 200, "session": hashed}
    by_model = {**clicked, "version": "v1", "stage": "model", "degraded": False}
    for method, path, body, route, facts in (
        ("POST", "/sessions/a%20session/click", click, "/sessions/{session_id}/click", clicked),
        ("POST", "/sessions/a%20session/click?recommend=3", click, "/sessions/{session_id}/click", by_model),
        ("GET", "/recommend?session_id=a+session", None, "/recommend", by_model),
        ("GET", "/recommend?session_id=a+session&k=x", None, "/recommend", {"status": 422}),
        ("GET", "/sessions/a%20session", None, "/sessions/{session_id}", clicked),
        (
            "DELETE",
            "/sessions/a%20session",
            None,
            "/sessions/{session_id}",
            {"status": 204, "session": hashed},
        ),
        ("GET", "/sessions/a%20session", None, "/sessions/{session_id}", {"status": 404, "session": hashed}),
        ("GET", "/items/i5/similar", None, "/items/{item_id}/similar", {"status": 200, "version": "v1"}),
        ("GET", "/a%20session?api_key=hush", None, "other", {"status": 404}),
        ("GET", "/health/live", None, "/health/live", {"status": 200}),
    ):
        (entry,) = await lines(service, (method, path, body))
        assert entry.pop("ms") >= 0
        assert entry.pop("request_id")
        expected = {"event": "request", "log_level": "info", "method": method, "route": route, **facts}
        assert entry == expected, path


async def test_the_same_session_has_the_same_hash_everywhere() -> None:
    assert session_hash("visitor-7") == "f3fb9f1934a0"
    assert len({session_hash(f"visitor-{i}") for i in range(1000)}) == 1000


@asynccontextmanager
async def failing(published: Path, redis_url: str, **changed: object) -> AsyncIterator[httpx.AsyncClient]:
    """A service with two calls that fail."""
    settings = {
        "artifacts_dir": published,
        "redis_url": redis_url,
        "redis_timeout_seconds": PATIENT,
        **changed,
    }
    app = create_app(Settings.model_validate(settings))

    @app.get("/fail")
    async def fail() -> None:
        raise RuntimeError("it failed")

    @app.get("/busy")
    async def busy() -> None:
        raise Problem(503, "busy", "later")

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        yield client


async def test_our_faults_are_always_told(published: Path, redis_url: str) -> None:
    never = {"access_log_share": 0, "access_log_slow_ms": 1e9}
    async with failing(published, redis_url, **never) as client:
        with structlog.testing.capture_logs() as logs:
            for path in ("/fail", "/busy", "/health/live", "/nowhere", "/recommend"):
                answer = await client.get(path, headers={"X-Request-ID": path})
                assert answer.headers["x-request-id"] == path
    told = [(each["log_level"], each["route"], each["status"], each["request_id"]) for each in logs]
    assert told == [("warning", "/fail", 500, "/fail"), ("warning", "/busy", 503, "/busy")]


async def test_slow_ones_are_always_told(published: Path, redis_url: str) -> None:
    async with failing(published, redis_url, access_log_share=0, access_log_slow_ms=0) as client:
        with structlog.testing.capture_logs() as logs:
            await client.get("/health/live")
    assert [entry["route"] for entry in logs] == ["/health/live"]


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b""})


async def test_of_the_others_a_share_is_told() -> None:
    drawn = iter([0.0, 0.24, 0.25, 0.9])
    app = RequestLog(answer, share=0.25, slow_seconds=1e9, random_number=lambda: next(drawn))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        with structlog.testing.capture_logs() as logs:
            for number in range(4):
                assert (await client.get("/", headers={"X-Request-ID": str(number)})).status_code == 200
    assert [entry["request_id"] for entry in logs] == ["0", "1"]


async def test_a_traceback_names_the_request() -> None:
    async def fail(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("it failed")

    scope = {"type": "http", "method": "GET", "headers": [(b"x-request-id", b"mine")]}
    with pytest.raises(RuntimeError) as raised, structlog.testing.capture_logs():
        await RequestLog(fail, share=0, slow_seconds=1e9)(scope, _nothing, _nothing)
    assert raised.value.__notes__ == ["request id: mine"]


async def _nothing(*_: object) -> Any:
    return None
