"""The web application of one worker: puts the parts together, and runs what runs beside the requests."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import perf_counter
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http import admin, api, problems
from service.http.front import Front, seconds_of
from service.http.security import BodyLimit, Gate
from service.live.click_log_metrics import follow_click_log
from service.live.follower import DeploymentFollower
from service.live.quality import QualityMonitor
from service.live.trending import Trending
from service.process.settings import Settings, load_settings
from service.ranking.retriever import use_one_thread
from service.recommender import Recommender
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

# A thread that loads a bundle gives way to requests this soon; Python's own 5 ms are several to each of them.
SWITCH_SECONDS = 0.0005
DESCRIPTION = "Next-click recommendations for anonymous shoppers. Errors are RFC 9457 problem documents."

log = structlog.get_logger()


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; without `settings` they come from the environment. Raises `SettingsError`."""
    settings = settings or load_settings()
    if settings.redis_url is None:
        raise ValueError("redis_url is not set: `python -m service` starts a Redis and sets it")
    use_one_thread()
    sys.setswitchinterval(SWITCH_SECONDS)
    store = SessionStore(settings, settings.redis_url)
    follower = DeploymentFollower(settings.artifacts_dir, settings.deployment_poll_seconds)
    trending = Trending(store)
    recommender = Recommender(
        store, follower, trending, QualityMonitor(store, settings.quality_share), settings
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        follower.look()
        await follower.settle()
        with suppress(StoreUnavailable):  # the first contact takes longest: no request shall wait for it
            await trending.refresh()
        # What is there now stays: a full collection that looks at all of it would stop every request.
        gc.collect()
        gc.freeze()
        followers = (
            follower.follow(),
            trending.follow(settings.trending_refresh_seconds),
            follow_click_log(store, settings.trending_refresh_seconds),
        )
        tasks = [asyncio.create_task(follow) for follow in followers]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await store.close()

    app = Front(
        settings, title="Nextclick", description=DESCRIPTION, lifespan=lifespan, redirect_slashes=False
    )
    app.state.settings = settings
    app.state.store = store
    app.state.follower = follower
    app.state.trending = trending
    app.state.recommender = recommender
    app.state.gate = Gate(settings, store)
    for router in (api.router, admin.router, admin.probes):
        app.add_routes(router.routes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)  # these two for all but compiled routes
    app.add_middleware(MeasureRequests)
    problems.add_problem_handlers(app)
    _describe_problems(app)
    return app


class MeasureRequests:
    """Times the requests that FastAPI answers."""

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
            seconds_of(scope["method"], route, status).observe(perf_counter() - started)


def _describe_problems(app: FastAPI) -> None:
    """Have OpenAPI describe the problem documents, in place of FastAPI's own 422."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            components = generate()["components"]["schemas"]
            components.update(problems.schemas())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
