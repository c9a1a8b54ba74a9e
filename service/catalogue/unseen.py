"""Follows the catalogue for each bundle with content: an item that it has never seen gets a vector.

A vector costs about what a request does: they are made a few at a time, with a pause between, so that no
visitor waits for an import.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from service.catalogue.filters import AVAILABLE, Filters
from service.process.metrics import COLD_ITEMS
from service.ranking.cold import MAX_COLD
from service.ranking.served import ServedBundle

POLL_SECONDS = 0.25  # until a new bundle is noticed
AT_ONCE = 16  # items, in one turn of the event loop: about a millisecond
PAUSE_SECONDS = 0.004


@dataclass
class _Filling:
    """A bundle, and the items that may have changed since its vectors were made."""

    served: ServedBundle
    waiting: dict[str, None] = field(default_factory=dict)  # in the order in which they came


class UnseenItems:
    """Keeps the cold items of a worker's bundles as the catalogue has them."""

    def __init__(
        self,
        filters: Filters,
        serving: Callable[[], Iterable[ServedBundle]],
        poll_seconds: float = POLL_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
    ) -> None:
        self._filters = filters
        self._serving = serving
        self._poll_seconds = poll_seconds
        self._pause_seconds = pause_seconds
        self._columns = filters.columns
        self._filling: dict[int, _Filling] = {}  # by id of the bundle
        self._changed = asyncio.Event()
        filters.on_change = self.changed

    def changed(self, item_ids: Iterable[str]) -> None:
        """Some items are not what they were."""
        for filling in self._filling.values():
            index_of = filling.served.bundle.index_of
            filling.waiting.update((item_id, None) for item_id in item_ids if item_id not in index_of)
        self._changed.set()

    async def follow(self) -> None:
        """Do so for ever."""
        while True:
            await self.look()
            try:
                await asyncio.wait_for(self._changed.wait(), self._poll_seconds)
            except TimeoutError:  # a look at what is served
                continue
            self._changed.clear()

    async def look(self) -> None:
        """Give vectors to all that wait for one."""
        self._look_at_bundles()
        while waiting := [filling for filling in self._filling.values() if filling.waiting]:
            for filling in waiting:
                self._fill_some(filling)
            await asyncio.sleep(self._pause_seconds)
            self._look_at_bundles()

    def _look_at_bundles(self) -> None:
        serving = {id(served.bundle): served for served in self._serving() if served.bundle.content}
        new = set(serving) - set(self._filling)
        if self._columns is not self._filters.columns:  # they were read anew, all of them
            self._columns, new = self._filters.columns, set(serving)
        for stopped in set(self._filling) - set(serving):
            version = self._filling.pop(stopped).served.version
            COLD_ITEMS.labels(version).set(0)
        for key in new:
            served = serving[key]
            assert served.cold is not None
            index_of = served.bundle.index_of
            unseen = [item_id for item_id in self._columns.row_of if item_id not in index_of]
            gone = [item_id for item_id in served.cold.index_of if item_id not in self._columns.row_of]
            self._filling[key] = _Filling(served, dict.fromkeys([*gone, *unseen[-MAX_COLD:]]))

    def _fill_some(self, filling: _Filling) -> None:
        served, waiting = filling.served, filling.waiting
        cold, content = served.cold, served.bundle.content
        assert cold is not None
        assert content is not None
        for _ in range(min(AT_ONCE, len(waiting))):
            item_id = next(iter(waiting))
            del waiting[item_id]
            values = self._values(item_id, content.kinds)
            vector = content.vector(values) if values is not None else None
            if vector is None:
                cold.remove(item_id)
            else:
                cold.put(item_id, vector)
        COLD_ITEMS.labels(served.version).set(len(cold))

    def _values(self, item_id: str, kinds: Mapping[str, str]) -> Mapping[str, object] | None:
        """What content may read of an item; None, if it may not be answered."""
        columns, row = self._columns, self._columns.row_of.get(item_id)
        if row is None or (AVAILABLE in columns.kinds and columns[AVAILABLE].shown(row) is False):
            return None
        return {name: columns[name].shown(row) for name in kinds if name in columns.kinds}
