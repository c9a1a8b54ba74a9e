"""The one connection to Redis: who gets which reply, what is given up, and who we are."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from redis.asyncio.connection import parse_url

from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state import link as redis_link
from service.state.link import RedisLink, StoreUnavailable, value
from tests.service.processes import stopped
from tests.service.serving import PATIENT

pytestmark = pytest.mark.anyio


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may stop."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def link(redis_url: str) -> AsyncIterator[RedisLink]:
    link = RedisLink(Settings(redis_timeout_seconds=PATIENT), redis_url, ())
    yield link
    await link.close()


async def test_every_caller_gets_its_own_replies(link: RedisLink) -> None:
    rng = random.Random(1)

    async def echo(number: int) -> None:
        await asyncio.sleep(rng.random() / 100)
        words = [f"{number}.{i}" for i in range(rng.randint(1, 5))]
        assert await link.run(lambda: [("ECHO", word) for word in words]) == words

    await asyncio.gather(*(echo(number) for number in range(500)))


async def test_callers_share_one_connection(link: RedisLink, redis_client: Redis) -> None:
    before = redis_client.info("clients")["connected_clients"]
    await asyncio.gather(*(link.run(lambda: [("PING",)]) for _ in range(50)))
    assert redis_client.info("clients")["connected_clients"] == before + 1


async def test_callers_of_one_turn_share_one_packet(link: RedisLink, redis_client: Redis) -> None:
    await link.run(lambda: [("PING",)])
    redis_client.config_resetstat()
    assert await asyncio.gather(*(link.run(lambda: [("PING",)]) for _ in range(50))) == [["PONG"]] * 50
    stats = redis_client.info("stats")
    assert stats["total_reads_processed"] <= 1 + 2, "ours, and those of this client"


async def test_each_call_has_a_deadline_of_its_own(own_redis: EmbeddedRedis) -> None:
    link = RedisLink(Settings(redis_timeout_seconds=0.2), own_redis.url, ())
    await link.run(lambda: [("PING",)])
    loop = asyncio.get_running_loop()
    with stopped(own_redis.pid):
        took = []

        async def call(delay_seconds: float) -> None:
            await asyncio.sleep(delay_seconds)
            began = loop.time()
            with pytest.raises(StoreUnavailable, match="no answer"):
                await link.run(lambda: [("PING",)])
            took.append(loop.time() - began)

        await asyncio.gather(*(call(delay) for delay in (0, 0.05, 0.1, 0.3)))
    assert min(took) >= 0.2
    assert max(took) < 0.2 + PATIENT
    await link.close()


async def test_a_refusal_is_the_reply_of_its_own_command(link: RedisLink) -> None:
    good, bad, again = await link.run(lambda: [("ECHO", "a"), ("NOSUCHCOMMAND",), ("ECHO", "b")])
    assert (good, again) == ("a", "b")
    with pytest.raises(StoreUnavailable, match="unknown command"):
        value(bad)


async def test_a_call_that_gave_up_leaves_its_reply_to_nobody(own_redis: EmbeddedRedis) -> None:
    link = RedisLink(Settings(redis_timeout_seconds=0.1), own_redis.url, ())
    assert await link.run(lambda: [("ECHO", "first")]) == ["first"]
    with stopped(own_redis.pid), pytest.raises(StoreUnavailable, match=r"no answer from .* within 0.1 s"):
        await link.run(lambda: [("ECHO", "late")])
    assert await link.run(lambda: [("ECHO", "next")]) == ["next"]
    await link.close()


async def test_a_connection_that_stays_silent_is_given_up(
    own_redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_link, "SILENCE_SECONDS", 0.2)
    link = RedisLink(Settings(redis_timeout_seconds=0.15), own_redis.url, ())
    await link.run(lambda: [("PING",)])
    with Redis.from_url(own_redis.url) as client:
        (first,) = {c["id"] for c in client.client_list()} - {str(client.client_id())}
    with stopped(own_redis.pid):
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await link.run(lambda: [("PING",)])
    async with asyncio.timeout(PATIENT):
        while True:
            try:
                assert await link.run(lambda: [("PING",)]) == ["PONG"]
                break
            except StoreUnavailable:
                await asyncio.sleep(0.05)
    with Redis.from_url(own_redis.url) as client:
        now = {c["id"] for c in client.client_list()} - {str(client.client_id())}
    assert first not in now
    await link.close()


async def test_it_says_who_it_is_and_which_database_it_wants(own_redis: EmbeddedRedis) -> None:
    secret = "a secret / with @ signs"
    with Redis.from_url(own_redis.url, db=3) as client:
        client.set("where", "in three")
        client.acl_setuser("shop", enabled=True, passwords=[f"+{secret}"], commands=["+@all"], keys=["*"])
        client.config_set("requirepass", secret)
    socket = own_redis.url
    settings = Settings(redis_timeout_seconds=PATIENT)
    for query in (f"db=3&password={quote(secret)}", f"db=3&username=shop&password={quote(secret)}"):
        link = RedisLink(settings, f"{socket}?{query}", ())
        assert await link.run(lambda: [("GET", "where")]) == ["in three"]
        await link.close()
    link = RedisLink(settings, f"{socket}?password=wrong", ())
    with pytest.raises(StoreUnavailable, match="WRONGPASS"):
        await link.run(lambda: [("PING",)])
    await link.close()


async def test_a_greeting_without_an_answer_leaves_no_connection_behind(own_redis: EmbeddedRedis) -> None:
    with Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "secret")
    url = f"{own_redis.url}?password=secret"
    link = RedisLink(Settings(redis_timeout_seconds=0.05), url, ())
    with stopped(own_redis.pid):
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="no answer"):
                await link.run(lambda: [("PING",)])
    with Redis.from_url(url) as client:
        async with asyncio.timeout(PATIENT):
            while client.info("clients")["connected_clients"] > 1:  # this one
                await asyncio.sleep(0.02)
        assert client.info("clients")["connected_clients"] == 1
    await link.close()


def test_tls_follows_from_the_url() -> None:
    assert redis_link._tls(parse_url("redis://host:1/2")) is None
    strict = redis_link._tls(parse_url("rediss://:secret@host:1/2"))
    lax = redis_link._tls(parse_url("rediss://host?ssl_cert_reqs=none&ssl_check_hostname=false"))
    assert strict is not None
    assert lax is not None
    assert (strict.verify_mode, lax.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)
    assert strict.check_hostname
