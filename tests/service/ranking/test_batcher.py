"""Who is ranked together, and who waits for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from service.live.follower import load_bundle
from service.ranking.batcher import MAX_BATCH, Batcher, RanksQueries
from service.ranking.served import Query, Scored, ServedBundle
from tests.service.bundles import Shop

pytestmark = pytest.mark.anyio


class Watched:
    """A served bundle that notes how many queries each run ranked."""

    def __init__(self, served: ServedBundle) -> None:
        self.served = served
        self.sizes: list[int] = []

    def rank(self, queries: Sequence[Query]) -> list[list[Scored]]:
        self.sizes.append(len(queries))
        return self.served.rank(queries)


class Failing:
    """A bundle whose every run fails."""

    def rank(self, queries: Sequence[Query]) -> list[list[Scored]]:
        raise RuntimeError("no such item")


@pytest.fixture
def bundle(artifacts: Path) -> Watched:
    Shop.make().write(artifacts, "v1")
    return Watched(ServedBundle.of(load_bundle(artifacts, "v1")))


class Readings:
    """Sessions that are being read, and queries that follow."""

    def __init__(self, bundle: RanksQueries) -> None:
        self.batcher = Batcher()
        self.bundle = bundle

    def begin(self, item: int) -> tuple[asyncio.Future[int], asyncio.Task[list[Scored]]]:
        reading: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer() -> list[Scored]:
            found = await self.batcher.after(reading)
            return await self.batcher.rank(self.bundle, Query([found], 3, ()))

        task = asyncio.create_task(answer())
        return reading, task


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_comes_alone_waits_for_nobody(bundle: Watched) -> None:
    readings = Readings(bundle)
    reading, task = readings.begin(1)
    await turns()
    assert bundle.sizes == []
    reading.set_result(1)
    assert await task == bundle.served.rank([Query([1], 3, ())])[0]
    assert bundle.sizes == [1]


async def test_who_is_on_the_way_is_waited_for_and_who_comes_later_is_not(bundle: Watched) -> None:
    readings = Readings(bundle)
    begun = [readings.begin(item) for item in (1, 2, 3)]
    await turns()
    begun[0][0].set_result(1)
    await turns()
    later = readings.begin(4)
    begun[1][0].set_result(2)
    await turns()
    assert bundle.sizes == [], "the third is still on its way"
    begun[2][0].set_result(3)
    await turns()
    assert bundle.sizes == [3]
    assert not later[1].done()
    later[0].set_result(4)
    await turns()
    assert bundle.sizes == [3, 1]
    alone = [bundle.served.rank([Query([item], 3, ())])[0] for item in (1, 2, 3, 4)]
    assert [await task for _, task in (*begun, later)] == alone


async def test_a_run_is_bounded(bundle: Watched) -> None:
    readings = Readings(bundle)
    begun = [readings.begin(1) for _ in range(MAX_BATCH + 1)]
    await turns()
    for reading, _ in begun:
        reading.set_result(1)
    await asyncio.gather(*(task for _, task in begun))
    assert bundle.sizes == [MAX_BATCH, 1]


async def test_a_reading_that_fails_or_is_given_up_holds_up_nobody(bundle: Watched) -> None:
    readings = Readings(bundle)
    first, failing, leaving = (readings.begin(item) for item in (1, 2, 3))
    await turns()
    first[0].set_result(1)
    await turns()
    failing[0].set_exception(ConnectionError("gone"))
    leaving[1].cancel()
    assert len(await first[1]) == 3
    assert bundle.sizes == [1]
    with pytest.raises(ConnectionError):
        await failing[1]


async def test_an_error_of_a_run_reaches_all_who_were_in_it() -> None:
    readings = Readings(Failing())
    begun = [readings.begin(item) for item in (1, 2)]
    await turns()
    for reading, _ in begun:
        reading.set_result(1)
    outcomes = await asyncio.gather(*(task for _, task in begun), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no such item"] * 2
