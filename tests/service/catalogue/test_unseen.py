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
from service.ranking.retriever import Kind
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


async def similar(app: Serving, item_id: str, **parameters: object) -> list[str]:
    answer = await app.client.get(f"/items/{item_id}/similar", params=parameters)  # type: ignore[arg-type]
    assert answer.status_code == 200, answer.text
    return item_ids(answer.json())


async def test_they_are_like_others_and_others_like_them(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url) as app:
        await app.click("s", "i3", "i8")
        assert (await app.client.get("/items/new/similar")).status_code == 404
        near = SHOP.nearest(["i8"], k=12)
        assert near[0] == "i8"
        twin: Values = {"brand": "i8", "price": 5.0}
        await app.items.put([("new", twin), ("newer", {**twin, "price": 50.0}), ("odd", {"title": "odd"})])
        await shown(app, "new")
        await shown(app, "newer")
        assert await similar(app, "i8", k=5) == ["new", "newer", *near[1:4]]
        # Of twins, the one that was learned comes first: a predicted vector is worth a little less here.
        assert await similar(app, "new", k=4) == ["i8", "newer", *near[1:3]]
        assert await similar(app, "i8", k=2, price_max=10) == ["new"], "of others no price is known"
        assert await similar(app, "new", price_max=10) == []
        assert await similar(app, "new", k=2, filter='{"not": {"attribute": "price", "gte": 50}}') == near[:2]
        change_hidden(artifacts, ["newer"], [])
        await shown(app, "newer", there=False)
        assert await similar(app, "new", k=3) == near[:3]
        assert (await app.client.get("/items/odd/similar")).status_code == 404, (
            "nothing is known of its taste"
        )
        await app.items.delete(["new"])
        await shown(app, "new", there=False)
        assert (await app.client.get("/items/new/similar")).status_code == 404


@pytest.mark.parametrize("index", ["flat", "hnsw", "ivf-sq", "ivf-pq"])
def test_similar_is_of_cold_items_too_by_every_index(tmp_path: Path, index: Kind) -> None:
    shop = Shop.make(n_items=400)
    bundle = Bundle.load(shop.write(tmp_path, index=index, content=shop.content(JUST_BELOW)))
    served = ServedBundle.of(bundle)
    assert served.cold is not None
    content = bundle.content
    assert content is not None
    for name, brand in (("new", "i8"), ("newer", "i9")):
        vector = content.vector({"brand": brand})
        assert vector is not None
        served.cold.put(name, vector)
    found = [item_id for item_id, _ in served.similar("new", 20)]
    assert found[0] == "i8"
    assert len(found) == 20
    assert "new" not in found
    assert served.similar("i9", 3)[0][0] == "newer"
    told = served.vectors_of(["new", "i8", "nowhere", "newer", "i9"])
    assert told is not None
    likeness = told @ told.T
    assert likeness[0, 1] > 0.9
    assert likeness[3, 4] > 0.9
    assert likeness[0, 3] < 0.9
    assert not told[2].any()


async def test_diversity_knows_what_they_are_like(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url) as app:
        await app.click("s", "i8")
        best = SHOP.nearest(["i8"])
        await app.items.put([("twin", {"brand": best[0]})])
        await shown(app, "twin")
        assert await answered(app, k=2) == [best[0], "twin"]
        body = {"items": ["i8"], "k": 2, "mmr": 0.5}
        first, second = item_ids((await app.client.post("/recommend", json=body)).json())
        assert first == best[0]
        assert second != "twin", "it is the most like the first"


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
