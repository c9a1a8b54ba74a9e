"""Trending and the click log's metrics are followed side by side: one that fails does not stop the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from redis import Redis

from service.live.click_log_metrics import follow_click_log
from service.live.trending import Trending
from service.process.settings import Settings
from service.state.keys import Keys
from service.state.store import Click, SessionStore
from tests.service.serving import serving
from tests.waiting import DEADLINE_SECONDS, eventually

keys = Keys()

pytestmark = pytest.mark.anyio

REFRESH_SECONDS = 0.005


@asynccontextmanager
async def following(redis_url: str, tmp_path: Path) -> AsyncIterator[tuple[SessionStore, Trending]]:
    """Both followers on a store of one shard."""
    store = SessionStore(Settings(redis_timeout_seconds=DEADLINE_SECONDS, shards=1), redis_url)
    trending = Trending(store)
    loops = (trending.follow(REFRESH_SECONDS), follow_click_log(store, REFRESH_SECONDS, tmp_path))
    tasks = [asyncio.create_task(loop) for loop in loops]
    try:
        yield store, trending
        assert not any(task.done() for task in tasks), "they go on for ever"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await store.close()


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0


def errors(operation: str) -> float:
    return metric("nextclick_redis_errors_total", operation=operation)


def items(trending: Trending) -> list[str]:
    return [item_id for item_id, _ in trending.top(9, lambda _: True)]


async def test_trending_that_cannot_be_read_does_not_hide_the_click_log(
    redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    async with following(redis_url, tmp_path) as (store, trending):
        await store.append("s", Click("a", time.time()))
        await eventually(lambda: items(trending) == ["a"])
        counts, _ = keys.trending(0)
        redis_client.set(counts, "no sorted set")
        failed, log_failed = errors("trending"), errors("click_log")
        await eventually(lambda: errors("trending") > failed)
        redis_client.xadd(keys.click_log(0), {"seq": 2})
        await eventually(lambda: metric("nextclick_click_log_entries") == 2)
        assert errors("click_log") == log_failed
        assert items(trending) == ["a"], "the copy outlives it"
        redis_client.delete(counts)
        await eventually(lambda: items(trending) == [])


async def test_a_click_log_that_cannot_be_read_does_not_stop_trending(
    redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    async with following(redis_url, tmp_path) as (store, trending):
        await store.append("s", Click("a", time.time()))
        await eventually(lambda: items(trending) == ["a"])
        redis_client.set(keys.click_log(0), "no stream")
        failed, trending_failed = errors("click_log"), errors("trending")
        await eventually(lambda: errors("click_log") > failed)
        counts, _ = keys.trending(0)
        redis_client.zadd(counts, {"b": 9})
        await eventually(lambda: items(trending) == ["b", "a"])
        assert errors("trending") == trending_failed


async def test_the_service_follows_both(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url, shards=1) as service:
        await service.click("s", "a", "a", "a", "a", "a", "a", "a")
        await eventually(lambda: items(service.trending) == ["a"])
        await eventually(lambda: metric("nextclick_click_log_entries") == 7)
