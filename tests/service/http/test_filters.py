"""Fields and filters through HTTP: every call that answers items, and every way to ask wrongly."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.live.deployment import publish
from service.process.settings import Settings
from service.state.items import ItemStore
from tests.service.bundles import Shop
from tests.service.serving import PATIENT, Serving, item_ids, serving
from tests.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.anyio

SHOP = Shop.make()
CHEAP = {"attribute": "price", "lt": 10}
ITEMS: dict[str, Any] = {
    item_id: {
        "title": f"Number {number}",
        "price": float(number),
        "categories": ["odd" if number % 2 else "even", "all"],
        "published_at": 86400.0 * number,
    }
    for number, item_id in enumerate(SHOP.items[:50], start=1)  # the catalogue does not know the others
}


@pytest.fixture
async def items(redis_url: str) -> AsyncIterator[ItemStore]:
    store = ItemStore(Settings(redis_timeout_seconds=PATIENT), redis_url)
    await store.put(list(ITEMS.items()))
    yield store
    await store.close()


@pytest.fixture
async def service(artifacts: Path, redis_url: str, items: ItemStore) -> AsyncIterator[Serving]:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    async with serving(artifacts, redis_url) as service:
        await service.click("s", "i5", "i6")
        await service.trending.refresh()
        yield service


def without(*allowed: str) -> set[str]:
    return set(SHOP.items) - set(allowed)


async def ask_all(service: Serving, **query: Any) -> dict[str, httpx.Response]:
    """Every call that answers items, with the same fields and filter."""
    client = service.client
    body: dict[str, Any] = {
        "items": ["i5", "i6"],
        **{name: query[name] for name in ("k", "filter") if name in query},
    }
    if "filter" in query:
        query["filter"] = json.dumps(query["filter"])
    if "fields" in query:
        body["fields"] = query["fields"].split(",")
    clicked = {"item_id": "i6", "event_id": "the same"}
    return {
        "recommend": await client.get("/recommend", params={"session_id": "s", **query}),
        "items": await client.post("/recommend", json=body),
        "click": await client.post("/sessions/s2/click", params={"recommend": 20, **query}, json=clicked),
        "trending": await client.get("/trending", params=query),
        "similar": await client.get("/items/i6/similar", params=query),
    }


def items_of(call: str, answer: httpx.Response) -> list[dict[str, Any]]:
    assert answer.status_code == 200, answer.text
    found = answer.json()
    return list((found["recommendations"] if call == "click" else found)["items"])


async def test_items_have_the_fields_that_were_asked_for(service: Serving) -> None:
    for call, answer in (await ask_all(service, fields="title,published_at,brand,title")).items():
        found = items_of(call, answer)
        assert len(found) == (2 if call == "trending" else 20)
        for item in found:
            known = ITEMS.get(item["item_id"], {})
            shown = item["fields"]
            assert list(shown) == ["title", "published_at", "brand"]
            assert (shown["title"], shown["brand"]) == (known.get("title"), None)
            assert (shown["published_at"] is None) is not bool(known)
    plain = await ask_all(service)
    assert all("fields" not in item for call, answer in plain.items() for item in items_of(call, answer))
    day = items_of("similar", await service.client.get("/items/i1/similar?k=50&fields=published_at"))
    shown = next(item["fields"] for item in day if item["item_id"] == "i3")
    assert shown == {"published_at": "1970-01-04T00:00:00Z"}


async def test_every_call_answers_what_the_filter_lets_through(service: Serving) -> None:
    allowed = SHOP.items[:9]
    answers = await ask_all(service, filter=CHEAP)
    assert item_ids(answers["recommend"].json()) == SHOP.nearest(["i5", "i6"], without=without(*allowed))
    assert item_ids(answers["items"].json()) == SHOP.nearest(["i5", "i6"], without=without(*allowed))
    others = [item_id for item_id in allowed if item_id != "i6"]
    assert item_ids(answers["similar"].json()) == SHOP.nearest(["i6"], without=without(*others))
    clicked = answers["click"].json()["recommendations"]
    assert item_ids(clicked) == SHOP.nearest(["i6"], without=without(*allowed))
    assert set(item_ids(answers["trending"].json())) == {"i5", "i6"}
    for call, answer in (await ask_all(service, filter={"not": CHEAP}, k=60)).items():
        if call not in ("trending", "click"):
            found = {item["item_id"] for item in items_of(call, answer)}
            assert found == without(*allowed), "unknown items have no price, and not-cheap they are"


async def test_shortcuts_hold_together_with_the_filter(service: Serving) -> None:
    async def found(**query: Any) -> set[str]:
        return set(item_ids(await service.recommend("s", k=100, **query)))

    assert await found(price_max=3) == {"i1", "i2", "i3"}
    assert await found(price_max=5, category="odd") == {"i1", "i3", "i5"}
    assert await found(price_max=3, category=["odd", "even"]) == {"i1", "i2", "i3"}
    assert await found(category="none such") == set()
    assert await found(available=True) == set()
    assert await found(filter=json.dumps(CHEAP), category="even") == {"i2", "i4", "i6", "i8"}
    assert await found(filter=json.dumps({"same": "categories"}), price_max=2) == {"i1", "i2"}
    assert await found(filter=json.dumps({"near": "price", "percent": 20})) == {"i5", "i6"}


async def test_a_stock_change_reaches_the_answers(service: Serving, items: ItemStore) -> None:
    assert "i5" in item_ids(await service.recommend("s", k=100))
    await items.put([("i5", {"available": False}), ("i60", {"available": True, "title": "New"})])

    async def answered() -> set[str]:
        return set(item_ids(await service.recommend("s", k=100)))

    async with asyncio.timeout(DEADLINE_SECONDS):
        while "i5" in await answered():
            await asyncio.sleep(0.01)
    assert await answered() == without("i5")
    for call, answer in (await ask_all(service, k=100)).items():
        assert "i5" not in {item["item_id"] for item in items_of(call, answer)}
    assert item_ids(await service.recommend("s", k=100, available=True)) == ["i60"]
    await items.delete(["i5"])
    async with asyncio.timeout(DEADLINE_SECONDS):
        while "i5" not in await answered():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("rule", "place"),
    [
        ({"attribute": "colour", "eq": "red"}, "attribute"),
        ({"all": [CHEAP, {"attribute": "price", "lt": "5"}]}, "all.1.lt"),
        ({"attribute": "title", "eq": "x"}, "attribute"),
        ({"any": [{"not": {"near": "brand", "percent": 3}}]}, "any.0.not.near"),
        ([], ""),
        ({"all": [CHEAP] * 33}, ""),
    ],
)
async def test_a_bad_rule_is_a_422_that_names_the_place(service: Serving, rule: Any, place: str) -> None:
    for call, answer in (await ask_all(service, filter=rule)).items():
        assert answer.status_code == 422, call
        where = f"{'body' if call == 'items' else 'query'}.filter" + (f".{place}" if place else "")
        assert answer.json()["errors"][0]["field"] == where
    assert (await service.client.get("/sessions/s2")).status_code == 404, "the click was not stored"


async def test_an_unknown_field_is_a_422_that_names_it(service: Serving) -> None:
    for call, answer in (await ask_all(service, fields="title,colour")).items():
        assert answer.status_code == 422
        (error,) = answer.json()["errors"]
        assert error["field"] == ("body.fields" if call == "items" else "query.fields")
        assert "colour" in error["message"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"filter": "{"}, "query.filter"),
        ({"available": "false"}, "query.available"),
        ({"available": "maybe"}, "query.available"),
        ({"price_max": "cheap"}, "query.price_max"),
        ({"price_max": "nan"}, "query.price_max"),
        ({"fields": "title,"}, "query.fields"),
        ({"filter": ""}, "query.filter"),
    ],
)
async def test_a_bad_query_is_a_422_that_names_the_field(
    service: Serving, query: dict[str, str], field: str
) -> None:
    answer = await service.client.get("/recommend", params={"session_id": "s", **query})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_no_filter_in_a_body_may_be_null(service: Serving) -> None:
    body = {"items": ["i5"], "filter": None}
    answer = await service.client.post("/recommend", json=body)
    assert item_ids(answer.json()) == SHOP.nearest(["i5"])
