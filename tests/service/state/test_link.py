"""The one connection to Redis: who gets which reply, what is given up, and who we are."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from redis.asyncio.connection import parse_url

from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state import link as redis_link
from service.state.connection import READ_SECONDS
from service.state.link import SILENCE_SECONDS, RedisLink, StoreUnavailable, value
from tests.service.state.clock import StillClock
from tests.waiting import stopped

pytestmark = pytest.mark.anyio

PATIENT = 60.0  # seconds, that only a failure reaches
PING = [("PING",)]
MakeLink = Callable[..., RedisLink]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may stop."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def make_link() -> AsyncIterator[MakeLink]:
    """Makes links, and closes them."""
    links = []

    def make(url: str, timeout_seconds: float = PATIENT, clock: StillClock | None = None) -> RedisLink:
        links.append(RedisLink(Settings(redis_timeout_seconds=timeout_seconds), url, (), clock=clock))
        return links[-1]

    yield make
    for link in links:
        await link.close()


@pytest.fixture
def link(make_link: MakeLink, redis_url: str) -> RedisLink:
    return make_link(redis_url)


async def turns() -> None:
    """Long enough for a call to be made and sent, or to end; no time passes."""
    for _ in range(5):
        await asyncio.sleep(0)


def connections(server: EmbeddedRedis) -> set[str]:
    """The ids of all connections but the one that asks."""
    with Redis.from_url(server.url) as client:
        return {found["id"] for found in client.client_list()} - {str(client.client_id())}


async def test_every_caller_gets_its_own_replies(link: RedisLink) -> None:
    rng = random.Random(1)

    async def echo(number: int) -> None:
        for _ in range(rng.randint(0, 20)):
            await asyncio.sleep(0)
        words = [f"{number}.{i}" for i in range(rng.randint(1, 5))]
        assert await link.run(lambda: [("ECHO", word) for word in words]) == words

    await asyncio.gather(*(echo(number) for number in range(500)))


async def test_callers_share_one_connection(make_link: MakeLink, own_redis: EmbeddedRedis) -> None:
    link = make_link(own_redis.url)
    await asyncio.gather(*(link.run(lambda: list(PING)) for _ in range(50)))
    assert len(connections(own_redis)) == 1


async def test_callers_of_one_turn_share_one_packet(make_link: MakeLink, own_redis: EmbeddedRedis) -> None:
    link = make_link(own_redis.url)
    await link.run(lambda: list(PING))
    with Redis.from_url(own_redis.url) as client:
        client.config_resetstat()
        assert await asyncio.gather(*(link.run(lambda: list(PING)) for _ in range(50))) == [["PONG"]] * 50
        stats = client.info("stats")
    assert stats["total_reads_processed"] <= 1 + 2, "ours, and those of this client"


async def test_each_call_has_a_deadline_of_its_own(make_link: MakeLink, own_redis: EmbeddedRedis) -> None:
    clock = StillClock()
    link = make_link(own_redis.url, 0.2, clock)
    await link.run(lambda: list(PING))
    ended: dict[int, int] = {}

    async def call(begin: int) -> None:
        with pytest.raises(StoreUnavailable, match="no answer"):
            await link.run(lambda: list(PING))
        ended[begin] = millisecond

    with stopped(own_redis.pid):
        calls = []
        for millisecond in range(600):
            clock.move_to(millisecond / 1000)
            if millisecond in (0, 50, 100, 300):
                calls.append(asyncio.create_task(call(millisecond)))
            await turns()
        await asyncio.gather(*calls)
    assert list(ended) == [0, 50, 100, 300]
    for begin, end in ended.items():
        assert 200 <= end - begin <= 200 + 4, "the deadline, and the time that is given to read once more"


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_hanging_redis_costs_each_call_its_timeout_and_no_more(
    make_link: MakeLink, own_redis: EmbeddedRedis, is_connected: bool
) -> None:
    clock = StillClock()
    link = make_link(own_redis.url, 0.05, clock)
    if is_connected:
        await link.run(lambda: list(PING))
    with stopped(own_redis.pid):
        calls = [asyncio.create_task(link.run(lambda: list(PING))) for _ in range(40)]
        await turns()
        clock.move_to(0.049)
        await turns()
        assert not any(call.done() for call in calls)
        clock.move_to(0.05)
        clock.move_to(0.05 + READ_SECONDS)
        async with asyncio.timeout(PATIENT):
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_busy_loop_is_not_taken_for_a_hanging_redis(
    make_link: MakeLink, redis_url: str, is_connected: bool
) -> None:
    """An answer that arrived in time counts, however late the loop comes to read it."""
    clock = StillClock()
    link = make_link(redis_url, 0.05, clock)
    if is_connected:
        await link.run(lambda: list(PING))
    calling = asyncio.create_task(link.run(lambda: [("ECHO", "late")]))
    await asyncio.sleep(0)
    clock.move_to(10)  # the loop had other things to do
    async with asyncio.timeout(PATIENT):
        assert await calling == ["late"]


@pytest.mark.parametrize("is_connected", [True, False])
async def test_a_late_loop_waits_once_more_for_as_long_as_it_was_late(
    make_link: MakeLink, own_redis: EmbeddedRedis, is_connected: bool
) -> None:
    clock = StillClock()
    link = make_link(own_redis.url, 1, clock)
    if is_connected:
        await link.run(lambda: list(PING))
    with stopped(own_redis.pid):
        calling = asyncio.create_task(link.run(lambda: list(PING)))
        await turns()
        clock.move_to(10)
        clock.move_to(18.9)
        await turns()
        assert not calling.done()
        clock.move_to(19)
        with pytest.raises(StoreUnavailable, match="no answer"):
            async with asyncio.timeout(PATIENT):
                await calling


async def test_a_refusal_is_the_reply_of_its_own_command(link: RedisLink) -> None:
    good, bad, again = await link.run(lambda: [("ECHO", "a"), ("NOSUCHCOMMAND",), ("ECHO", "b")])
    assert (good, again) == ("a", "b")
    with pytest.raises(StoreUnavailable, match="unknown command"):
        value(bad)


async def test_a_call_that_gave_up_leaves_its_reply_to_nobody(
    make_link: MakeLink, own_redis: EmbeddedRedis
) -> None:
    clock = StillClock()
    link = make_link(own_redis.url, 0.1, clock)
    assert await link.run(lambda: [("ECHO", "first")]) == ["first"]
    with stopped(own_redis.pid):
        await give_up(link, clock)
    assert await link.run(lambda: [("ECHO", "next")]) == ["next"]
    assert len(connections(own_redis)) == 1


@pytest.mark.parametrize(
    ("silent_seconds", "is_given_up"), [(SILENCE_SECONDS - 0.1, False), (SILENCE_SECONDS + 0.1, True)]
)
async def test_a_connection_that_stays_silent_is_given_up(
    make_link: MakeLink, own_redis: EmbeddedRedis, silent_seconds: float, is_given_up: bool
) -> None:
    clock = StillClock()
    link = make_link(own_redis.url, 0.15, clock)
    await link.run(lambda: list(PING))
    first = connections(own_redis)
    with stopped(own_redis.pid):
        await give_up(link, clock)
        clock.move_to(silent_seconds - 0.15 - READ_SECONDS)
        await give_up(link, clock)
    assert await link.run(lambda: list(PING)) == ["PONG"]
    async with asyncio.timeout(PATIENT):
        while (now := connections(own_redis)) & first and is_given_up:  # until Redis has noticed
            await asyncio.sleep(0.01)
    assert (now == first) is not is_given_up


async def give_up(link: RedisLink, clock: StillClock) -> None:
    """A call that gets no answer."""
    calling = asyncio.create_task(link.run(lambda: [("ECHO", "late")]))
    await turns()
    clock.move_to(clock.time() + link.timeout_seconds)
    clock.move_to(clock.time() + READ_SECONDS)
    with pytest.raises(StoreUnavailable, match=r"no answer from .* within 0.1\d* s"):
        await calling


async def test_it_says_who_it_is_and_which_database_it_wants(
    make_link: MakeLink, own_redis: EmbeddedRedis
) -> None:
    secret = "a secret / with @ signs"
    with Redis.from_url(own_redis.url, db=3) as client:
        client.set("where", "in three")
        client.acl_setuser("shop", enabled=True, passwords=[f"+{secret}"], commands=["+@all"], keys=["*"])
        client.config_set("requirepass", secret)
    socket = own_redis.url
    for query in (f"db=3&password={quote(secret)}", f"db=3&username=shop&password={quote(secret)}"):
        link = make_link(f"{socket}?{query}")
        assert await link.run(lambda: [("GET", "where")]) == ["in three"]
    link = make_link(f"{socket}?password=wrong")
    with pytest.raises(StoreUnavailable, match="WRONGPASS"):
        await link.run(lambda: [("PING",)])


async def test_a_handshake_without_an_answer_leaves_no_connection_behind(
    make_link: MakeLink, own_redis: EmbeddedRedis
) -> None:
    with Redis.from_url(own_redis.url) as client:
        client.config_set("requirepass", "secret")
    url = f"{own_redis.url}?password=secret"
    link = make_link(url, 0.05)
    with stopped(own_redis.pid):
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="no answer"):
                await link.run(lambda: [("PING",)])
    with Redis.from_url(url) as client:
        async with asyncio.timeout(PATIENT):
            while client.info("clients")["connected_clients"] > 1:  # this one
                await asyncio.sleep(0.02)
        assert client.info("clients")["connected_clients"] == 1


def test_tls_follows_from_the_url() -> None:
    assert redis_link._tls(parse_url("redis://host:1/2")) is None
    strict = redis_link._tls(parse_url("rediss://:secret@host:1/2"))
    lax = redis_link._tls(parse_url("rediss://host?ssl_cert_reqs=none&ssl_check_hostname=false"))
    assert strict is not None
    assert lax is not None
    assert (strict.verify_mode, lax.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)
    assert strict.check_hostname
