"""Who is ranked together, and who waits for whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.live.follower import Model, load_bundle
from service.ranking import batcher as ranking
from service.ranking.batcher import Query, Ranking, Scored
from tests.service.bundles import Shop

pytestmark = pytest.mark.anyio


@pytest.fixture
def model(artifacts: Path) -> Model:
    Shop.make().write(artifacts, "v1")
    return Model.serve(load_bundle(artifacts, "v1"), frozenset())


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many queries each run ranked."""
    found: list[int] = []
    rank = ranking.rank

    def watched(model: Model, queries: list[Query]) -> list[list[Scored]]:
        found.append(len(queries))
        return rank(model, queries)

    monkeypatch.setattr(ranking, "rank", watched)
    return found


class Readings:
    """Sessions that are being read, and queries that follow."""

    def __init__(self, model: Model) -> None:
        self.ranking = Ranking()
        self.model = model

    def begin(self, item: int) -> tuple[asyncio.Future[int], asyncio.Task[list[Scored]]]:
        reading: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def answer() -> list[Scored]:
            found = await self.ranking.after(reading)
            return await self.ranking.rank(self.model, Query([found], 3, ()))

        task = asyncio.create_task(answer())
        return reading, task


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_who_comes_alone_waits_for_nobody(model: Model, sizes: list[int]) -> None:
    readings = Readings(model)
    reading, task = readings.begin(1)
    await turns()
    assert sizes == []
    reading.set_result(1)
    assert await task == ranking.rank(model, [Query([1], 3, ())])[0]
    assert sizes[0] == 1


async def test_who_is_on_the_way_is_waited_for_and_who_comes_later_is_not(
    model: Model, sizes: list[int]
) -> None:
    readings = Readings(model)
    begun = [readings.begin(item) for item in (1, 2, 3)]
    await turns()
    begun[0][0].set_result(1)
    await turns()
    later = readings.begin(4)
    begun[1][0].set_result(2)
    await turns()
    assert sizes == [], "the third is still on its way"
    begun[2][0].set_result(3)
    await turns()
    assert sizes == [3]
    assert not later[1].done()
    later[0].set_result(4)
    await turns()
    assert sizes == [3, 1]
    alone = [ranking.rank(model, [Query([item], 3, ())])[0] for item in (1, 2, 3, 4)]
    assert [await task for _, task in (*begun, later)] == alone


async def test_a_reading_that_fails_or_is_given_up_holds_up_nobody(model: Model, sizes: list[int]) -> None:
    readings = Readings(model)
    first, failing, leaving = (readings.begin(item) for item in (1, 2, 3))
    await turns()
    first[0].set_result(1)
    await turns()
    failing[0].set_exception(ConnectionError("gone"))
    leaving[1].cancel()
    assert len(await first[1]) == 3
    assert sizes == [1]
    with pytest.raises(ConnectionError):
        await failing[1]


async def test_an_error_of_a_run_reaches_all_who_were_in_it(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: Model, queries: list[Query]) -> list[list[Scored]]:
        raise RuntimeError("no such item")

    monkeypatch.setattr(ranking, "rank", fail)
    readings = Readings(model)
    begun = [readings.begin(item) for item in (1, 2)]
    await turns()
    for reading, _ in begun:
        reading.set_result(1)
    outcomes = await asyncio.gather(*(task for _, task in begun), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["no such item"] * 2
