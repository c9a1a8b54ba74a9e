"""The follower against a store that is handed in: pieces, wholes, and a Redis that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from service.catalogue.attributes import Kind, Values
from service.catalogue.filters import Filters
from service.catalogue.follower import AT_ONCE, CatalogueFollower
from service.process.metrics import CATALOGUE_MISFITS
from service.state.items import Changes, Mark
from service.state.link import StoreUnavailable
from tests.waiting import DEADLINE_SECONDS, eventually

pytestmark = pytest.mark.anyio

KINDS: dict[str, Kind] = {"price": "number", "brand": "string", "tags": "strings", "available": "bool"}
Entry = tuple[str, Values | None]


class FakeStore:
    """Tells its pages one after the other; an exception among them is raised once."""

    def __init__(self, *pages: Changes | StoreUnavailable) -> None:
        self.pages = list(pages)
        self.asked: list[Mark] = []

    async def changes(self, after: Mark, limit: int) -> Changes:
        assert limit <= AT_ONCE
        self.asked.append(after)
        await asyncio.sleep(0)
        page = self.pages.pop(0) if self.pages else Changes([], after, False, False)
        if isinstance(page, StoreUnavailable):
            raise page
        return page


def page(items: Sequence[Entry], number: int, *, whole: bool = False, more: bool = False) -> Changes:
    return Changes(list(items), Mark(number), whole, more)


def away() -> StoreUnavailable:
    return StoreUnavailable("Redis did not answer", "no answer")


def known(filters: Filters) -> dict[str, Any]:
    columns = filters.columns
    return {
        item_id: {name: value for name in KINDS if (value := columns[name].shown(row)) is not None}
        for item_id, row in columns.row_of.items()
    }


async def test_changes_are_followed_from_where_the_last_ended() -> None:
    store = FakeStore(
        page([("a", {"price": 1.0})], 1, whole=True, more=True),
        page([("b", {"price": 2.0})], 2),
        page([("a", None), ("b", {"brand": "x"})], 5),
    )
    filters = Filters(KINDS)
    follower = CatalogueFollower(store, filters, 3600)
    await follower.look()
    assert known(filters) == {"a": {"price": 1.0}, "b": {"price": 2.0}}
    await follower.look()
    assert known(filters) == {"b": {"brand": "x"}}
    assert store.asked == [Mark(), Mark(1), Mark(2)]


async def test_a_whole_takes_its_place_in_one_step_however_redis_comes_and_goes() -> None:
    store = FakeStore(page([("a", {"price": 1.0})], 9, whole=True))
    filters = Filters(KINDS)
    follower = CatalogueFollower(store, filters, 3600)
    await follower.look()
    old = known(filters)
    store.pages = [
        page([("b", {"price": 2.0})], 1, whole=True, more=True),
        away(),
        page([("c", {"price": 3.0})], 2, more=True),
        away(),
        page([("d", {"price": 4.0})], 1, whole=True, more=True),  # Redis is yet another one
        page([("e", {"price": 5.0})], 2),
    ]
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await follower.look()
        assert known(filters) == old
    await follower.look()
    assert known(filters) == {"d": {"price": 4.0}, "e": {"price": 5.0}}
    store.pages = [page([], 0, whole=True)]
    await follower.look()
    assert known(filters) == {}


async def test_requests_come_between_the_pieces() -> None:
    """A large page is not applied at once: others run in between, and see what is there so far."""
    many = [(f"i{number}", {"price": 1.0}) for number in range(3 * AT_ONCE)]
    filters = Filters(KINDS)
    follower = CatalogueFollower(FakeStore(page([], 0, whole=True), page(many, 1)), filters, 3600)
    await follower.look()
    looking = asyncio.create_task(follower.look())
    seen = set()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not looking.done():
            seen.add(len(filters.columns))
            await asyncio.sleep(0)
    assert {0, AT_ONCE, 2 * AT_ONCE, 3 * AT_ONCE} >= seen >= {AT_ONCE, 2 * AT_ONCE}


async def test_it_goes_on_when_redis_is_back_and_tells_how_far_behind_it_is() -> None:
    now = 100.0
    store = FakeStore(page([("a", {"price": 1.0})], 1, whole=True))
    filters = Filters(KINDS)
    follower = CatalogueFollower(store, filters, poll_seconds=0.001, clock=lambda: now)
    await follower.look()
    assert (follower.error, follower.behind_seconds) == (None, 0)
    store.pages = [away()] * 100_000
    task = asyncio.create_task(follower.follow())
    try:
        await eventually(lambda: follower.error is not None)
        now = 130.0
        assert follower.behind_seconds == 30
        assert known(filters) == {"a": {"price": 1.0}}, "what is known stays"
        store.pages = [page([("b", {"price": 2.0})], 2)]
        await eventually(lambda: follower.error is None)
        assert follower.behind_seconds == 0
        assert set(known(filters)) == {"a", "b"}
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_was_stored_under_another_kind_is_left_out() -> None:
    before = CATALOGUE_MISFITS._value.get()
    items: list[Any] = [
        ("a", {"price": "5", "brand": "x", "no longer declared": 1.0}),
        ("b", {"price": True, "tags": ["x", "y"], "available": True}),
        ("c", {"tags": ["x", 1.0], "brand": ["x"], "available": 1.0}),
    ]
    filters = Filters(KINDS)
    await CatalogueFollower(FakeStore(page(items, 1, whole=True)), filters, 3600).look()
    assert known(filters) == {"a": {"brand": "x"}, "b": {"tags": ["x", "y"], "available": True}, "c": {}}
    assert CATALOGUE_MISFITS._value.get() - before == 5
