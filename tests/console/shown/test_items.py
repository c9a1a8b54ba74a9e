"""Items in words."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from console.service import Service, ServiceError, connection
from console.shown.items import LONGEST, Row, Titles, attributes_of, found, picture_of, rows_of


def test_a_row_says_what_is_known() -> None:
    full = {
        "item_id": "a",
        "title": "Tent",
        "price": 1259.5,
        "currency": "EUR",
        "available": False,
        "image_url": "https://shop.example/a.jpg",
    }
    assert rows_of([full, {"item_id": "b"}], frozenset({"b"})) == [
        Row("a", "Tent", "1,259.50 EUR", "out of stock", False, "https://shop.example/a.jpg"),
        Row("b", "", "", "not said", True, None),
    ]


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "/a.jpg", 5, None])
def test_only_pictures_are_shown_as_such(url: object) -> None:
    assert picture_of({"item_id": "a", "image_url": url}) is None


def test_attributes_are_written_those_that_all_have_first() -> None:
    item = {
        "item_id": "a",
        "zeal": 3.5,
        "colour": ["red", "blue"],
        "published_at": 1_700_000_000,
        "available": True,
        "title": "T" * (LONGEST + 1),
        "image_url": "https://x",
    }
    assert attributes_of(item) == [
        ("title", "T" * LONGEST + " …"),
        ("available", "yes"),
        ("published_at", "2023-11-14 22:13:20 UTC"),
        ("colour", "red, blue"),
        ("zeal", "3.5"),
    ]


def test_an_empty_page_is_not_the_end_of_a_search() -> None:
    assert found(3, "tent", "b") == "3 items with “tent”, and there may be more"
    assert found(3, "", None) == "3 items"
    assert found(0, "tent", "b") == "No items with “tent” among those looked at so far: look on"
    assert found(0, "tent", None) == "No items with “tent”"
    assert found(0, "", None) == "The catalogue is empty here"


def test_each_title_is_asked_for_once() -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path.decode())
        if request.url.path == "/items/broken":
            return httpx.Response(503, json={"detail": "Redis is away"})
        if request.url.path == "/items/a/b":
            return httpx.Response(200, json={"item_id": "a/b", "title": "Tent"})
        return httpx.Response(404, json={"detail": "the catalogue has no such item"})

    async def learn() -> None:
        async with connection(httpx.MockTransport(answer)) as http:
            titles = Titles(Service(http, "http://service"))
            await titles.learn(["a/b", "unknown", "a/b"])
            await titles.learn(["unknown"])
            assert (titles.of("a/b"), titles.of("unknown"), titles.of("never")) == ("Tent", "", "")
            with pytest.raises(ServiceError, match="Redis is away"):
                await titles.learn(["broken"])

    asyncio.run(learn())
    assert sorted(asked) == ["/items/a%2Fb", "/items/broken", "/items/unknown"]
