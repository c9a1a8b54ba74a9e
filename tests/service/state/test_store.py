"""The store against a real Redis: order, duplicates, the click log, trending, time-outs, crashes."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.connection import READ_SECONDS
from service.state.keys import Keys
from service.state.link import ClickLogFull, SessionFull, StoreUnavailable
from service.state.store import (
    APPEND,
    SCRIPTS,
    Appended,
    Arrival,
    Bucket,
    Click,
    Judged,
    Quality,
    SessionStore,
    Spread,
    of_placement,
)
from tests.service.state.clock import StillClock
from tests.service.state.cluster import cluster, one_node_cluster, slot_of, url_of
from tests.waiting import stopped

keys = Keys()

pytestmark = pytest.mark.anyio

MakeStore = Callable[..., SessionStore]
PATIENT = 60.0  # seconds, that only a failure reaches


@pytest.fixture
async def make_store(redis_url: str) -> AsyncIterator[MakeStore]:
    """Makes stores on an empty Redis, with any settings, and closes them."""
    stores = []

    def make(url: str = redis_url, clock: StillClock | None = None, **changed: object) -> SessionStore:
        stores.append(SessionStore(settings_with(**changed), url, clock=clock))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def store(make_store: MakeStore) -> SessionStore:
    return make_store()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may stop and kill."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


def settings_with(**changed: object) -> Settings:
    return Settings.model_validate({"redis_timeout_seconds": PATIENT, **changed})


@contextmanager
def configured(client: Redis, **changed: str) -> Iterator[None]:
    """Redis with other configuration for a while."""
    names = {name.replace("_", "-"): value for name, value in changed.items()}
    before = {name: str(client.config_get(name)[name]) for name in names}
    for name, value in names.items():
        client.config_set(name, value)
    yield
    for name, value in before.items():
        client.config_set(name, value)


def log_entries(client: Redis) -> list[dict[str, str]]:
    """The click log, shard after shard; each shard's sequence numbers must be without a gap."""
    entries: list[dict[str, str]] = []
    for key in client.scan_iter("clicks:*"):
        shard = [fields for _, fields in cast("list[tuple[str, dict[str, str]]]", client.xrange(key))]
        assert [int(fields["seq"]) for fields in shard] == list(range(1, len(shard) + 1))
        entries += shard
    return entries


def state(client: Redis) -> dict[str, bytes | None]:
    """Everything in Redis, to see that nothing has changed."""
    return {key: client.dump(key) for key in client.scan_iter("*")}


def pass_time(client: Redis, seconds: float) -> None:
    """What is trending in the first shard was counted so long ago."""
    _, origin = keys.trending(0)
    t0, half_life = str(client.get(origin)).split()
    client.set(origin, f"{float(t0) - seconds!r} {half_life}")


async def test_a_click_is_read_back_as_it_was_given(store: SessionStore) -> None:
    first = Click("red shoe: größe 42 {17} 鞋", 1_700_000_000.123456, "view", "event one")
    second = Click("b", 1_700_000_001.0)
    assert await store.append("a session: {5} ü", first) == Appended(1, False)
    assert await store.append("a session: {5} ü", second, with_session=True) == Appended(
        2, False, (first, second)
    )
    assert await store.read("a session: {5} ü") == (first, second)
    assert await store.read("another") == ()


@pytest.mark.parametrize(
    "timestamp", [1_795_324_051.140837, 1_700_000_000.1234567, 0.1, 1e-7, 0.0, 2.0**52 + 1]
)
async def test_timestamps_lose_nothing(store: SessionStore, redis_client: Redis, timestamp: float) -> None:
    await store.append("s", Click("a", timestamp))
    assert [click.timestamp for click in await store.read("s")] == [timestamp]
    assert [float(entry["ts"]) for entry in log_entries(redis_client)] == [timestamp]


async def test_late_clicks_go_to_their_place_and_ties_keep_the_order_of_arrival(store: SessionStore) -> None:
    for item_id, timestamp in [("b", 2.0), ("d", 3.0), ("a", 1.0), ("c", 2.0), ("e", 3.000001)]:
        await store.append("s", Click(item_id, timestamp))
    assert [click.item_id for click in await store.read("s")] == ["a", "b", "c", "d", "e"]


async def test_ties_keep_the_order_of_arrival_beyond_ten_clicks(store: SessionStore) -> None:
    for i in range(12):
        await store.append("s", Click(str(i), 5.0))
    assert [click.item_id for click in await store.read("s")] == [str(i) for i in range(12)]


async def test_a_full_session_keeps_its_newest_clicks(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(session_max_clicks=3)
    for i in range(1, 6):
        await store.append("s", Click(str(i), float(i)))
    assert [click.item_id for click in await store.read("s")] == ["3", "4", "5"]
    late = await store.append("s", Click("late", 0.5), with_session=True)
    assert (late.length, [click.item_id for click in late.clicks]) == (3, ["3", "4", "5"])
    assert [entry["item"] for entry in log_entries(redis_client)] == ["1", "2", "3", "4", "5", "late"]


async def test_by_default_the_newest_50_clicks_are_kept(store: SessionStore) -> None:
    for i in range(51):
        length = (await store.append("s", Click(str(i), float(i)))).length
    assert length == 50
    assert [click.item_id for click in await store.read("s")] == [str(i) for i in range(1, 51)]


async def test_a_duplicate_changes_nothing_but_the_time_to_live(
    store: SessionStore, redis_client: Redis
) -> None:
    click = Click("a", 1.0, event_id="e1")
    await store.append("s", click)
    [session_key], [marks_key] = redis_client.keys("s:*"), redis_client.keys("m:*")
    before = state(redis_client)
    redis_client.expire(session_key, 1_000_000)
    redis_client.expire(marks_key, 1_000_000)
    again = await store.append("s", Click("other", 2.0, event_id="e1"), with_session=True)
    assert again == Appended(1, True, (click,))
    assert state(redis_client) == before
    assert 0 < redis_client.ttl(session_key) <= 1800
    assert 0 < redis_client.ttl(marks_key) <= 1800


async def test_an_event_id_is_remembered_after_its_click_was_trimmed(make_store: MakeStore) -> None:
    store = make_store(session_max_clicks=1)
    await store.append("s", Click("a", 1.0, event_id="e1"))
    await store.append("s", Click("b", 2.0, event_id="e2"))
    assert (await store.append("s", Click("a", 1.0, event_id="e1"))).duplicate
    assert not (await store.append("other session", Click("a", 1.0, event_id="e1"))).duplicate


async def test_only_the_newest_event_ids_are_remembered(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(shards=1, session_max_event_ids=3)
    for i in range(20):
        assert not (await store.append("s", Click(f"item {i}", 1.0, event_id=f"e{i}"))).duplicate
        assert redis_client.zcard("m:{0}:s") <= 2 * 3 + 1
    for i in (17, 18, 19):
        assert (await store.append("s", Click("a", 1.0, event_id=f"e{i}"))).duplicate
    assert not (await store.append("s", Click("a", 1.0, event_id="e0"))).duplicate
    for _ in range(20):  # none of these has an id, nor counts anew
        await store.append("s", Click("a", 1.0))
    assert (await store.append("s", Click("a", 1.0, event_id="e0"))).duplicate


async def test_the_event_ids_of_an_earlier_version_stop_no_click(
    make_store: MakeStore, redis_client: Redis
) -> None:
    store = make_store(shards=1)
    redis_client.sadd("e:{0}:s", "e1")
    assert await store.append("s", Click("a", 1.0, event_id="e1")) == Appended(1, False)
    assert (await store.append("s", Click("a", 1.0, event_id="e1"))).duplicate


async def test_a_session_has_a_share_of_the_click_log(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(shards=1, session_max_logged=3, session_max_clicks=2)
    clicks = [Click("a", float(i), event_id=f"e{i}") for i in range(5)]
    for click in clicks[:3]:
        await store.append("s", click)
    before = state(redis_client)
    for _ in range(2):
        with pytest.raises(SessionFull, match="maximum of 3 clicks"):
            await store.append("s", clicks[3])
    assert state(redis_client) == before
    outcomes = await store.append_many([Arrival("s", clicks[0]), Arrival("s", clicks[4])])
    assert outcomes[0] == Appended(2, True), "what is stored is acknowledged again"
    assert isinstance(outcomes[1], SessionFull)
    assert await store.append("t", clicks[3]) == Appended(1, False)
    assert len(log_entries(redis_client)) == 4
    for name in redis_client.keys("[sm]:*"):
        redis_client.pexpireat(name, 1)  # the session is over
    assert await store.append("s", clicks[3]) == Appended(1, False)


async def test_a_full_click_log_has_room_for_tombstones(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(shards=1, click_log_max_entries_per_shard=20)
    await store.append_many([Arrival("s", Click("a", 1.0)) for _ in range(20)])
    for known in (True, False):
        with pytest.raises(ClickLogFull):
            await store.append("t", Click("a", 1.0))
        assert await store.erase("s") is known
    assert await store.read("s") == ()
    before = state(redis_client)
    with pytest.raises(ClickLogFull, match="22 entries"):
        await store.erase("s")
    assert state(redis_client) == before
    redis_client.xtrim("clicks:{0}", maxlen=10, approximate=False)  # what is collected goes
    assert await store.erase("s") is False
    assert await store.append("t", Click("a", 1.0)) == Appended(1, False)


async def test_a_session_ends_after_its_time_to_live(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(session_ttl_seconds=100)
    await store.append("s", Click("a", 1.0, event_id="e1"))
    names = redis_client.keys("[sm]:*")
    assert len(names) == 2
    for name in names:
        assert 0 < redis_client.pttl(name) <= 100_000
        redis_client.pexpire(name, 10**9)
    await store.append("s", Click("b", 2.0))  # sets both anew
    for name in names:
        assert 0 < redis_client.pttl(name) <= 100_000
    assert (await store.append("s", Click("a", 1.0, event_id="e1"))).duplicate
    for name in names:
        redis_client.pexpireat(name, 1)  # their time is over
    assert await store.read("s") == ()
    assert await store.append("s", Click("a", 1.0, event_id="e1")) == Appended(1, False)


async def test_the_click_log_holds_what_training_needs(store: SessionStore, redis_client: Redis) -> None:
    await store.append_arrival(Arrival("s", Click("a", 1.5, "view", "e1"), "v~1"))
    await store.append("s", Click("b", 2.5))
    assert log_entries(redis_client) == [
        {"seq": "1", "session": "s", "item": "a", "ts": "1.5", "type": "view", "event": "e1", "rec": "v~1"},
        {"seq": "2", "session": "s", "item": "b", "ts": "2.5", "type": "click", "event": "", "rec": ""},
    ]


async def test_a_full_click_log_refuses_and_changes_nothing(
    make_store: MakeStore, redis_client: Redis
) -> None:
    store = make_store(click_log_max_entries_per_shard=2, shards=1)
    await store.append("s", Click("a", 1.0, event_id="e1"))
    await store.append("s", Click("b", 2.0))
    before = state(redis_client)
    with pytest.raises(ClickLogFull, match=r"clicks:\{0\}"):
        await store.append("s", Click("c", 3.0, event_id="e3"))
    assert state(redis_client) == before
    # What is in the log already can be acknowledged again.
    assert await store.append("s", Click("a", 1.0, event_id="e1")) == Appended(2, True)
    # Once the collector has trimmed the log, the same event id is new, for it was never stored.
    redis_client.xtrim("clicks:{0}", maxlen=1, approximate=False)
    assert await store.append("s", Click("c", 3.0, event_id="e3")) == Appended(3, False)


async def test_many_clicks_get_one_status_each_in_order(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(click_log_max_entries_per_shard=2, shards=1)
    clicks = [
        Arrival("s", Click("a", 1.0, event_id="e1")),
        Arrival("s", Click("a", 1.0, event_id="e1")),
        Arrival("t", Click("b", 2.0)),
        Arrival("t", Click("c", 3.0)),
    ]
    *stored, refused = await store.append_many(clicks)
    assert stored == [Appended(1, False), Appended(1, True), Appended(1, False)]
    assert isinstance(refused, ClickLogFull)
    assert [entry["item"] for entry in log_entries(redis_client)] == ["a", "b"]
    assert await store.append_many([]) == []


async def test_erase_leaves_a_tombstone_and_forgets_event_ids(
    store: SessionStore, redis_client: Redis
) -> None:
    await store.append("s", Click("a", 1.0, event_id="e1"))
    assert await store.erase("s") is True
    assert await store.read("s") == ()
    assert redis_client.keys("[sm]:*") == []
    assert log_entries(redis_client)[1:] == [{"seq": "2", "session": "s", "erased": "1"}]
    assert await store.erase("s") is False  # its clicks may be in the log all the same
    assert len(log_entries(redis_client)) == 3
    assert await store.append("s", Click("a", 1.0, event_id="e1")) == Appended(1, False)


def counted(scores: Sequence[tuple[str, float]]) -> dict[str, int]:
    """By how many sessions, when all of them clicked just now."""
    return {item_id: round(score) for item_id, score in scores}


async def test_a_session_counts_once_for_an_item(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(shards=1, session_max_clicks=2)
    now = time.time()

    async def click(session: str, item_id: str, at: float = now, event_id: str | None = None) -> None:
        await store.append(session, Click(item_id, at, event_id=event_id))

    for _ in range(3):
        await click("s", "a", event_id="e")  # the same click, sent again
        await click("s", "a")
    await click("t", "a")
    assert counted(await store.trending(9)) == {"a": 2}
    for item_id in "bcd":  # these take its place in the session
        await click("s", item_id)
    await click("s", "a")
    for _ in range(3):  # late, and trimmed at once
        await click("s", "a", now - 1)
        await click("s", "z", now - 1)
    assert counted(await store.trending(9)) == {"a": 2, "b": 1, "c": 1, "d": 1, "z": 1}
    for name in redis_client.keys("[sm]:*:s"):
        redis_client.pexpireat(name, 1)  # the session is over, and the next has its name
    await click("s", "a")
    await click("s", "a")
    assert counted(await store.trending(9))["a"] == 3


async def test_only_clicks_that_feed_the_encoder_count(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(shards=1, encoder_click_types=("click", "view"))
    now = time.time()
    for kind in ("cart", "Click", "purchase"):
        await store.append_arrival(Arrival("s", Click("a", now, kind, event_id=kind), is_cold=True))
    await store.append_arrival(Arrival("s", Click("ignored", now), is_cold=True, is_ignored=True))
    assert await store.trending(9) == []
    assert (await store.append("s", Click("a", now, event_id="cart"))).duplicate
    await store.append_arrival(Arrival("s", Click("b", now, "view"), is_cold=True))
    assert counted(await store.trending(9)) == {"b": 1}
    assert await store.co_clicks("b", 9) == [], "none of its neighbours counted"
    assert await store.co_clicks("a", 9) == await store.co_clicks("ignored", 9) == []
    await store.append_arrival(Arrival("s", Click("a", now), is_cold=True))
    assert counted(await store.trending(9)) == {"a": 1, "b": 1}, "it counts once it feeds the encoder"
    assert await store.co_clicks("a", 9) == await store.co_clicks("a", 9) == [("b", 1)]
    assert redis_client.zrange("cold:{0}", 0, -1) == ["b", "a"]
    assert [entry["item"] for entry in log_entries(redis_client)] == ["a", "a", "a", "ignored", "b", "a"]


async def test_a_co_click_counts_once_a_session_however_long_it_is(make_store: MakeStore) -> None:
    store = make_store(shards=1)
    for _ in range(3):
        for item_id in ("new", "a", *(f"other {i}" for i in range(12))):
            await store.append_arrival(Arrival("s", Click(item_id, time.time()), is_cold=item_id == "new"))
    assert dict(await store.co_clicks("new", 99))["a"] == 1


async def test_what_does_not_feed_the_encoder_judges_nothing(store: SessionStore) -> None:
    await store.append("s", Click("a", 1.0))
    await store.remember("s", "v1~1", "v1", ["b", "c"], given_on="a")
    await store.remember("s", "v1~1", "v2", ["c", "b"], given_on="a", beside=True)
    for click in (Click("c", 2.0, "cart"), Click("a", 3.0, "purchase"), Click("a", 4.0), Click("a", 0.5)):
        assert (await store.append("s", click)).judged == ()
    assert sorted((await store.append("s", Click("c", 5.0))).judged) == [("v1", 2), ("v2", 1)]
    assert (await store.append("s", Click("b", 6.0))).judged == (), "it is used up"
    assert {version: each.judged for version, each in (await store.quality(["v1", "v2"])).items()} == {
        "v1": 1,
        "v2": 1,
    }


async def test_what_is_shown_in_a_placement_is_judged_as_its_own_too(
    make_store: MakeStore, redis_client: Redis
) -> None:
    store = make_store(shards=1)
    await store.append("s", Click("a", 1.0))
    await store.remember("s", "v1~1", "v1", ["b", "c"], given_on="a", placement="home")
    await store.remember("s", "v1~1", "v2", ["c", "b"], given_on="a", beside=True)
    judged = (await store.append("s", Click("c", 2.0))).judged
    assert sorted(judged) == [("@home", 2), ("v1", 2), ("v2", 1)], "as v1 showed it, and v2 never did"
    await store.remember("s", "v1~2", "v1", ["d"], given_on="c", placement="home")
    assert sorted((await store.append("s", Click("e", 3.0))).judged) == [("@home", 0), ("v1", 0)]
    await store.remember("s", "v1~3", "v1", ["f"], given_on="e")
    assert (await store.append("s", Click("f", 4.0))).judged == (("v1", 1),), "in no placement"

    home = of_placement("home")
    of_home = Spread(1, 2, 1, 0.5, nn=4, hn=2, hh=1, rn=1, rr=0.25)
    assert (await store.quality([home]))[home] == Quality(2, 1, 0.5, spread=of_home)
    assert redis_client.ttl("quality:{0}:@home") > 0
    await store.forget_quality([home])
    of_v1 = Spread(1, 3, 2, 1.5, nn=9, hn=6, hh=4, rn=4.5, rr=2.25)
    assert await store.quality([home, "v1"]) == {home: Quality(), "v1": Quality(3, 2, 1.5, spread=of_v1)}
    assert list(redis_client.scan_iter("*@home*")) == []


async def test_the_spread_is_summed_over_sessions_and_shards(
    store: SessionStore, redis_client: Redis
) -> None:
    random = np.random.default_rng(7)
    redis_client.hset("quality:{3}:v1", mapping={"judged": 5, "hits": 2, "reciprocal_ranks": 1.5})  # before
    sessions = [f"s{number}" for number in range(40)]
    sums = {session: np.zeros(3) for session in sessions}  # clicks, hits, reciprocal ranks
    for session in map(str, random.choice(sessions, 200)):
        shown = [str(item) for item in range(10)]
        rank = int(random.integers(1, 15))
        await store.remember(session, "v1~1", "v1", shown)
        await store.append(session, Click(str(rank - 1), time.time()))
        hit = rank <= len(shown)
        sums[session] += (1, hit, 1 / rank if hit else 0)
    n, h, r = np.stack([each for each in sums.values() if each[0]]).T
    found = (await store.quality(["v1"]))["v1"]
    assert (found.judged, found.hits) == (205, 2 + h.sum())
    assert found.spread == pytest.approx(
        [len(n), n.sum(), h.sum(), r.sum(), n @ n, h @ n, h @ h, r @ n, r @ r], rel=1e-12
    )


async def test_trending_halves_with_every_half_life(make_store: MakeStore) -> None:
    store = make_store(trending_half_life_seconds=3600)
    now = time.time()
    for session in range(40):  # over all the shards
        await store.append(f"s{session}", Click("now", now, event_id="e"))
        await store.append(f"s{session}", Click("now", now, event_id="e"))
        await store.append(f"s{session}", Click("an hour ago", now - 3600))
    await store.append("s", Click("two hours ago", now - 7200))
    trending = await store.trending(10)
    assert [item_id for item_id, _ in trending] == ["now", "an hour ago", "two hours ago"]
    assert [score for _, score in trending] == pytest.approx([40, 20, 0.25], rel=0.02)
    assert [item_id for item_id, _ in await store.trending(1)] == ["now"]


async def test_trending_fades_while_nobody_clicks(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store(shards=1, trending_half_life_seconds=3600)
    await store.append("s", Click("a", time.time()))
    [(_, before)] = await store.trending(1)
    pass_time(redis_client, 3600)
    [(_, after)] = await store.trending(1)
    assert after == pytest.approx(before / 2, rel=0.02)


async def test_trending_rewards_no_click_from_the_future_or_the_far_past(make_store: MakeStore) -> None:
    store = make_store(shards=1)
    now = time.time()
    await store.append("s", Click("tomorrow", now + 86_400))
    await store.append("s", Click("now", now))
    await store.append("s", Click("long ago", 1.0))
    scores = dict(await store.trending(10))
    assert scores == {"tomorrow": pytest.approx(1, rel=0.01), "now": pytest.approx(1, rel=0.01)}


async def test_trending_is_bounded_and_keeps_the_most_clicked(
    make_store: MakeStore, redis_client: Redis
) -> None:
    store = make_store(shards=1, trending_max_items=5)
    now = time.time()
    await store.append_many([Arrival(session, Click("favourite", now)) for session in "abc"])
    for i in range(40):
        await store.append("s", Click(f"item {i}", now - 40 + i))
        assert redis_client.zcard("trending:{0}") <= 10
    assert redis_client.zcard("trending:{0}") >= 5
    assert (await store.trending(1))[0][0] == "favourite"


@pytest.mark.parametrize(("half_lives", "kept"), [(60, ["old", "new"]), (65, ["new"])])
async def test_trending_is_rebased_before_its_scores_overflow(
    make_store: MakeStore, redis_client: Redis, half_lives: int, kept: list[str]
) -> None:
    store = make_store(shards=1, trending_half_life_seconds=3600)
    await store.append("s", Click("old", time.time()))
    pass_time(redis_client, half_lives * 3600)
    await store.append("s", Click("new", time.time()))
    assert redis_client.zrange("trending:{0}", 0, -1) == kept
    score = redis_client.zscore("trending:{0}", "new")
    assert score == pytest.approx(2.0**half_lives if "old" in kept else 1, rel=0.02)
    [(_, shown), *_] = await store.trending(2)
    assert shown == pytest.approx(1, rel=0.02)


async def test_trending_survives_another_half_life(make_store: MakeStore) -> None:
    now = time.time()
    await make_store(shards=1, trending_half_life_seconds=3600).append("s", Click("a", now - 3600))
    store = make_store(shards=1, trending_half_life_seconds=7200)
    await store.append("s", Click("b", now - 7200))
    assert dict(await store.trending(10)) == pytest.approx({"a": 0.5, "b": 0.5}, rel=0.02)


def age(client: Redis, name: str, seconds: float) -> None:
    """As if a bucket had been written so long ago; a clock that jumps back has done so in the future."""
    times = str(client.get(keys.rate(name))).split()
    client.set(keys.rate(name), " ".join(str(int(time) - round(seconds * 1e6)) for time in times))


async def take(store: SessionStore, limit: int, cost: int = 1, name: str = "client") -> float:
    """How long to wait."""
    wait = await store.take_tokens([Bucket(name, limit)], cost)
    assert wait is None or wait.bucket == Bucket(name, limit)
    return wait.seconds if wait else 0.0


async def test_the_rate_limit_is_shared_and_refills(make_store: MakeStore, redis_client: Redis) -> None:
    one_worker, another = make_store(), make_store()
    assert [await take(worker, 2) for worker in (one_worker, another)] == [0.0, 0.0]
    assert 0 < redis_client.pttl(keys.rate("client")) <= 60_000
    assert 0 < await take(one_worker, 2) <= 30, "a token in thirty seconds"
    assert await take(one_worker, 2, name="other client") == 0.0
    age(redis_client, "client", 30)
    assert await take(another, 2) == 0.0
    assert 0 < await take(one_worker, 2) <= 30


async def test_a_request_costs_what_it_holds(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store()

    def owe(seconds: float) -> str:
        """The bucket is full again that long from now: what it holds."""
        now, microseconds = redis_client.time()
        written_at = now * 1_000_000 + microseconds
        held = f"{written_at + round(seconds * 1e6)} {written_at}"
        redis_client.set(keys.rate("client"), held)
        return held

    # A token a second. Time only passes: what is due in so many seconds is due in less.
    owe(0)
    assert await take(store, 60, 60) == 0.0, "all there is"
    owe(40)
    assert await take(store, 60, 20) == 0.0
    held = owe(59)
    assert 0 < await take(store, 60, 60) <= 59
    assert redis_client.get(keys.rate("client")) == held, "refused is free"
    owe(50)
    assert 0 < await take(store, 60, 100) <= 50, "more than a bucket holds waits until it is full"
    owe(0)
    assert await take(store, 60, 3600) == 0.0
    assert 3000 < await take(store, 60) <= 3541, "and is paid off"
    assert 3_000_000 < redis_client.pttl(keys.rate("client")) <= 3_600_000


async def test_several_buckets_pay_together_or_not_at_all(make_store: MakeStore, redis_client: Redis) -> None:
    store = make_store()
    small, large = Bucket("small", 2), Bucket("large", 5)
    assert [await store.take_tokens([small, large]) for _ in range(2)] == [None, None]
    for _ in range(3):
        wait = await store.take_tokens([small, large])
        assert wait is not None
        assert (0 < wait.seconds <= 30, wait.bucket) == (True, small)
    assert [await store.take_tokens([large], 3), redis_client.exists(keys.rate("other"))] == [None, 0]
    other = Bucket("other", 2)
    wait = await store.take_tokens([other, large])
    assert wait is not None
    assert (wait.bucket, redis_client.exists(keys.rate("other"))) == (large, 0)


@pytest.mark.parametrize("jump", [3600, 86400])
async def test_a_clock_that_jumps_back_locks_nobody_out(
    make_store: MakeStore, redis_client: Redis, jump: float
) -> None:
    store = make_store()
    assert [await take(store, 2) for _ in range(2)] == [0.0, 0.0]
    age(redis_client, "client", -jump)
    assert 0 < await take(store, 2) <= 30, "it owes what it owed"
    assert redis_client.pttl(keys.rate("client")) <= 60_000
    age(redis_client, "client", 30)
    assert await take(store, 2) == 0.0, "and the clock goes on from there"
    assert 0 < await take(store, 2) <= 30

    assert await take(store, 60, 3600) > 0
    redis_client.delete(keys.rate("client"))
    assert await take(store, 60, 3600) == 0.0
    age(redis_client, "client", -jump)
    assert 3000 < await take(store, 60) <= 3541, "nor is a debt forgiven"

    for _ in range(3):
        await store.try_key("admin", "192.0.2.7", 3, is_right=False)
    age(redis_client, "wrong:admin:192.0.2.7", -jump)
    assert 0 < await store.try_key("admin", "192.0.2.7", 3, is_right=False) <= 20


async def test_wrong_keys_are_counted_by_address_and_kind(make_store: MakeStore) -> None:
    store, another = make_store(), make_store()

    async def wait(caller: str, address: str, is_right: bool, of: SessionStore = store) -> bool:
        return await of.try_key(caller, address, 2, is_right=is_right) > 0

    assert not await wait("admin", "office", is_right=True)
    for address in ("office", "guesser"):
        tried = [await wait("admin", address, is_right=False, of=each) for each in (store, another, store)]
        assert tried == [False, False, True]
    assert await wait("admin", "guesser", is_right=True), "or who guesses would see which one is right"
    assert await wait("admin", "guesser", is_right=True), "and it is not taken for known now"
    assert not await wait("admin", "office", is_right=True, of=another), "known, also to other workers"
    assert await wait("admin", "office", is_right=False)
    assert not await wait("server", "guesser", is_right=True), "another key"
    assert not await wait("admin", "elsewhere", is_right=True)


async def live(store: SessionStore) -> None:
    """Everything that a store can do, with every key it can touch."""
    sessions = ["a}b{c", "{x}", *(f"s{number}" for number in range(30))]
    for session in sessions:
        await store.append_arrival(Arrival(session, Click("cold", time.time(), event_id="e"), is_cold=True))
        await store.append(session, Click("a", time.time()))
        await store.remember(session, "v1~1", "v1", ["b", "c"])
        await store.remember(session, "v1~1", "v2", ["c", "b"], beside=True)
        judged = await store.append_arrival(
            Arrival(session, Click("c", time.time()), "v1~1", "v1", is_cold=False), with_session=True
        )
        assert sorted(judged.judged) == [("v1", 2), ("v2", 1)]
        await store.remember(session, "v1~2", "v1", ["b"])
    assert await store.append_many([Arrival(session, Click("b", 1.0)) for session in sessions]) == [
        Appended(4, False, (), (Judged("v1", 1),)) for _ in sessions
    ]
    assert {item for item, _ in await store.trending(9)} == {"cold", "a", "c"}
    assert await store.co_clicks("cold", 9) == [(item, len(sessions)) for item in "abc"]
    assert (await store.quality(["v1", "v2"]))["v2"].hits == len(sessions)
    assert (await store.click_log()).entries == 4 * len(sessions)
    assert await store.take_tokens([Bucket("client", 60), Bucket("key", 60)]) is None
    assert await store.try_key("admin", "client", 60, is_right=False) == 0.0
    assert await store.try_key("admin", "client", 60, is_right=True) == 0.0
    assert await store.erase(sessions[0])
    assert await store.read(sessions[0]) == ()
    assert len(await store.read(sessions[1])) == 4


@pytest.mark.parametrize("shards", [1, 16])
async def test_a_cluster_takes_every_call_and_keeps_a_shard_in_one_slot(
    make_store: MakeStore, tmp_path: Path, shards: int
) -> None:
    """The server refuses calls whose declared keys span slots.

    It does not look at those that a script makes by itself, so what was written is asked for afterwards. Not
    shown: that a client finds the right node among several. `RedisLink` knows one only.
    """
    with one_node_cluster(tmp_path) as client:
        with pytest.raises(ResponseError, match=r"CROSSSLOT|same slot"):
            client.eval("return 1", 2, "a", "b")
        await live(make_store(url_of(client), shards=shards))
        slots = {slot_of(client, f"{{{shard}}}") for shard in range(shards)}
        held = sum(int(cluster(client, "COUNTKEYSINSLOT", slot)) for slot in slots)
        held += int(cluster(client, "COUNTKEYSINSLOT", slot_of(client, keys.rate(""))))
        assert client.dbsize() - held == 1, "all but `shards`"


async def test_the_first_number_of_shards_stays(make_store: MakeStore) -> None:
    sessions = [f"s{i}" for i in range(50)]
    first = make_store(shards=3)
    for session in sessions:
        await first.append(session, Click("a", 1.0))
    second = make_store(shards=7)
    with capture_logs() as logs:
        assert [len(await second.read(session)) for session in sessions] == [1] * 50
    [error] = [entry for entry in logs if entry["log_level"] == "error"]
    assert (error["stored"], error["configured"]) == (3, 7)


async def test_unsafe_redis_configuration_is_warned_of(make_store: MakeStore, redis_client: Redis) -> None:
    with configured(redis_client, maxmemory_policy="allkeys-lru"), capture_logs() as logs:
        await make_store(durability="strict").ping()
    assert ["maxmemory-policy" in entry["event"] for entry in logs] == [True, False]
    assert ["appendfsync" in entry["event"] for entry in logs] == [False, True]
    with configured(redis_client, appendfsync="always"), capture_logs() as logs:
        await make_store(durability="strict").ping()
    assert logs == []
    with capture_logs() as logs:
        await make_store().ping()
    assert logs == []
    with configured(redis_client, appendfsync="everysec"), capture_logs() as logs:
        await make_store().ping()
    assert ["while its disk is slow" in entry["event"] for entry in logs] == [True]
    with configured(redis_client, appendonly="no"), capture_logs() as logs:
        await make_store().ping()
    assert ["die with Redis" in entry["event"] for entry in logs] == [True]


async def test_scripts_that_redis_forgot_are_loaded_again(store: SessionStore, redis_client: Redis) -> None:
    await store.append("s", Click("a", 1.0))
    redis_client.script_flush()
    assert await store.append("s", Click("b", 2.0)) == Appended(2, False)
    redis_client.script_flush()
    assert await store.append_many([Arrival("s", Click("c", 3.0)), Arrival("s", Click("d", 4.0))]) == [
        Appended(3, False),
        Appended(4, False),
    ]
    redis_client.script_flush()
    redis_client.config_resetstat()
    await asyncio.gather(*(store.append("s", Click("e", 5.0)) for _ in range(20)))
    loaded = [
        v["calls"] for k, v in redis_client.info("commandstats").items() if k.startswith("cmdstat_script")
    ]
    assert sum(loaded) == len(SCRIPTS)  # each script once, however many calls met the loss together
    assert len(log_entries(redis_client)) == 24


async def test_a_redis_without_memory_refuses_and_changes_nothing(
    store: SessionStore, redis_client: Redis
) -> None:
    await store.append("s", Click("a", 1.0))
    before = state(redis_client)
    with configured(redis_client, maxmemory="1"), pytest.raises(StoreUnavailable, match=r"OOM|maxmemory"):
        await store.append("s", Click("b", 2.0))
    assert state(redis_client) == before


async def test_a_redis_without_memory_erases(store: SessionStore, redis_client: Redis) -> None:
    await store.append("s", Click("a", 1.0))
    with configured(redis_client, maxmemory="1"):
        assert await store.erase("s") is True
        assert await store.erase("s") is False
    assert [entry.get("erased") for entry in log_entries(redis_client)] == [None, "1", "1"]
    assert redis_client.keys("[sm]:*") == []


async def test_at_first_contact_a_redis_without_memory_refuses(
    make_store: MakeStore, redis_client: Redis
) -> None:
    with configured(redis_client, maxmemory="1"), pytest.raises(StoreUnavailable):
        await make_store().ping()
    await make_store().append("s", Click("a", 1.0))
    with configured(redis_client, maxmemory="1"):
        assert len(await make_store().read("s")) == 1


async def test_a_redis_that_hides_its_configuration_is_used(
    make_store: MakeStore, redis_server: EmbeddedRedis, redis_client: Redis
) -> None:
    redis_client.acl_setuser(
        "guest", enabled=True, passwords=["+pw"], keys=["*"], commands=["+@all", "-config"]
    )
    store = make_store(f"unix://guest@{redis_server.socket_path}?password=pw")
    with capture_logs() as logs:
        assert await store.append("s", Click("a", 1.0)) == Appended(1, False)
    redis_client.acl_deluser("guest")
    assert ["hides its configuration" in entry["event"] for entry in logs] == [True]


async def test_a_click_whose_answer_is_lost_is_not_sent_again(
    make_store: MakeStore, redis_server: EmbeddedRedis, redis_client: Redis
) -> None:
    click = str(APPEND.call([])[1]).encode()

    async def pass_on(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Between store and Redis: everything passes but the answer to a click."""
        redis, to_redis = await asyncio.open_unix_connection(redis_server.socket_path)

        async def answer() -> None:
            while data := await redis.read(65536):
                to_client.write(data)

        answering = asyncio.create_task(answer())
        while click not in (request := await client.read(65536)):
            to_redis.write(request)
        answering.cancel()
        await asyncio.wait([answering])
        to_redis.write(request)
        assert await redis.read(65536)
        to_redis.close()
        to_client.close()

    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(StoreUnavailable):
            await make_store(f"redis://127.0.0.1:{port}").append("s", Click("a", 1.0))
    assert len(log_entries(redis_client)) == 1


async def test_concurrent_clicks_on_one_session_lose_nothing(
    make_store: MakeStore, redis_client: Redis
) -> None:
    stores = [make_store(session_max_clicks=500) for _ in range(2)]
    appended = await asyncio.gather(
        *(stores[i % 2].append("s", Click(f"item {i}", float(i))) for i in range(200))
    )
    assert sorted(one.length for one in appended) == list(range(1, 201))
    assert [click.item_id for click in await stores[0].read("s")] == [f"item {i}" for i in range(200)]
    assert sorted(entry["item"] for entry in log_entries(redis_client)) == sorted(
        f"item {i}" for i in range(200)
    )


async def test_connections_are_bounded(make_store: MakeStore, redis_client: Redis) -> None:
    others = len(redis_client.client_list())
    store = make_store()
    await asyncio.gather(*(store.append("s", Click("a", 1.0)) for _ in range(100)))
    assert len(redis_client.client_list()) - others <= 3


async def test_a_redis_that_is_down_is_met_when_it_comes(
    make_store: MakeStore, own_redis: EmbeddedRedis
) -> None:
    await kill(own_redis)
    store = make_store(own_redis.url)
    for call in (store.ping(), store.read("s"), store.append("s", Click("a", 1.0)), store.trending(5)):
        with pytest.raises(StoreUnavailable):
            await call
    outcomes = await store.append_many([Arrival("s", Click("a", 1.0)), Arrival("s", Click("b", 2.0))])
    assert [type(outcome) for outcome in outcomes] == [StoreUnavailable] * 2
    own_redis.restart_if_dead()
    assert await store.append("s", Click("a", 1.0)) == Appended(1, False)


async def test_passwords_are_not_shown_in_errors(make_store: MakeStore) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        await make_store("redis://user:secret@127.0.0.1:1/0").ping()
    assert "secret" not in str(caught.value)


async def test_after_a_hang_no_late_reply_is_taken_for_another_answer(
    make_store: MakeStore, own_redis: EmbeddedRedis
) -> None:
    clock = StillClock()
    store = make_store(own_redis.url, clock, redis_timeout_seconds=1)
    sessions = [f"s{i}" for i in range(20)]
    for session in sessions:
        await store.append(session, Click(f"item of {session}", 1.0))
    for _ in range(3):
        with stopped(own_redis.pid):
            reading = [asyncio.create_task(store.read(session)) for session in sessions]
            await asyncio.sleep(0)
            clock.move_to(clock.time() + 1)
            clock.move_to(clock.time() + READ_SECONDS)
            lost = await asyncio.gather(*reading, return_exceptions=True)
        assert {type(outcome) for outcome in lost} == {StoreUnavailable}
        for session in reversed(sessions):
            [click] = await store.read(session)
            assert click.item_id == f"item of {session}"


async def test_a_cancelled_call_leaves_no_reply_behind(
    make_store: MakeStore, own_redis: EmbeddedRedis
) -> None:
    store = make_store(own_redis.url)
    await store.append("one", Click("a", 1.0))
    await store.append("two", Click("b", 1.0))
    with stopped(own_redis.pid):
        call = asyncio.create_task(store.read("one"))
        for _ in range(3):  # turns: the call is made, and sent
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    assert await store.read("two") == (Click("b", 1.0),)


async def test_an_acknowledged_click_survives_a_killed_redis(
    make_store: MakeStore, own_redis: EmbeddedRedis
) -> None:
    store = make_store(own_redis.url)
    clicks = [Click(str(i), float(i), event_id=str(i)) for i in range(30)]
    for click in clicks:
        await store.append("s", click)
    await kill(own_redis)
    with pytest.raises(StoreUnavailable):
        await store.read("s")
    own_redis.restart_if_dead()
    assert await store.read("s") == tuple(clicks)
    assert (await store.append("s", clicks[0])).duplicate
    with Redis(unix_socket_path=own_redis.socket_path, decode_responses=True) as client:
        assert [entry["event"] for entry in log_entries(client)] == [str(i) for i in range(30)]


async def kill(server: EmbeddedRedis) -> None:
    """Kill Redis; returns once it is gone."""
    os.kill(server.pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)


ids = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
events = st.tuples(
    st.sampled_from(["s", "t", "u v:w"]),
    st.builds(
        Click,
        item_id=ids,
        timestamp=st.sampled_from([1.0, 2.0, 3.0]) | st.floats(0, 4e9),
        type=st.sampled_from(["click", "view"]),
        event_id=st.none() | st.sampled_from(["e1", "e2", "e3"]),
    ),
)


@given(clicks=st.lists(events, max_size=30), max_clicks=st.integers(1, 6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_any_clicks_leave_what_an_obvious_model_says(
    redis_server: EmbeddedRedis, clicks: list[tuple[str, Click]], max_clicks: int
) -> None:
    sessions: defaultdict[str, list[Click]] = defaultdict(list)
    seen: defaultdict[str, set[str]] = defaultdict(set)
    acknowledged: Counter[tuple[str, Click]] = Counter()

    async def check() -> None:
        store = SessionStore(settings_with(session_max_clicks=max_clicks, shards=2), redis_server.url)
        for session, click in clicks:
            duplicate = click.event_id in seen[session]
            if not duplicate:
                if click.event_id is not None:
                    seen[session].add(click.event_id)
                acknowledged[session, click] += 1
                in_order = sorted([*sessions[session], click], key=lambda c: c.timestamp)  # stable: ties stay
                sessions[session] = in_order[-max_clicks:]
            expected = tuple(sessions[session])
            appended = await store.append(session, click, with_session=True)
            assert appended == Appended(len(expected), duplicate, expected)
            assert await store.read(session) == expected
        await store.close()

    with Redis(unix_socket_path=redis_server.socket_path, decode_responses=True) as client:
        client.flushall()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(check())
        logged = Counter(
            (e["session"], Click(e["item"], float(e["ts"]), e["type"], e["event"] or None))
            for e in log_entries(client)
        )
        assert logged == acknowledged
