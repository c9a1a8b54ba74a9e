"""The store on a cluster of three masters: all that it does on one Redis, and slots that move meanwhile."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from hiredis import ReplyError
from redis.cluster import RedisCluster
from structlog.testing import capture_logs

from service.state.keys import Keys
from service.state.link import StoreUnavailable
from service.state.slots import is_undone, slot_of
from service.state.store import Appended, Arrival, Click, SessionStore
from tests.service.state import cluster
from tests.service.state import test_store as shared
from tests.service.state.clicking import Clicking, doubled
from tests.service.state.cluster import Cluster
from tests.service.state.test_store import MakeStore

pytestmark = pytest.mark.anyio

make_store, store = shared.make_store, shared.store

# Those of one Redis that they configure, stop or stand before; all others are run here, too.
keys = Keys()
OF_ONE = {
    "test_unsafe_redis_configuration_is_warned_of",
    "test_a_redis_without_memory_erases",
    "test_a_redis_without_memory_refuses_and_changes_nothing",
    "test_at_first_contact_a_redis_without_memory_refuses",
    "test_a_duplicate_changes_nothing_but_the_time_to_live",  # nor do other masters, which are still asked
}
OF_ONE_BY = {"own_redis", "redis_server", "tmp_path"}
globals().update(
    (name, each)
    for name, each in inspect.getmembers(shared, inspect.isfunction)
    if name.startswith("test_")
    and name not in OF_ONE
    and not OF_ONE_BY & set(inspect.signature(each).parameters)
)


class WholeClient(RedisCluster):
    """A plain client whose KEYS are those of all masters."""

    def keys(self, pattern: Any = "*", **_: object) -> Any:
        return list(self.scan_iter(pattern))


@pytest.fixture
def redis_url(redis_cluster: Cluster) -> str:
    return redis_cluster.url


@pytest.fixture
def redis_client(redis_cluster: Cluster) -> Iterator[RedisCluster]:
    with redis_cluster.client(WholeClient) as client:
        yield client


def test_enough_of_them_are_shared() -> None:
    assert sum(name.startswith("test_") for name in globals()) >= 40


async def test_everything_goes_to_the_right_of_three_masters(
    store: SessionStore, redis_cluster: Cluster
) -> None:
    await shared.live(store)
    assert [node.client.dbsize() > 0 for node in redis_cluster.masters] == [True] * 3


@pytest.mark.parametrize("key", ["shards", "s:{17}:a}b", "{}a", "a{}{b}", "{a", "a}{b}c", "größe", "{ü}", ""])
def test_a_key_lies_where_redis_says(redis_cluster: Cluster, key: str) -> None:
    assert slot_of(key) == cluster.slot_of(redis_cluster.masters[0].client, key)


def test_what_a_script_said_after_it_had_begun_is_not_sent_again() -> None:
    assert all(map(is_undone, map(ReplyError, ("MOVED 1 a:1", "ASK 1 a:1", "TRYAGAIN x", "CLUSTERDOWN x"))))
    for said in (
        "ERR Error running script (call to f_1): @user_script:3: -TRYAGAIN Multiple keys request",
        "ERR Script attempted to access a non local key in a cluster node script: 1, on @user_script:7.",
        "NOSCRIPT No matching script",
    ):
        assert not is_undone(ReplyError(said))
    assert not is_undone("MOVED 1 a:1")


async def test_slots_that_move_under_load_lose_nothing(
    store: SessionStore, redis_cluster: Cluster, redis_client: RedisCluster
) -> None:
    shards = range(shared.settings_with().shards)
    async with Clicking(store) as clicking:
        await clicking.goes_on()
        for shard in shards[:6]:
            key = keys.click_log(shard)
            others = [node for node in redis_cluster.masters if node is not redis_cluster.owner(key)]
            await asyncio.to_thread(redis_cluster.move, key, others[shard % 2])
        await clicking.goes_on()
    assert (clicking.lost(redis_client), doubled(redis_client)) == (set(), [])
    assert clicking.reasons.keys() <= {"the Redis cluster is moving these keys"}


async def test_while_a_slot_moves_reads_are_answered_and_clicks_refused_unchanged(
    make_store: MakeStore, redis_cluster: Cluster
) -> None:
    """A click is one step over several keys, which then lie with two masters."""
    store = make_store(shards=1)
    hasty = make_store(shards=1, redis_timeout_seconds=0.5)
    click = Click("a", 1.0, event_id="e")
    for session in ("s", "t"):
        await store.append(session, click)
    key = keys.click_log(0)
    source = redis_cluster.owner(key)
    to = next(node for node in redis_cluster.masters if node is not source)
    redis_cluster.begin_to_move(key, to)
    held = cluster.cluster(source.client, "COUNTKEYSINSLOT", slot_of(key))
    assert redis_cluster.move_keys(key, source, to, 3) == 3 < held
    assert (await store.read("s"), await store.read("t")) == ((click,), (click,))
    outcomes = await hasty.append_many([Arrival(session, Click("b", 2.0)) for session in ("s", "t")])
    for outcome in outcomes:
        assert isinstance(outcome, StoreUnavailable)
        assert outcome.reason == "the Redis cluster is moving these keys"
    while redis_cluster.move_keys(key, source, to, 100):
        pass
    waiting = asyncio.create_task(store.append("s", Click("b", 2.0)))
    assert await store.read("t") == (click,)
    redis_cluster.end_move(key, source, to)
    assert await waiting == Appended(2, False), "sent again until it was done, and done once"
    assert (await store.append("t", click)).duplicate
    assert redis_cluster.owner(key) is to


async def test_ready_is_said_of_all_masters(make_store: MakeStore, redis_cluster: Cluster) -> None:
    store = make_store()
    await store.check_writable()
    before = [node.client.dbsize() for node in redis_cluster.masters]
    for node in redis_cluster.masters:
        node.client.config_set("maxmemory", 1)
        with pytest.raises(StoreUnavailable) as refused:
            await store.check_writable()
        node.client.config_set("maxmemory", 0)
        assert refused.value.reason == "Redis is full"
    await store.check_writable()
    assert [node.client.dbsize() for node in redis_cluster.masters] == before


async def test_of_many_clicks_those_to_another_master_are_stored(
    make_store: MakeStore, redis_cluster: Cluster
) -> None:
    store = make_store()
    (full, *_) = redis_cluster.masters
    arrivals = [Arrival(f"s{i}", Click("a", 1.0)) for i in range(60)]
    await store.ping()
    full.client.config_set("maxmemory", 1)
    outcomes = await store.append_many(arrivals)
    full.client.config_set("maxmemory", 0)
    for arrival, outcome in zip(arrivals, outcomes, strict=True):
        key = keys.session(keys.shard_of(arrival.session_id, 16), arrival.session_id)
        if redis_cluster.owner(key) is full:
            assert isinstance(outcome, StoreUnavailable)
        else:
            assert outcome == Appended(1, False)


async def test_who_asks_one_of_three_masters_is_told_so(
    make_store: MakeStore, redis_cluster: Cluster
) -> None:
    wrong = next(node for node in redis_cluster.masters if node is not redis_cluster.owner(keys.shards))
    with pytest.raises(StoreUnavailable) as refused:
        await make_store(f"redis://{cluster.HOST}:{wrong.port}").ping()
    assert refused.value.reason == "another server of the Redis cluster has these keys"


async def test_where_no_cluster_is_nothing_waits_for_one(make_store: MakeStore) -> None:
    store = make_store("redis+cluster://me:hu-sh@127.0.0.1:1,127.0.0.1:2")
    with capture_logs() as logs:
        for _ in range(2):
            with pytest.raises(StoreUnavailable):
                await store.read("s")
    assert [entry["event"] for entry in logs] == ["no map of the redis cluster"]
    assert "hu-sh" not in str(logs)
