"""The service in this process: the real app on a real Redis, behind an HTTP client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from prometheus_client import generate_latest

from service.http.app import create_app
from service.live.follower import DeploymentFollower
from service.live.quality import QualityMonitor
from service.live.trending import Trending
from service.process.settings import Settings
from service.recommender import Recommender
from service.state.items import ItemStore
from service.state.store import SessionStore
from tests.waiting import DEADLINE_SECONDS

PATIENT = DEADLINE_SECONDS  # on a busy machine only the tests of the time-out itself should meet it
ADMIN = {"X-API-Key": "admin-key"}


@dataclass(frozen=True)
class Serving:
    """A running app."""

    client: httpx.AsyncClient
    follower: DeploymentFollower
    recommender: Recommender
    trending: Trending
    store: SessionStore
    items: ItemStore

    async def click(self, session_id: str, *item_ids: str, **fields: object) -> httpx.Response:
        """Click items in order; returns the last answer."""
        for item_id in item_ids:
            answer = await self.client.post(
                f"/sessions/{session_id}/click", json={"item_id": item_id, **fields}
            )
        return answer

    async def recommend(self, session_id: str, **parameters: Any) -> dict[str, Any]:
        """The answer to GET /recommend, which must be 200."""
        answer = await self.client.get("/recommend", params={"session_id": session_id, **parameters})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def metric(self, line: str) -> float:
        """The value of one line of this process's metrics; 0 when it is not there."""
        page = generate_latest().decode()
        return next(
            (float(row.rpartition(" ")[2]) for row in page.splitlines() if row.startswith(line + " ")), 0
        )


@asynccontextmanager
async def serving(artifacts: Path, redis_url: str, **changed: object) -> AsyncIterator[Serving]:
    """Start the app, with any settings, and stop it again."""
    settings = {
        "artifacts_dir": artifacts,
        "redis_url": redis_url,
        "redis_timeout_seconds": PATIENT,
        "deployment_poll_seconds": 0.02,
        "trending_refresh_seconds": 0.02,
        "admin_api_key": ADMIN["X-API-Key"],
        **changed,
    }
    app = create_app(Settings.model_validate(settings))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        state = app.state
        yield Serving(client, state.follower, state.recommender, state.trending, state.store, state.items)


def recommender_of(store: SessionStore, follower: DeploymentFollower, trending: Trending) -> Recommender:
    """The parts put together as the app does, with default settings."""
    settings = Settings()
    return Recommender(store, follower, trending, QualityMonitor(store, settings.quality_share), settings)


def item_ids(answer: dict[str, Any]) -> list[str]:
    """The items of an answer, best first."""
    return [item["item_id"] for item in answer["items"]]
