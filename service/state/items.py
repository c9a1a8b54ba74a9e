"""The catalogue in Redis: an item is one JSON document; every change has a number; `keys` names it all.

All of it has one hash tag, so that a batch is one atomic step on a cluster too. Who follows the changes asks
for what came after a number, and shows the token of the newest batch that it has heard of: a Redis that lost
its tail, or that took over as a replica which lagged, does not know that token, whatever numbers it gives.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from service.process.settings import Settings
from service.state.cluster import link_to
from service.state.connection import Clock
from service.state.documents import MAX_ITEM_BYTES, Patch, Values, decoded, encoded, present
from service.state.keys import Keys
from service.state.link import StoreUnavailable, value
from service.state.script import Script

MAX_ITEMS_AT_ONCE = 1000  # Lua hands Redis their ids and documents in one call, which holds 8,000
MAX_TOMBSTONES = 100_000  # who was away for longer reads all anew
MAX_BATCHES = 10_000  # the same, of who has heard of none of these
MAX_ANSWER_BYTES = 1_000_000  # of changes at once, or an item and a hundred more
TIMEOUT_SECONDS = 2.0  # of a call with many items
MAX_TRIES = 20  # to change what others change at that moment

WRITE = Script("items/write.lua")
CHANGES = Script("items/changes.lua")
PAGE = Script("items/page.lua")
ITEM_SCRIPTS = (WRITE, CHANGES, PAGE)


class ItemTooLarge(ValueError):  # noqa: N818
    """With this change an item would be too large; nothing was changed."""

    def __init__(self, item_id: str, size: int) -> None:
        super().__init__(f"the item would be {size} bytes of JSON: at most {MAX_ITEM_BYTES}")
        self.item_id = item_id


class Stored(NamedTuple):
    """How many items were stored, and how many were there like that already."""

    stored: int
    unchanged: int


class Mark(NamedTuple):
    """How far somebody has followed the changes; without arguments, not at all."""

    number: int = -1
    newest: int = 0  # of the newest batch then, and its token
    token: str = ""
    begun: int = 0  # the newest batch's number when all was begun to be read


class Changes(NamedTuple):
    """What has changed since a mark, the newest values of each item; None: it is no more."""

    items: list[tuple[str, Values | None]]
    mark: Mark
    is_whole: bool  # all that was known before is void: begin with nothing
    more: bool  # there is more to be read now


class ItemStore:
    """The truth about items, shared by every worker. Every method raises `StoreUnavailable`, but `close`.

    Its link is its own: a batch of many items would hold up the clicks that go over the same connection.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        max_tombstones: int = MAX_TOMBSTONES,
        max_batches: int = MAX_BATCHES,
        warns: bool = True,
        clock: Clock | None = None,
    ) -> None:
        keys = Keys(settings.redis_prefix)
        self._items, self._changed, self._ids = keys.items(), keys.items("_changed"), keys.items("_ids")
        self._gone, self._numbers = keys.items("_gone"), keys.items("_numbers")
        self._batches = keys.items("_batches")
        self._timeout_seconds = max(timeout_seconds, settings.redis_timeout_seconds)
        self._most = (max_tombstones, max_batches)
        self._link = link_to(settings, url, ITEM_SCRIPTS, warns=warns, clock=clock)

    async def put(self, items: Sequence[tuple[str, Values]]) -> Stored:
        """Store items in one step, in place of what they were; of the same id, the last."""
        documents = {item_id: encoded(values) for item_id, values in items}
        changed = await self._write(list(documents.items()))
        return Stored(changed.count(1), changed.count(0))

    async def delete(self, item_ids: Sequence[str]) -> list[bool]:
        """Delete items in one step; whether each was there."""
        return [outcome == 1 for outcome in await self._write([(item_id, b"") for item_id in item_ids])]

    async def patch(self, item_id: str, patch: Patch) -> Values | None:
        """Change an item's attributes, and answer them all; None when there is no such item.

        Raises `ItemTooLarge`.
        """
        for _ in range(MAX_TRIES):
            document = await self._document(item_id)
            if document is None:
                return None
            values = present({**decoded(document), **patch})
            changed = encoded(values)
            if len(changed) > MAX_ITEM_BYTES:
                raise ItemTooLarge(item_id, len(changed))
            if (await self._write([(item_id, changed)], expected=document))[0] >= 0:
                return values
        reason = "others change this item at the moment"
        raise StoreUnavailable(reason, reason)

    async def get(self, item_id: str) -> Values | None:
        """An item's values; None when there is no such item."""
        document = await self._document(item_id)
        return None if document is None else decoded(document)

    async def page(self, after: str, limit: int) -> list[tuple[str, Values]]:
        """Up to as many items whose ids come after one, in the order of the bytes of their ids."""
        (reply,) = await self._link.run(
            lambda: [PAGE.call([self._ids, self._items], after, limit)], timeout_seconds=self._timeout_seconds
        )
        found = value(reply)
        return [
            (item_id, decoded(document)) for item_id, document in zip(found[::2], found[1::2], strict=True)
        ]

    async def changes(self, after: Mark, limit: int = MAX_ITEMS_AT_ONCE) -> Changes:
        """The oldest changes after a mark, up to `limit` items; fewer of them when they are large."""
        (reply,) = await self._link.run(
            lambda: [
                CHANGES.call(
                    [self._items, self._changed, self._numbers, self._batches],
                    *(*after, limit, MAX_ANSWER_BYTES),
                )
            ],
            timeout_seconds=self._timeout_seconds,
        )
        is_void, is_more, number, newest, token, begun, found = value(reply)
        items = [
            (item_id, None if document is None else decoded(document))
            for item_id, document in zip(found[::2], found[1::2], strict=True)
        ]
        return Changes(items, Mark(number, newest, token, begun), bool(is_void), bool(is_more))

    async def close(self) -> None:
        """Close the connection."""
        await self._link.close()

    async def _document(self, item_id: str) -> str | None:
        (reply,) = await self._link.run(lambda: [("HGET", self._items, item_id)])
        document: str | None = value(reply)
        return document

    async def _write(self, items: Sequence[tuple[str, bytes]], *, expected: str = "") -> list[int]:
        """Of each item what `write.lua` answers."""
        if not items:
            return []
        assert len(items) <= MAX_ITEMS_AT_ONCE, f"{len(items)} items at once"
        keys = [self._items, self._changed, self._ids, self._gone, self._numbers, self._batches]
        arguments = [each for item in items for each in item]
        (reply,) = await self._link.run(
            lambda: [WRITE.call(keys, secrets.token_hex(8), *self._most, expected, *arguments)],
            kept=True,
            timeout_seconds=self._timeout_seconds,
        )
        outcomes: list[int] = value(reply)
        return outcomes
