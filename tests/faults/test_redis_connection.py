"""Connecting to a Redis that is far away, or another one than before: real TLS, a proxy, a real Redis."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.connection import READ_SECONDS
from service.state.keys import Keys
from service.state.link import RedisLink, StoreUnavailable
from service.state.store import Appended, Click, SessionStore
from tests.faults.proxy import proxied, server_context
from tests.service.state.clock import StillClock
from tests.waiting import DEADLINE_SECONDS, eventually

keys = Keys()

pytestmark = pytest.mark.anyio

MakeStore = Callable[..., SessionStore]
PASSWORD = "a pass word"


@pytest.fixture
async def make_store() -> AsyncIterator[MakeStore]:
    """Makes stores, and closes them."""
    stores = []

    def make(
        url: str, timeout_seconds: float = DEADLINE_SECONDS, clock: StillClock | None = None
    ) -> SessionStore:
        settings = Settings(redis_timeout_seconds=timeout_seconds, redis_connect_timeout_seconds=1000)
        stores.append(SessionStore(settings, url, clock=clock))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def times_out(store: SessionStore, clock: StillClock) -> None:
    """A call that gets no answer within its 50 ms."""
    calling = asyncio.create_task(store.ping())
    await turns()
    clock.move_to(clock.time() + 0.05)
    clock.move_to(clock.time() + READ_SECONDS)
    with pytest.raises(StoreUnavailable, match="no answer"):
        await calling


async def test_a_far_redis_behind_tls_is_reached_though_no_call_waits_so_long(
    make_store: MakeStore, own_redis: EmbeddedRedis, certificate: tuple[Path, Path]
) -> None:
    with Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", PASSWORD)
    clock = StillClock()
    async with proxied(own_redis.socket_path, server_context(*certificate)) as proxy:
        url = f"rediss://:{PASSWORD.replace(' ', '%20')}@localhost:{proxy.port}?ssl_ca_certs={certificate[0]}"
        store = make_store(url, 0.05, clock)
        proxy.answers.clear()
        for _ in range(32):
            await times_out(store, clock)
        await eventually(lambda: proxy.accepted)
        proxy.answers.set()
        await eventually(lambda: store._link.is_connected)
        assert await store.append("s", Click("a", 1.0)) == Appended(1, False)
        assert proxy.accepted == 1, "one try, which none of these calls has ended"


async def test_the_tls_context_is_made_once(
    make_store: MakeStore, own_redis: EmbeddedRedis, certificate: tuple[Path, Path]
) -> None:
    async with proxied(own_redis.socket_path, server_context(*certificate)) as proxy:
        store = make_store(f"rediss://localhost:{proxy.port}?ssl_ca_certs={certificate[0]}")
        await store.ping()
        assert isinstance(store._link, RedisLink)
        context = store._link._dialer._tls
        assert context is not None
        for tries in (2, 3):
            with Redis.from_url(own_redis.url) as client:
                client.client_kill_filter(skipme=True, _type="normal")
            await eventually(lambda: proxy.accepted == tries)  # noqa: B023
            await store.ping()
        assert store._link._dialer._tls is context


async def test_a_redis_whose_certificate_nobody_vouches_for_gets_no_password(
    make_store: MakeStore, own_redis: EmbeddedRedis, certificate: tuple[Path, Path]
) -> None:
    async with proxied(own_redis.socket_path, server_context(*certificate)) as proxy:
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await make_store(f"rediss://:hush@localhost:{proxy.port}").ping()
        assert "hush" not in str(caught.value)
        assert isinstance(caught.value.__cause__, ssl.SSLError | None)
        assert proxy.accepted == 0


async def test_after_bytes_were_lost_calls_are_answered_again(
    make_store: MakeStore, own_redis: EmbeddedRedis
) -> None:
    """Each reply would go to the call before, for good."""
    clock = StillClock()
    async with proxied(own_redis.socket_path) as proxy:
        store = make_store(f"redis://127.0.0.1:{proxy.port}", 0.05, clock)
        await store.ping()
        clock.move_to(10)
        proxy.swallows = True
        await times_out(store, clock)
        proxy.swallows = False
        for i in range(3):
            assert await store.append(f"s{i}", Click("a", 1.0)) == Appended(1, False)
        assert proxy.accepted == 2


async def test_after_a_failover_clicks_go_to_the_new_primary(
    make_store: MakeStore, own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    """The old one still answers, READONLY; the address leads to the other."""
    with EmbeddedRedis(tmp_path / "other") as other, Redis.from_url(own_redis.url) as old:
        async with proxied(own_redis.socket_path) as proxy:
            store = make_store(f"redis://127.0.0.1:{proxy.port}")
            await store.append("s", Click("a", 1.0))
            old.replicaof("127.0.0.1", "1")
            with capture_logs() as logs:
                for _ in range(3):
                    with pytest.raises(StoreUnavailable) as caught:
                        await store.append("s", Click("b", 2.0))
                    assert caught.value.reason == "Redis is read-only"
                    with pytest.raises(StoreUnavailable):
                        await store.check_writable()
                assert await store.read("s") == (Click("a", 1.0),), "reading goes on"
                assert [entry.get("code") for entry in logs] == ["READONLY"], "told once"
                proxy.backend = other.socket_path

                async with asyncio.timeout(DEADLINE_SECONDS):
                    while not await store.read("new"):
                        with suppress(StoreUnavailable):
                            await store.append("new", Click("c", 3.0))
                        await asyncio.sleep(0.01)
            await store.check_writable()
        with Redis.from_url(other.url) as new:
            assert new.exists(keys.session(store._shard("new"), "new"))


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        ("LOADING Redis is loading the dataset in memory", "Redis is loading its data"),
        ("MASTERDOWN Link with MASTER is down", "Redis has lost its primary"),
        ("CLUSTERDOWN The cluster is down", "the Redis cluster is down"),
    ],
)
async def test_a_redis_that_is_not_ready_is_tried_until_it_is(
    make_store: MakeStore, own_redis: EmbeddedRedis, refusal: str, reason: str
) -> None:
    async with proxied(own_redis.socket_path) as proxy:
        proxy.refusal = f"-{refusal}\r\n".encode()
        store = make_store(f"redis://127.0.0.1:{proxy.port}")
        with capture_logs() as logs:
            for _ in range(3):
                with pytest.raises(StoreUnavailable) as caught:
                    await store.ping()
                assert caught.value.reason == reason
            proxy.refusal = b""
            await eventually(lambda: store._link.is_connected)
        assert await store.append("s", Click("a", 1.0)) == Appended(1, False)
        assert [entry["event"] for entry in logs] == ["no connection to redis", "connected to redis"]
        before = proxy.accepted
        proxy.refusal = f"-{refusal}\r\n".encode()  # on an open connection
        with pytest.raises(StoreUnavailable) as caught:
            await store.ping()
        assert caught.value.reason == reason
        proxy.refusal = b""
        await eventually(lambda: proxy.accepted > before)
