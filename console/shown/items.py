"""What the page of items shows: attributes in words, and what a change of one leads to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from console.service import Service, ServiceError, segment
from console.shown.sessions import when

FIRST = ("title", "brand", "categories", "tags", "price", "currency", "available", "published_at", "url")
MOST_SHOWN = 50  # of the hidden
LONGEST = 300  # characters of one attribute
AT_ONCE = 8  # items asked for


@dataclass(frozen=True)
class Row:
    """An item in a list."""

    item_id: str
    title: str
    price: str
    stock: str
    is_hidden: bool
    picture: str | None


def rows_of(items: Sequence[Mapping[str, Any]], hidden: frozenset[str]) -> list[Row]:
    """Of a page of `GET /items`."""
    return [
        Row(
            item["item_id"],
            item.get("title") or "",
            price_of(item),
            stock_of(item),
            item["item_id"] in hidden,
            picture_of(item),
        )
        for item in items
    ]


def price_of(item: Mapping[str, Any]) -> str:
    """With its currency, if that is known."""
    price = item.get("price")
    return "" if price is None else f"{price:,.2f} {item.get('currency') or ''}".strip()


def stock_of(item: Mapping[str, Any]) -> str:
    available = item.get("available")
    return "not said" if available is None else "in stock" if available else "out of stock"


def picture_of(item: Mapping[str, Any]) -> str | None:
    """What an `img` may show: nothing of other schemes."""
    url = item.get("image_url")
    return url if isinstance(url, str) and url.startswith(("https://", "http://", "data:image/")) else None


def attributes_of(item: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, those that every shop has first; a picture is shown, not written."""
    names = [name for name in FIRST if name in item]
    names += sorted(name for name in item if name not in (*FIRST, "item_id", "image_url"))
    return [(name, _written(name, item[name])) for name in names]


def _written(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        text = ", ".join(str(each) for each in value)
    elif name == "published_at" and isinstance(value, int | float):
        text = when(value)
    else:
        text = str(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def found(rows: int, query: str, following: str | None) -> str:
    """What a page of a search has, in a sentence."""
    of = f" with “{query}”" if query else ""
    if rows:
        return f"{rows} items{of}" + (", and there may be more" if following else "")
    if following:
        return f"No items{of} among those looked at so far: look on"
    return f"No items{of}" if query else "The catalogue is empty here"


def hiding(item_id: str, *, hide: bool) -> tuple[str, str]:
    """Title and consequence of the switch."""
    if hide:
        return f"Hide {item_id}?", (
            "It is answered no more, by no stage and in no placement, whatever pins it. Clicks on it still "
            "count. Every worker follows within a moment, and it can be undone here."
        )
    return (
        f"Show {item_id} again?",
        "It may be answered again, as any other item, in every worker within a moment.",
    )


def stocking(item_id: str, *, available: bool) -> tuple[str, str]:
    """Title and consequence of a change of stock."""
    if available:
        return f"{item_id} is in stock?", (
            "The catalogue says so from now on, and it may be answered again within a second. "
            "The shop's next import may say otherwise."
        )
    return f"{item_id} is out of stock?", (
        "The catalogue says so from now on, and it is answered no more within a second. "
        "The shop's next import may say otherwise."
    )


class Titles:
    """What items are called, as far as the catalogue knows; each is asked for once by one page."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._known: dict[str, str] = {}
        self._places = asyncio.Semaphore(AT_ONCE)

    async def learn(self, item_ids: Iterable[str]) -> None:
        """Ask for those that are not known yet. Raises `ServiceError`."""
        await asyncio.gather(
            *(self._ask(each) for each in dict.fromkeys(item_ids) if each not in self._known)
        )

    def of(self, item_id: str) -> str:
        """'' if the catalogue says nothing."""
        return self._known.get(item_id, "")

    async def _ask(self, item_id: str) -> None:
        async with self._places:
            self._known[item_id] = str((await item_of(self._service, item_id) or {}).get("title") or "")


async def item_of(service: Service, item_id: str) -> Mapping[str, Any] | None:
    """An item of the catalogue, or None. Raises `ServiceError`."""
    try:
        return await service.get(f"/items/{segment(item_id)}")
    except ServiceError as error:
        if error.status != 404:
            raise
        return None
