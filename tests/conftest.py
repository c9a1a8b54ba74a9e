"""Fixtures shared by every test: a real Redis per test process, empty at the start of each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis import Redis

from service.process.embedded_redis import EmbeddedRedis
from tests.service.state.cluster import Cluster, running_cluster

# A property holds or not, however long an example takes on this machine.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Tests marked `anyio` run on the event loop that the service runs on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedRedis]:
    """A private redis-server for this test process."""
    with EmbeddedRedis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def redis_client(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    """A plain client of an empty Redis, for looking behind the store's back."""
    with Redis(unix_socket_path=redis_server.socket_path, decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis, redis_client: Redis) -> str:
    """The URL of an empty Redis."""
    return redis_server.url


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Redis Cluster of three masters and three replicas for this test process."""
    with running_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running


@pytest.fixture
def redis_cluster(redis_servers: Cluster) -> Cluster:
    """The same, empty and whole."""
    redis_servers.restore()
    return redis_servers


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """An empty artifacts directory."""
    path = tmp_path / "artifacts"
    path.mkdir()
    return path
