"""The calls about items, on the real app and a real Redis."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from redis import Redis

from service.catalogue.attributes import Schema
from service.http.items import ItemsApi, ItemsQuery
from service.live.deployment import publish
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.items import MAX_ITEMS_AT_ONCE, ItemStore
from tests.service.bundles import Shop
from tests.service.serving import Serving, serving
from tests.waiting import DEADLINE_SECONDS, stopped

pytestmark = pytest.mark.anyio

LINES = {"Content-Type": "application/x-ndjson"}
FULL = {
    "item_id": "a/b c/ü?",
    "title": "A tent",
    "price": 19.99,
    "categories": ["Tents"],
    "available": True,
    "colour": "red",
}


@pytest.fixture
def published(artifacts: Path) -> Path:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    (artifacts / "catalogue.toml").write_text('[attributes]\ncolour = "string"\n')
    return artifacts


@pytest.fixture
async def service(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    async with serving(published, redis_url, catalogue_file=published / "catalogue.toml") as service:
        yield service


def path_of(item_id: str) -> str:
    """A slash is one of the path: those that write it as %2F are understood as well."""
    return f"/items/{quote(item_id)}"


async def put(service: Serving, *items: object) -> httpx.Response:
    return await service.client.put("/items", json=items)


async def get(service: Serving, item_id: str) -> httpx.Response:
    return await service.client.get(path_of(item_id))


async def pages(service: Serving, **query: Any) -> list[list[str]]:
    """The ids of each page."""
    found, after = [], ""
    while after is not None:
        answer = await service.client.get("/items", params={**query, "after": after})
        assert answer.status_code == 200, answer.text
        found.append([item["item_id"] for item in answer.json()["items"]])
        after = answer.json()["next"]
    return found


async def test_an_item_is_answered_as_it_was_put(service: Serving) -> None:
    answer = await put(service, FULL, {"item_id": "b", "title": None, "tags": []})
    assert (answer.status_code, answer.json()) == (200, {"stored": 2, "unchanged": 0})
    assert (await put(service, FULL)).json() == {"stored": 0, "unchanged": 1}
    assert (await get(service, "a/b c/ü?")).json() == FULL
    assert (await get(service, "b")).json() == {"item_id": "b"}
    missing = await get(service, "a/b")
    assert (missing.status_code, missing.json()["type"]) == (404, "urn:nextclick:problem:unknown-item")


async def test_lines_of_json_are_a_batch_too(service: Serving) -> None:
    body = "\r\n".join(["", json.dumps(FULL), "  ", '{"item_id": "b"}', ""])
    answer = await service.client.put("/items", content=body, headers=LINES)
    assert answer.json() == {"stored": 2, "unchanged": 0}
    broken = await service.client.put("/items", content='{"item_id": "c"}\n\n{"item_id": \n', headers=LINES)
    assert broken.status_code == 422
    assert broken.json()["detail"].startswith("body.1: not JSON")
    assert (await get(service, "c")).status_code == 404
    for content in ("", "\n \n", '{"item_id": "c"}\n' * (MAX_ITEMS_AT_ONCE + 1)):
        answer = await service.client.put("/items", content=content, headers=LINES)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body")


async def test_a_wrong_batch_names_each_item_and_stores_none(service: Serving, redis_client: Redis) -> None:
    good = [{"item_id": f"i{n}"} for n in range(500)]
    wrong = [{"item_id": f"w{n}", "price": "1"} for n in range(30)]
    answer = await put(service, *good, {"title": "x"}, *wrong)
    assert answer.status_code == 422
    document = answer.json()
    assert document["type"] == "urn:nextclick:problem:invalid-input"
    assert document["detail"] == "body.500.item_id: Field required"
    assert document["errors"][0] == {"field": "body.500.item_id", "message": "Field required"}
    assert document["errors"][1] == {
        "field": "body.501.price",
        "message": "Expected float | null, got str",
        "item_id": "w0",
    }
    assert len(document["errors"]) == 20
    assert not redis_client.exists("items:{items}")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        ([{"item_id": f"{n}"} for n in range(MAX_ITEMS_AT_ONCE + 1)], "body"),
        ({"item_id": "a"}, "body"),
        ([3], "body.0"),
        ([{"item_id": "a", "color": "red"}], "body.0.color"),
        ([{"item_id": "a", "colour": ["red"]}], "body.0.colour"),
    ],
)
async def test_what_is_wrong_is_named(service: Serving, body: Any, field: str) -> None:
    answer = await service.client.put("/items", json=body)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)


async def test_a_batch_may_be_larger_than_other_bodies(published: Path, redis_url: str) -> None:
    items = [{"item_id": f"{n}", "title": "x" * 1000} for n in range(100)]
    limits = {"max_body_bytes": 20_000, "catalogue_max_body_bytes": 200_000}
    async with serving(published, redis_url, **limits) as service:
        assert (await put(service, *items)).json() == {"stored": 100, "unchanged": 0}
        assert (await put(service, *items, *items)).status_code == 413
        change = {"title": "x" * 20_000}
        assert (await service.client.patch("/items/1", json=change)).status_code == 413


async def test_a_patch_changes_what_it_names(service: Serving) -> None:
    await put(service, FULL)
    path = path_of(str(FULL["item_id"]))
    answer = await service.client.patch(path, json={"price": 5, "colour": None})
    expected = {**{name: value for name, value in FULL.items() if name != "colour"}, "price": 5.0}
    assert (answer.status_code, answer.json()) == (200, expected)
    assert (await get(service, "a/b c/ü?")).json() == expected
    wrong = await service.client.patch(path, json={"item_id": "z"})
    assert (wrong.status_code, wrong.json()["detail"]) == (422, "body.item_id: unknown field")
    assert (await service.client.patch("/items/other", json={"price": 5})).status_code == 404
    assert (
        await service.client.patch(path, content=b"{", headers={"Content-Type": "application/json"})
    ).status_code == 422
    large = {
        "tags": ["x" * 200 + str(n) for n in range(32)],
        "categories": ["x" * 200 + str(n) for n in range(32)],
    }
    assert (await service.client.patch(path, json=large)).status_code == 200
    over = {"title": "x" * 4000}
    too_large = await service.client.patch(path, json=over)
    assert (too_large.status_code, too_large.json()["errors"][0]["field"]) == (422, "body")


async def test_a_deleted_item_is_no_more(service: Serving) -> None:
    await put(service, FULL)
    path = path_of(str(FULL["item_id"]))
    assert (await service.client.delete(path)).status_code == 204
    assert (await service.client.delete(path)).status_code == 404
    assert (await get(service, "a/b c/ü?")).status_code == 404


async def test_items_are_listed_page_by_page(service: Serving) -> None:
    ids = [f"i{n:03}" for n in range(7)]
    await put(service, *[{"item_id": item_id, "title": f"Größe {item_id[-1]}"} for item_id in ids])
    assert await pages(service) == [ids]
    assert await pages(service, limit=3) == [ids[:3], ids[3:6], ids[6:]]
    assert await pages(service, query="GRÖSSE 4") == await pages(service, query="I004") == [["i004"]]
    assert await pages(service, query="nothing") == [[]]
    for wrong in ({"limit": 0}, {"limit": 201}, {"query": "x" * 257}, {"after": "a\x00"}):
        assert (await service.client.get("/items", params=wrong)).status_code == 422


async def test_a_search_looks_at_so_much_in_one_call(service: Serving, redis_url: str) -> None:
    await put(service, *[{"item_id": f"i{n:03}"} for n in range(10)], {"item_id": "needle"})
    store = ItemStore(Settings(redis_timeout_seconds=DEADLINE_SECONDS), redis_url)
    api = ItemsApi(store, Schema(), piece=2, max_looked_at=4)
    found = [page := await api.list_items(ItemsQuery("NEEDLE"), "server")]
    while page.next is not None:
        found.append(page := await api.list_items(ItemsQuery("NEEDLE", page.next), "server"))
    assert [(len(page.items), page.next) for page in found] == [(0, "i003"), (0, "i007"), (1, None)]
    await store.close()


async def test_similar_and_slashes_get_along(service: Serving) -> None:
    await put(service, {"item_id": "i1"}, {"item_id": "x/similar/y"})
    assert (await service.client.get("/items/i1/similar")).json()["version"] == "v1"
    assert (await get(service, "x/similar/y")).status_code == 200
    assert (await service.client.get("/items/x%2Fsimilar%2Fy")).json() == {"item_id": "x/similar/y"}
    assert (await service.client.delete("/items/i1/similar")).status_code == 404
    allowed = await service.client.post("/items/i1")
    assert (allowed.status_code, allowed.headers["Allow"]) == (405, "DELETE, GET, HEAD, PATCH")
    assert (await service.client.post("/items")).headers["Allow"] == "GET, HEAD, PUT"


async def test_who_may_write_and_who_may_read(published: Path, redis_url: str) -> None:
    keys = {"api_key": "shop-key", "server_api_key": "server-key"}
    shopper, server = {"X-API-Key": "shop-key"}, {"X-API-Key": "server-key"}
    async with serving(published, redis_url, **keys) as service:
        client = service.client
        assert (await client.put("/items", json=[{"item_id": "a"}], headers=shopper)).status_code == 403
        assert (await client.put("/items", json=[{"item_id": "a"}], headers=server)).status_code == 200
        assert (await client.get("/items", headers=shopper)).status_code == 200
        assert (await client.get("/items", headers=server)).status_code == 200
        assert (await client.get("/items")).status_code == 401
        assert (await client.patch("/items/a", json={"price": 1}, headers=shopper)).status_code == 403
        assert (await client.delete("/items/a", headers=shopper)).status_code == 403
        assert (await client.get("/items/a", headers=shopper)).status_code == 200
        assert (await client.get("/items/a")).status_code == 401


async def test_fifty_items_count_as_one_request(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, rate_limit_per_minute=3) as service:
        assert (await put(service, *[{"item_id": f"{n}"} for n in range(101)])).status_code == 200
        assert (await put(service, {"item_id": "a"})).status_code == 429


async def test_the_document_knows_the_shops_own_attributes(service: Serving) -> None:
    document = (await service.client.get("/openapi.json")).json()
    schemas = document["components"]["schemas"]
    assert {"title", "price", "colour"} <= schemas["ItemBody"]["properties"].keys()
    assert schemas["ItemBody"]["required"] == ["item_id"]
    assert "item_id" not in schemas["ItemChanges"]["properties"]
    body = document["paths"]["/items"]["put"]["requestBody"]["content"]
    assert body["application/json"]["schema"]["items"] == {"$ref": "#/components/schemas/ItemBody"}
    assert "application/x-ndjson" in body


async def test_a_redis_that_hangs_or_is_full_is_told_and_nothing_is_acknowledged(
    published: Path, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server:
        async with serving(published, server.url, redis_timeout_seconds=1.0) as service:
            assert (await put(service, {"item_id": "a"})).status_code == 200
            with stopped(server.pid):
                refused = [
                    await put(service, {"item_id": "b"}),
                    await service.client.patch("/items/a", json={"price": 1}),
                    await service.client.delete("/items/a"),
                    await service.client.get("/items/a"),
                    await service.client.get("/items"),
                ]
            for answer in refused:
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
                assert answer.json()["type"] == "urn:nextclick:problem:store-unavailable"
        async with serving(published, server.url) as service:
            with Redis.from_url(server.url) as client:
                client.config_set("maxmemory", "1")
            full = await put(service, {"item_id": "c"})
            assert full.status_code == 503
            assert (await get(service, "c")).status_code == 404
