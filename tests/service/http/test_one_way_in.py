"""Middleware that is added the ordinary way sees every request, whichever route answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from service.http.app import create_app
from service.live.deployment import publish
from service.process.settings import Settings
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, PATIENT

pytestmark = pytest.mark.anyio

SHOP = "https://shop.example"


class Probe:
    """ASGI middleware that notes which route answered."""

    def __init__(self, app: ASGIApp, seen: list[tuple[str, str]]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        if scope["type"] == "http":
            self.seen.append((scope["method"], scope["route"].path_format))


@pytest.fixture
async def app(artifacts: Path, redis_url: str) -> AsyncIterator[FastAPI]:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    app = create_app(
        Settings.model_validate(
            {
                "artifacts_dir": artifacts,
                "redis_url": redis_url,
                "redis_timeout_seconds": PATIENT,
                "admin_api_key": ADMIN["X-API-Key"],
            }
        )
    )
    async with app.router.lifespan_context(app):
        yield app


async def test_each_route_passes_the_probe_and_cors(app: FastAPI) -> None:
    seen: list[tuple[str, str]] = []
    app.add_middleware(Probe, seen=seen)
    app.add_middleware(CORSMiddleware, allow_origins=[SHOP], allow_methods=["*"], allow_headers=["*"])
    document = app.openapi()
    calls = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert len(calls) == 36
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        for method, path in calls:
            url = path.format(session_id="s", item_id="i1", name="home")
            answer = await client.request(method, url, headers={"Origin": SHOP, **ADMIN})
            assert answer.headers["access-control-allow-origin"] == SHOP, (method, path)
        preflight = await client.options(
            "/sessions/s/click",
            headers={
                "Origin": SHOP,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "content-type",
            },
        )
        assert preflight.status_code == 200, preflight.text
    assert seen == calls


async def test_a_header_added_by_middleware_is_on_a_recommendation(app: FastAPI) -> None:
    @app.middleware("http")
    async def name_it(request, call_next):  # type: ignore[no-untyped-def]
        answer = await call_next(request)
        answer.headers["X-Request-ID"] = "7"
        return answer

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        answer = await client.get("/recommend", params={"session_id": "s"})
        clicked = await client.post("/sessions/s/click", json={"item_id": "i1"})
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "7")
    assert (clicked.status_code, clicked.headers["x-request-id"]) == (200, "7")
