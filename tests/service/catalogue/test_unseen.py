"""Items that the catalogue knows and no bundle: they come, change and go in a real service's answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from service.catalogue.attributes import Values
from service.catalogue.filters import Filters
from service.catalogue.unseen import AT_ONCE, UnseenItems
from service.live.deployment import change_hidden, publish
from service.ranking.bundle import Bundle
from service.ranking.served import ServedBundle
from tests.service.bundles import Shop
from tests.service.serving import Serving, item_ids, serving
from tests.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.anyio
SHOP = Shop.make()
OTHER = Shop.make(seed=1)
JUST_BELOW = -1e-3  # so that a cold item comes directly after the one whose vector it has


async def answered(app: Serving, **parameters: object) -> list[str]:
    return item_ids(await app.recommend("s", **parameters))


async def wait_for(app: Serving, fits: Callable[[list[str]], bool]) -> None:
    """Ask until the answer fits."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not fits(await answered(app)):
            await asyncio.sleep(0.01)


async def shown(app: Serving, item_id: str, *, there: bool = True) -> None:
    """Wait until an item is answered, or is not."""
    await wait_for(app, lambda items: (item_id in items) is there)


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    for shop, version in ((SHOP, "v1"), (OTHER, "v2")):
        shop.write(tmp_path, version, content=shop.content(JUST_BELOW))
    publish(tmp_path, "v1")
    return tmp_path


async def test_an_item_comes_with_its_attributes_and_goes_without_them(
    artifacts: Path, redis_url: str
) -> None:
    async with serving(artifacts, redis_url) as app:
        await app.click("s", "i3", "i8")
        before = SHOP.nearest(["i3", "i8"])
        assert await answered(app) == before
        liked, far = before[4], SHOP.nearest(["i3", "i8"], k=60)[-1]
        await app.items.put([("new", {"brand": liked}), ("far", {"brand": far}), ("odd", {"title": "odd"})])
        await shown(app, "new")
        assert await answered(app) == [*before[:5], "new", *before[5:19]]
        answer = await app.recommend("s")
        assert answer["stage"] == "model"

        await app.items.put([("new", {"brand": before[2]})])
        await wait_for(app, [*before[:3], "new", *before[3:19]].__eq__)
        await app.items.put([("new", {"brand": before[2], "available": False})])
        await shown(app, "new", there=False)
        await app.items.put([("new", {"brand": before[2], "available": True})])
        await shown(app, "new")
        await app.items.delete(["new"])
        await wait_for(app, before.__eq__)


async def test_what_may_not_be_answered_is_not(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url) as app:
        await app.click("s", "i3", "i8")
        best = SHOP.nearest(["i3", "i8"])
        cheap: Values = {"brand": best[0], "price": 5.0}
        await app.items.put([("cheap", cheap), ("dear", {**cheap, "price": 50.0})])
        await shown(app, "dear")
        await shown(app, "cheap")
        assert "cheap" not in await answered(app, exclude="cheap")
        assert await answered(app, price_max=10, k=1) == ["cheap"]
        within = await answered(app, price_max=10)
        assert "dear" not in within
        change_hidden(artifacts, ["cheap"], [])
        await shown(app, "cheap", there=False)
        assert "dear" in await answered(app)
        assert "cheap" not in await answered(app, price_max=10)
        await app.click("s", "dear")
        assert "dear" not in await answered(app, exclude_seen=True)


async def test_a_new_bundle_has_them_too(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url) as app:
        await app.click("s", "i3", "i8")
        best = OTHER.nearest(["i3", "i8"], k=19)
        await app.items.put([("new", {"brand": best[4]})])
        publish(artifacts, "v2")
        await wait_for(app, [*best[:5], "new", *best[5:]].__eq__)


async def test_clicks_on_them_are_not_refused_where_unknown_items_are(
    artifacts: Path, redis_url: str
) -> None:
    async with serving(artifacts, redis_url, unknown_items="refuse") as app:
        await app.click("s", "i3", "i8")
        await app.items.put([("new", {"brand": "i8"})])
        await shown(app, "new")
        assert (await app.click("s", "new")).status_code == 200
        assert (await app.click("s", "never heard of")).status_code == 422


async def test_vectors_are_made_in_small_pieces(tmp_path: Path) -> None:
    bundle = Bundle.load(SHOP.write(tmp_path, content=SHOP.content()))
    served = ServedBundle.of(bundle)
    filters = Filters({"brand": "string"})
    unseen = UnseenItems(filters, lambda: [served], pause_seconds=0)
    filters.apply([(f"n{number}", {"brand": "i1"}) for number in range(5 * AT_ONCE)])
    cold = served.cold
    assert cold is not None
    looking = asyncio.create_task(unseen.look())
    seen = [len(cold)]
    while not looking.done():
        await asyncio.sleep(0)
        seen.append(len(cold))
    assert max(after - before for before, after in pairwise(seen)) <= AT_ONCE
    assert len(cold) == 5 * AT_ONCE

    filters.apply([("n0", None), ("n1", {"brand": "nobody knows"}), ("i1", {"brand": "i2"})])
    await unseen.look()
    assert len(cold) == 5 * AT_ONCE - 2, "what the bundle knows, and what says nothing, is not among them"

    columns = type(filters.columns)(filters.columns.kinds)
    columns.apply([("n2", {"brand": "i1"}), ("m", {"brand": "i2"})])
    await filters.replace(columns)
    await unseen.look()
    assert set(cold.index_of) == {"n2", "m"}
