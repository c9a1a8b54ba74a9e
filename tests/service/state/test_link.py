"""The one connection to Redis: who gets which reply, what is given up, and who we are."""

from __future__ import annotations

import asyncio
import random
import select
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from redis import Redis
from redis.asyncio.connection import parse_url
from structlog.testing import capture_logs

from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state import dialer
from service.state.connection import READ_SECONDS, Connection
from service.state.link import LONGEST_PAUSE_SECONDS, RedisLink, StoreUnavailable, value
from tests.service.state.clock import StillClock
from tests.waiting import eventually, stopped

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
        settings = Settings(redis_timeout_seconds=timeout_seconds, redis_connect_timeout_seconds=1000)
        links.append(RedisLink(settings, url, (), clock=clock))
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
    first = connections(own_redis)
    clock.move_to(LONGEST_PAUSE_SECONDS)
    with stopped(own_redis.pid):
        await give_up(link, clock)
    assert await link.run(lambda: [("ECHO", "next")]) == ["next"]
    await eventually(lambda: not connections(own_redis) & first)  # once Redis has noticed
    assert len(connections(own_redis)) == 1


async def test_calls_under_way_keep_their_deadlines_beside_one_that_is_overdue(
    make_link: MakeLink, own_redis: EmbeddedRedis
) -> None:
    clock = StillClock()
    link = make_link(own_redis.url, 0.1, clock)
    await link.run(lambda: list(PING))
    with stopped(own_redis.pid):
        overdue = asyncio.create_task(link.run(lambda: [("ECHO", "overdue")]))
        await turns()
        clock.move_to(0.09)
        beside = asyncio.create_task(link.run(lambda: [("ECHO", "beside")]))
        await turns()
        clock.move_to(0.1)
        clock.move_to(0.1 + READ_SECONDS)
        with pytest.raises(StoreUnavailable, match="no answer"):
            await overdue
    assert await beside == ["beside"]


async def test_an_answer_that_the_loop_has_not_read_yet_is_waited_for(own_redis: EmbeddedRedis) -> None:
    """However busy the loop is: its connection is not given up for what it had no time to read."""
    clock = StillClock()
    connection = Connection(clock)
    loop = asyncio.get_running_loop()
    await loop.create_unix_connection(lambda: connection, own_redis.socket_path)
    ours = connection._transport
    assert ours is not None
    with stopped(own_redis.pid):
        calling = connection.call([("ECHO", "late")], deadline=0.05)
        await turns()
    poll = select.poll()
    poll.register(ours.get_extra_info("socket").fileno(), select.POLLIN)
    assert poll.poll(PATIENT * 1000), "the answer is here, and nobody has read it"
    clock.move_to(0.05)
    clock.move_to(1.0)
    assert not calling.done()
    assert await calling == ["late"]
    assert connection.is_open
    connection.close()


async def test_one_try_at_a_time_and_pauses_that_grow(make_link: MakeLink) -> None:
    """A Redis that is down costs no more connections, however many calls there are."""
    tries = 0

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        writer.close()

    clock = StillClock()
    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        link = make_link(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}", PATIENT, clock)
        pauses = [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
        call = asyncio.create_task(link.run(lambda: list(PING)))
        for expected, pause in enumerate(pauses, start=1):
            await eventually(partial(clock.has_timer_at, clock.time() + pause))
            assert tries == expected
            waiting = [asyncio.create_task(link.run(lambda: list(PING))) for _ in range(20)]
            await turns()
            clock.move_to(clock.time() + pause)
            outcomes = await asyncio.gather(call, *waiting, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {StoreUnavailable}
            assert tries <= expected + 1
            call = asyncio.create_task(link.run(lambda: list(PING)))
            await turns()
        call.cancel()


async def test_nothing_is_left_of_a_link_that_is_closed(make_link: MakeLink) -> None:
    before = asyncio.all_tasks()
    link = make_link("redis://127.0.0.1:1", 0.05)
    with pytest.raises(StoreUnavailable):
        await link.run(lambda: list(PING))
    assert len(asyncio.all_tasks() - before) == 1
    await link.close()
    assert asyncio.all_tasks() == before
    with pytest.raises(StoreUnavailable, match="closed"):
        await link.run(lambda: list(PING))
    assert asyncio.all_tasks() == before


async def test_a_lost_connection_is_opened_anew_before_anybody_asks(
    make_link: MakeLink, own_redis: EmbeddedRedis
) -> None:
    link = make_link(own_redis.url)
    await link.run(lambda: list(PING))
    (first,) = connections(own_redis)
    with Redis.from_url(own_redis.url) as client:
        client.client_kill_filter(_id=first)
    await eventually(lambda: connections(own_redis) - {first})


async def test_a_redis_that_takes_no_more_connections_says_so(
    make_link: MakeLink, own_redis: EmbeddedRedis
) -> None:
    with Redis.from_url(own_redis.url) as client:
        client.config_set("maxclients", 1)
        with capture_logs() as logs, pytest.raises(StoreUnavailable) as caught:
            await make_link(own_redis.url).run(lambda: list(PING))
    assert caught.value.reason == "Redis takes no more connections"
    assert ["max number of clients" in entry["reason"] for entry in logs] == [True]


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
    clock = StillClock()
    link = make_link(url, 0.05, clock)
    with stopped(own_redis.pid):
        for _ in range(3):  # tries
            calling = asyncio.create_task(link.run(lambda: list(PING)))
            await eventually(partial(clock.has_timer_at, clock.time() + 1000))
            clock.move_to(clock.time() + 1000)
            clock.move_to(clock.time() + READ_SECONDS)
            await eventually(calling.done)
            await turns()
            clock.move_to(clock.time() + LONGEST_PAUSE_SECONDS)
    await eventually(lambda: link._connection is not None)
    assert await link.run(lambda: list(PING)) == ["PONG"]
    with Redis.from_url(url) as client:
        await eventually(lambda: client.info("clients")["connected_clients"] == 2)  # the link's, and this


def test_tls_follows_from_the_url() -> None:
    strict = dialer._tls(dict(parse_url("rediss://:secret@host:1/2")))
    lax = dialer._tls(dict(parse_url("rediss://host?ssl_cert_reqs=none&ssl_check_hostname=false")))
    assert (strict.verify_mode, lax.verify_mode) == (ssl.CERT_REQUIRED, ssl.CERT_NONE)
    assert strict.check_hostname
