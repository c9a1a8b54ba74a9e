"""A Redis that refuses: clients, operators and balancers are told why, and the log once."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.live.deployment import publish
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.keys import Keys
from tests.service.bundles import Shop
from tests.service.serving import Serving, serving
from tests.training.shop import Shop as Collector
from tests.waiting import until

keys = Keys()

pytestmark = pytest.mark.anyio

Refusing = Callable[[Redis, Path], AbstractContextManager[None]]


@contextmanager
def full(client: Redis, _: Path) -> Iterator[None]:
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", 0)


@contextmanager
def read_only(client: Redis, _: Path) -> Iterator[None]:
    client.replicaof("127.0.0.1", "1")
    yield
    client.replicaof("NO", "ONE")


@contextmanager
def without_rights(client: Redis, _: Path) -> Iterator[None]:
    client.acl_setuser("default", commands=["-@write"])
    yield
    client.acl_setuser("default", commands=["+@all"])


@contextmanager
def unable_to_save(client: Redis, directory: Path) -> Iterator[None]:
    """Its directory has gone."""
    shutil.rmtree(directory / "redis")
    client.config_set("save", "3600 1000000")
    client.bgsave()
    until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err" or None)
    yield
    client.config_set("save", "")


@contextmanager
def without_replicas(client: Redis, _: Path) -> Iterator[None]:
    client.config_set("min-replicas-to-write", 1)
    yield
    client.config_set("min-replicas-to-write", 0)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def service(artifacts: Path, own_redis: EmbeddedRedis) -> AsyncIterator[Serving]:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    async with serving(artifacts, own_redis.url, quality_share=0.0, trending_refresh_seconds=60) as service:
        yield service


@pytest.mark.parametrize(
    ("refusing", "reason"),
    [
        (full, "Redis is full"),
        (read_only, "Redis is read-only"),
        (without_rights, "Redis does not permit it"),
        (unable_to_save, "Redis cannot save its data"),
        (without_replicas, "Redis lacks replicas to write to"),
    ],
)
async def test_why_is_told_to_clients_balancers_and_once_to_the_log(
    service: Serving, own_redis: EmbeddedRedis, tmp_path: Path, refusing: Refusing, reason: str
) -> None:
    assert (await service.click("s", "i1")).status_code == 200
    with Redis.from_url(own_redis.url, decode_responses=True) as client:
        with refusing(client, tmp_path), capture_logs() as logs:
            for _ in range(3):
                refused = await service.click("s", "i2")
                assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (503, reason)
                ready = await service.client.get("/health/ready")
                assert (ready.status_code, ready.json()["detail"]) == (503, reason)
                answer = await service.client.post("/clicks", json=[{"session_id": "s", "item_id": "i2"}])
                assert answer.json()["events"][0]["detail"].split(":")[0] == reason
                assert (await service.recommend("s"))["items"]
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["redis refuses"]
        assert own_redis.socket_path not in refused.text + ready.text
    assert (await service.client.get("/health/ready")).status_code == 200
    assert (await service.click("s", "i2")).json()["length"] == 2


async def test_a_full_redis_lets_sessions_be_erased_and_takes_clicks_again_once_they_are_collected(
    artifacts: Path, own_redis: EmbeddedRedis
) -> None:
    settings = Settings(artifacts_dir=artifacts, redis_url=own_redis.url, shards=1)
    async with serving(artifacts, own_redis.url, shards=1, session_max_logged=100_000) as service:
        await service.click("erased", "mine")
        await service.click("expired", "mine")
        with Redis.from_url(own_redis.url, decode_responses=True) as client:
            client.delete(keys.session(0, "expired"), keys.marks(0, "expired"))
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 400_000)
            batch = [{"session_id": "s", "item_id": "i"}] * 100
            statuses = {200}
            while statuses == {200}:
                answer = await service.client.post("/clicks", json=batch)
                statuses = {event["status"] for event in answer.json()["events"]}
            client.config_set("maxmemory", 1)  # whatever was freed meanwhile
            assert (await service.client.delete("/sessions/erased")).status_code == 204
            assert (await service.client.delete("/sessions/expired")).status_code == 404
            assert (await service.client.delete("/sessions/never-known")).status_code == 404
            assert (await service.client.get("/sessions/erased")).status_code == 404
            assert (await service.click("s", "i")).status_code == 503

            collector = Collector(settings, client)
            collected = (await asyncio.to_thread(collector.collect)).totals
            assert (collected.erased_sessions, "mine" in collector.items()) == (3, False)
            assert client.xlen(keys.click_log(0)) == 0
            assert (await service.client.delete("/sessions/s")).status_code == 204
            client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 400_000)
        assert (await service.click("s", "i")).status_code == 200
