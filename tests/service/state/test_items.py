"""The catalogue against a real Redis: every change is told to whoever follows, whatever Redis forgets."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from service.process.append_only import files_of
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.documents import MAX_ITEM_BYTES, Values
from service.state.items import (
    MAX_ITEMS_AT_ONCE,
    Changes,
    ItemStore,
    ItemTooLarge,
    Mark,
    Stored,
)
from service.state.keys import Keys
from service.state.link import StoreUnavailable
from tests.service.state.cluster import one_node_cluster, slot_of, url_of
from tests.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.anyio

keys = Keys()
MakeStore = Callable[..., ItemStore]


def settings_with(**changed: object) -> Settings:
    return Settings.model_validate({"redis_timeout_seconds": DEADLINE_SECONDS, **changed})


@pytest.fixture
async def make_store(redis_url: str) -> AsyncIterator[MakeStore]:
    """Makes stores on an empty Redis, and closes them."""
    stores: list[ItemStore] = []

    def make(url: str = redis_url, *, prefix: str = "", **options: Any) -> ItemStore:
        stores.append(ItemStore(settings_with(redis_prefix=prefix), url, **options))
        return stores[-1]

    yield make
    for store in stores:
        await store.close()


@pytest.fixture
def store(make_store: MakeStore) -> ItemStore:
    return make_store()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may kill."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


class Follower:
    """What somebody makes of the changes."""

    def __init__(self, store: ItemStore, limit: int = 1000) -> None:
        self._store = store
        self._limit = limit
        self._mark = Mark()
        self.items: dict[str, Values] = {}
        self.times_whole = 0

    async def step(self) -> Changes:
        changes = await self._store.changes(self._mark, self._limit)
        if changes.is_whole:
            self.items.clear()
            self.times_whole += 1
        for item_id, values in changes.items:
            if values is None:
                self.items.pop(item_id, None)
            else:
                self.items[item_id] = values
        self._mark = changes.mark
        return changes

    async def follow(self) -> dict[str, Values]:
        while (await self.step()).more:
            pass
        return self.items


async def all_of(store: ItemStore, limit: int = 1000) -> dict[str, Values]:
    found: list[tuple[str, Values]] = []
    while page := await store.page(found[-1][0] if found else "", limit):
        found += page
    assert [item_id for item_id, _ in found] == sorted((item_id for item_id, _ in found), key=str.encode)
    return dict(found)


FULL: Values = {
    "title": "größe 42 \u2028 {17} 鞋",
    "price": 19.99,
    "published_at": 1_767_225_600.123456,
    "available": False,
    "categories": ["a", "b|c"],
    "sizes": [1.0, 2.5, -1e300],
}


async def test_an_item_is_read_back_as_it_was_given(store: ItemStore) -> None:
    assert await store.put([("a: {5} ü/x", FULL), ("b", {})]) == Stored(2, 0)
    assert await store.get("a: {5} ü/x") == FULL
    assert await store.get("b") == {}
    assert await store.get("c") is None
    assert await all_of(store) == {"a: {5} ü/x": FULL, "b": {}}


async def test_what_is_there_already_is_no_change(store: ItemStore, redis_client: Redis) -> None:
    await store.put([("a", FULL), ("b", {"price": 1.0})])
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter("items*")}
    assert await store.put([("b", {"price": 1.0}), ("a", dict(reversed(list(FULL.items()))))]) == Stored(0, 2)
    assert await store.patch("b", {"price": 1.0, "brand": None}) == {"price": 1.0}
    assert await store.delete(["c"]) == [False]
    assert await store.put([]) == Stored(0, 0)
    assert {key: redis_client.dump(key) for key in redis_client.scan_iter("items*")} == before
    assert await store.put([("a", {}), ("b", {"price": 1.0})]) == Stored(1, 1)


async def test_of_the_same_item_twice_the_last_counts(store: ItemStore) -> None:
    assert await store.put([("a", {"price": 1.0}), ("a", {"price": 2.0})]) == Stored(1, 0)
    assert await store.get("a") == {"price": 2.0}


async def test_a_patch_changes_what_it_names(store: ItemStore) -> None:
    await store.put([("a", {"price": 1.0, "brand": "x", "tags": ["y"]})])
    assert await store.patch("a", {"price": 2.0, "brand": None}) == {"price": 2.0, "tags": ["y"]}
    assert await store.get("a") == {"price": 2.0, "tags": ["y"]}
    assert await store.patch("b", {"price": 2.0}) is None
    assert await store.get("b") is None


async def test_patches_at_the_same_time_lose_nothing(make_store: MakeStore) -> None:
    """Each makes a document of what it has read; none writes over another's."""
    stores = [make_store() for _ in range(4)]
    await stores[0].put([("a", {})])
    for number in range(20):
        patches = [store.patch("a", {f"a{n}": float(number)}) for n, store in enumerate(stores)]
        await asyncio.gather(*patches)
        assert await stores[0].get("a") == {f"a{n}": float(number) for n in range(4)}


async def test_an_item_that_a_patch_would_make_too_large_stays(store: ItemStore) -> None:
    half: Values = {"title": "x" * (MAX_ITEM_BYTES // 2)}
    await store.put([("a", half)])
    with pytest.raises(ItemTooLarge, match=f"at most {MAX_ITEM_BYTES}"):
        await store.patch("a", {"url": "x" * (MAX_ITEM_BYTES // 2)})
    assert await store.get("a") == half


async def test_the_largest_batch_is_one_step(store: ItemStore, redis_client: Redis) -> None:
    items: list[tuple[str, Values]] = [(f"{n:04}", {"title": "x" * 3000}) for n in range(MAX_ITEMS_AT_ONCE)]
    assert await store.put(items) == Stored(MAX_ITEMS_AT_ONCE, 0)
    assert int(redis_client.zcard(keys.items("_batches"))) == 1
    follower = Follower(store)
    assert await follower.follow() == dict(items)
    assert (await store.changes(Mark())).more, "three megabytes are no single answer"
    assert await all_of(store, 300) == dict(items)
    assert await store.delete([item_id for item_id, _ in items]) == [True] * MAX_ITEMS_AT_ONCE
    assert await follower.follow() == {}
    assert follower.times_whole == 1
    assert redis_client.hlen(keys.items()) == redis_client.zcard(keys.items("_ids")) == 0


async def test_changes_are_told_once_and_oldest_first(store: ItemStore) -> None:
    nothing = await store.changes(Mark())
    assert nothing.is_whole
    assert await store.changes(nothing.mark) == Changes([], nothing.mark, False, False)
    await store.put([("a", {}), ("b", {})])
    await store.put([("a", {"price": 1.0})])
    await store.delete(["b"])
    changes = await store.changes(nothing.mark)
    assert changes.items == [("a", {"price": 1.0}), ("b", None)]
    assert not changes.is_whole
    assert (await store.changes(changes.mark)).items == []
    await store.put([("b", {})])
    assert (await store.changes(changes.mark)).items == [("b", {})]


async def test_what_was_deleted_and_forgotten_before_is_no_reason_to_begin_again(
    make_store: MakeStore,
) -> None:
    """A page may end among numbers of which deletions are forgotten: all were before it was begun."""
    store = make_store(max_tombstones=1)
    await store.put([("a", {}), ("b", {})])
    for number in range(3):
        await store.put([(f"gone-{number}", {})])
        await store.delete([f"gone-{number}"])
    follower = Follower(store, limit=1)
    for _ in range(10):
        if not (await follower.step()).more:
            break
    assert (follower.items, follower.times_whole) == ({"a": {}, "b": {}}, 1)


async def test_what_is_deleted_and_forgotten_meanwhile_is(make_store: MakeStore) -> None:
    """What was read of it is void, wherever in its reading a follower stood."""
    store = make_store(max_tombstones=1)
    await store.put([("a", {}), ("b", {}), ("c", {})])
    follower = Follower(store, limit=1)
    await follower.step()
    await store.delete(["a"])
    await follower.step()
    assert follower.items == {"a": {}, "b": {}}
    await store.delete(["c"])
    assert await follower.follow() == {"b": {}}
    assert follower.times_whole == 2


async def test_a_page_begins_behind_an_item_that_may_be_gone(store: ItemStore) -> None:
    await store.put([(item_id, {}) for item_id in ("ä", "a", "B", "a/1", "[x", "(y", "+", "-")])
    everything = list(await all_of(store, 3))
    assert everything == sorted(everything, key=str.encode)
    assert [item_id for item_id, _ in await store.page("a", 2)] == ["a/1", "ä"]
    assert [item_id for item_id, _ in await store.page("a0", 5)] == ["ä"]
    assert await store.page("ä", 5) == []


IDS = st.sampled_from(["a", "b", "c", "d/e", "ü"])
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "title": st.text(st.characters(codec="utf-8"), min_size=1, max_size=3),
        "price": st.floats(allow_nan=False, allow_infinity=False),
        "available": st.booleans(),
        "tags": st.lists(st.sampled_from("xyz"), min_size=1, max_size=2),
    },
)
PATCHES = st.dictionaries(st.sampled_from(["title", "brand"]), st.none() | st.sampled_from(["x", "y"]))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(IDS, VALUES), max_size=4)),
        st.tuples(st.just("patch"), st.tuples(IDS, PATCHES)),
        st.tuples(st.just("delete"), st.lists(IDS, max_size=3, unique=True)),
        st.tuples(st.just("follow"), st.integers(0, 2)),
        st.tuples(st.just("lose"), st.none()),
        st.tuples(st.just("save"), st.none()),
    ),
    max_size=25,
)


def saved(client: Redis) -> dict[str, Any]:
    """What a replica, or a backup, has."""
    return {key: client.dump(key) for key in client.scan_iter("items*")}


def restore(client: Redis, state: dict[str, Any]) -> None:
    for key in client.scan_iter("items*"):
        client.delete(key)
    for key, content in state.items():
        client.restore(key, 0, content)


@given(steps=STEPS)
@hypothesis_settings(max_examples=60)
def test_a_follower_ends_up_with_what_a_dict_would_hold(
    redis_server: EmbeddedRedis, steps: list[tuple[str, Any]]
) -> None:
    """Followers that stop anywhere, page by page; few deletions are remembered; Redis goes back in time."""
    with Redis(unix_socket_path=redis_server.socket_path, decode_responses=True) as client:
        client.flushall()
    with Redis(unix_socket_path=redis_server.socket_path) as client:
        asyncio.run(take(steps, redis_server.url, client))


async def take(steps: list[tuple[str, Any]], redis_url: str, redis_client: Redis) -> None:
    store = ItemStore(settings_with(), redis_url, max_tombstones=2, max_batches=3)
    expected: dict[str, Values] = {}
    backup: tuple[dict[str, Any], dict[str, Values]] = ({}, {})
    followers = [Follower(store, limit) for limit in (1, 2, 1000)]
    try:
        for step, given_ in steps:
            if step == "put":
                stored = await store.put(given_)
                last = dict(given_)
                assert stored.unchanged == sum(expected.get(i) == v for i, v in last.items())
                assert sum(stored) == len(last)
                expected |= last
            elif step == "patch":
                item_id, patch = given_
                patched = await store.patch(item_id, patch)
                if item_id in expected:
                    merged = {**expected[item_id], **patch}
                    expected[item_id] = {n: v for n, v in merged.items() if v is not None}
                assert patched == expected.get(item_id)
            elif step == "delete":
                assert await store.delete(given_) == [item_id in expected for item_id in given_]
                expected = {item_id: v for item_id, v in expected.items() if item_id not in given_}
            elif step == "follow":
                await followers[given_].step()
            elif step == "save":
                backup = saved(redis_client), dict(expected)
            else:
                restore(redis_client, backup[0])
                expected = dict(backup[1])
        for follower in followers:
            assert await follower.follow() == expected
            assert await follower.follow() == expected
        assert await all_of(store, 2) == expected
        assert redis_client.zcard(keys.items("_gone")) <= 2
        assert redis_client.zcard(keys.items("_batches")) <= 3
        changed = redis_client.zrange(keys.items("_changed"), 0, -1, withscores=True)
        assert all(float(a) < float(b) for (_, a), (_, b) in pairwise(cast("list[tuple[str, str]]", changed)))
    finally:
        await store.close()


async def test_who_knows_no_lost_change_reads_nothing_anew(store: ItemStore, redis_client: Redis) -> None:
    """A Redis that lost what a follower had not heard of yet is as if that had never been."""
    await store.put([("a", {})])
    follower = Follower(store)
    await follower.follow()
    state = saved(redis_client)
    await store.put([("b", {})])
    restore(redis_client, state)
    await store.put([("c", {})])
    assert (await follower.follow()).keys() == {"a", "c"}
    assert follower.times_whole == 1


async def test_forgotten_deletions_are_told_by_reading_all_anew(make_store: MakeStore) -> None:
    store = make_store(max_tombstones=10)
    await store.put([(f"{n}", {}) for n in range(40)])
    follower, late = Follower(store), Follower(store)
    await follower.follow()
    await late.follow()
    await store.delete([f"{n}" for n in range(10)])
    assert len(await follower.follow()) == 30
    await store.delete([f"{n}" for n in range(10, 20)])
    assert len(await follower.follow()) == 20
    assert follower.times_whole == 1
    assert len(await late.follow()) == 20
    assert late.times_whole == 2


async def test_a_killed_redis_that_lost_its_tail_is_noticed(
    own_redis: EmbeddedRedis, make_store: MakeStore, tmp_path: Path
) -> None:
    """Numbers are given again, as many as there were: the follower has seen other changes under them."""
    store = make_store(own_redis.url)
    await store.put([("a", {})])
    ends = {file: file.stat().st_size for file in files_of(tmp_path / "redis")}
    await store.put([("b", {}), ("c", {})])
    follower = Follower(store)
    assert (await follower.follow()).keys() == {"a", "b", "c"}

    def cut() -> None:
        for file, size in ends.items():
            os.truncate(file, size)

    await crash(own_redis, cut)
    await until_it_answers(store)
    await store.put([("d", {}), ("c", {"price": 1.0})])
    assert await follower.follow() == {"a": {}, "d": {}, "c": {"price": 1.0}}
    assert follower.times_whole == 2


async def test_what_was_acknowledged_survives_a_killed_redis(
    own_redis: EmbeddedRedis, make_store: MakeStore
) -> None:
    store = make_store(own_redis.url)
    await store.put([("a", FULL)])
    follower = Follower(store)
    await follower.follow()
    for number in range(3):
        await store.put([(f"{number}-{n}", {}) for n in range(100)])
        await crash(own_redis)
        await until_it_answers(store)
    assert len(await follower.follow()) == 301
    assert follower.times_whole == 1


async def crash(server: EmbeddedRedis, meanwhile: Callable[[], object] = lambda: None) -> None:
    os.kill(server.pid, signal.SIGKILL)
    os.waitid(os.P_PID, server.pid, os.WEXITED | os.WNOWAIT)
    meanwhile()
    await asyncio.to_thread(server.restart_if_dead)


async def until_it_answers(store: ItemStore) -> None:
    """A call that meets the dead connection fails; none after it does."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            try:
                await store.get("a")
            except StoreUnavailable:
                continue
            return


async def test_shops_share_a_redis_and_see_nothing_of_each_other(make_store: MakeStore) -> None:
    one, two = make_store(prefix="one:"), make_store(prefix="two:")
    await one.put([("a", {"price": 1.0})])
    assert await two.get("a") is None
    assert (await two.changes(Mark())).items == []
    assert await two.page("", 10) == []


async def test_it_works_on_a_cluster(make_store: MakeStore, tmp_path: Path) -> None:
    with one_node_cluster(tmp_path) as client:
        store = make_store(url_of(client))
        await store.put([("a", FULL), ("b", {})])
        await store.patch("b", {"price": 1.0})
        await store.delete(["a"])
        assert (await store.changes(Mark())).items == [("b", {"price": 1.0}), ("a", None)]
        assert await all_of(store) == {"b": {"price": 1.0}}
        names = list(client.scan_iter("items*"))
        assert len(names) >= 5
        assert len({slot_of(client, name) for name in names}) == 1
        parts = ("", "_ids", "_changed", "_gone", "_numbers", "_batches")
        assert {*names} == {keys.items(part) for part in parts}


async def test_a_full_redis_refuses_and_keeps_what_it_has(store: ItemStore, redis_client: Redis) -> None:
    await store.put([("a", {})])
    redis_client.config_set("maxmemory", "1")
    try:
        with pytest.raises(StoreUnavailable):
            await store.put([("b", {})])
        assert (await store.changes(Mark())).items == [("a", {})]
    finally:
        redis_client.config_set("maxmemory", "0")
