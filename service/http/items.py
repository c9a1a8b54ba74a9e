"""The calls about items: what the shop's own server tells of them, and what anybody may read of one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, cast

import msgspec
from msgspec import Meta, Raw, Struct

from service.catalogue.attributes import InvalidItem, Item, Schema, Values
from service.http.operations import operation
from service.http.problems import Problem, invalid_input
from service.http.schemas import ItemPath
from service.process.settings import Caller
from service.ranking.bundle import NO_CONTROL_CHARACTERS
from service.ranking.item_ids import MAX_ITEM_ID_LENGTH
from service.state.items import MAX_ITEMS_AT_ONCE, ItemStore, ItemTooLarge

MAX_PAGE = 200
PIECE = 200  # items looked at between two turns of the loop
MAX_LOOKED_AT = 5000  # by one call: what is behind them the next one looks at
MAX_LOOKED_AT_FOR_PAGES = 1000  # which anybody may ask for, as often as they may ask for anything
MAX_ERRORS = 20  # told of one batch
BATCH_SHARE = 50  # so many items cost Redis about what a click does

# What they look like depends on catalogue.toml: see `Schema`.
AnyItem = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/ItemBody"})]
AnyChanges = Annotated[Raw, Meta(extra_json_schema={"$ref": "#/components/schemas/ItemChanges"})]

_encode = msgspec.json.Encoder().encode


class ItemsQuery(Struct):
    query: Annotated[
        str,
        Meta(
            max_length=MAX_ITEM_ID_LENGTH,
            pattern=NO_CONTROL_CHARACTERS,
            description="only items with this in their id or title, in capitals or not",
        ),
    ] = ""
    after: Annotated[
        str,
        Meta(
            max_length=MAX_ITEM_ID_LENGTH,
            pattern=NO_CONTROL_CHARACTERS,
            description="only items whose id comes after this: `next` of the page before",
        ),
    ] = ""
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE, description="how many items")] = 50


class StoredItems(Struct):
    """All of them are stored."""

    stored: Annotated[int, Meta(description="new or changed")]
    unchanged: Annotated[int, Meta(description="were there like that already")]


class ItemsPage(Struct):
    """Items in the order of the bytes of their ids."""

    items: list[AnyItem]
    next: Annotated[
        str | None,
        Meta(description="ask for what comes `after` it; null: that was all. A page may be empty before it"),
    ]


class ItemsApi:
    """The calls about items."""

    def __init__(
        self, items: ItemStore, schema: Schema, *, piece: int = PIECE, max_looked_at: int = MAX_LOOKED_AT
    ) -> None:
        self._items = items
        self._schema = schema
        self._piece = piece
        self._max_looked_at = max_looked_at

    @operation(
        "PUT",
        "/items",
        tag="items",
        problems=(503,),
        scope="server",
        is_batch=True,
        batch_share=BATCH_SHARE,
        max_lines=MAX_ITEMS_AT_ONCE,
    )
    async def put_items(
        self, body: Annotated[list[AnyItem], Meta(min_length=1, max_length=MAX_ITEMS_AT_ONCE)]
    ) -> StoredItems:
        """Store up to 1,000 items in one step, in place of what they were; if one is wrong, none is stored.

        They come as a JSON array, or as lines of JSON with the content type application/x-ndjson. For the
        rate limit 50 items, or a part of them, count as one request.
        """
        items: list[Item] = []
        errors: list[InvalidItem] = []
        for position, item in enumerate(body):
            try:
                items.append(self._schema.read_item(item, f"body.{position}"))
            except InvalidItem as error:
                errors.append(error)
                if len(errors) == MAX_ERRORS:
                    break
            if position % self._piece == self._piece - 1:
                await asyncio.sleep(0)
        if errors:
            raise _problem(errors)
        return StoredItems(*await self._items.put(items))

    @operation("GET", "/items", tag="items", problems=(503,))
    async def list_items(self, query: ItemsQuery, caller: Caller) -> ItemsPage:
        """A page of the catalogue; with `query` up to 5,000 items are looked at for it.

        With a public key, or none, they are up to 1,000, without what catalogue.toml calls private.
        """
        wanted, after, looked_at = query.query.casefold(), query.after, 0
        most = min(self._max_looked_at, MAX_LOOKED_AT_FOR_PAGES if caller == "public" else MAX_LOOKED_AT)
        found: list[AnyItem] = []
        piece = self._piece if wanted else query.limit
        while looked_at < most:
            page = await self._items.page(after, piece)
            for after, stored in page:
                values = self._schema.shown_to(caller, stored)
                if wanted in after.casefold() or wanted in str(values.get("title", "")).casefold():
                    found.append(_shown(after, values))
                    if len(found) == query.limit:
                        return ItemsPage(found, after)
            looked_at += len(page)
            if len(page) < piece:
                return ItemsPage(found, None)
        return ItemsPage(found, after)

    @operation("GET", "/items/{item_id:path}", tag="items", problems=(404, 503))
    async def item(self, path: ItemPath, caller: Caller) -> AnyItem:
        """What is known of an item now; answers elsewhere may be up to a second behind it.

        With a public key, or none, without what catalogue.toml calls private.
        """
        values = await self._items.get(path.item_id)
        if values is None:
            raise _unknown_item()
        return _shown(path.item_id, self._schema.shown_to(caller, values))

    @operation("PATCH", "/items/{item_id:path}", tag="items", problems=(404, 503), scope="server")
    async def change_item(self, path: ItemPath, body: AnyChanges, caller: Caller) -> AnyItem:
        """Change some attributes of an item, and leave all others; null takes one away."""
        try:
            values = await self._items.patch(path.item_id, self._schema.read_changes(body, "body"))
        except InvalidItem as error:
            raise _problem([error]) from None
        except ItemTooLarge as error:
            raise invalid_input("body", str(error)) from None
        if values is None:
            raise _unknown_item()
        return _shown(path.item_id, self._schema.shown_to(caller, values))

    @operation(
        "DELETE", "/items/{item_id:path}", tag="items", problems=(404, 503), status=204, scope="server"
    )
    async def delete_item(self, path: ItemPath) -> None:
        """Delete an item. It may still be recommended, as one that nothing is known of."""
        if not (await self._items.delete([path.item_id]))[0]:
            raise _unknown_item()


def _shown(item_id: str, values: Values) -> Raw:
    return Raw(_encode({"item_id": item_id, **values}))


def _problem(errors: Sequence[InvalidItem]) -> Problem:
    """422: the detail is of the first one."""
    problems = [invalid_input(error.field, error.message) for error in errors]
    told: list[dict[str, str]] = []
    for error, problem in zip(errors, problems, strict=True):
        told += cast("list[dict[str, str]]", problem.extensions["errors"])
        if error.item_id is not None:
            told[-1]["item_id"] = error.item_id
    problems[0].extensions["errors"] = told
    return problems[0]


def _unknown_item() -> Problem:
    return Problem(HTTPStatus.NOT_FOUND, "unknown-item", "the catalogue has no such item")
