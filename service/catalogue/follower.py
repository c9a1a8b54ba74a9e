"""Follows the catalogue in Redis: what changes there is in this worker's columns well within a second.

Changes are read and applied in pieces, between which requests are answered. While Redis is away, what is
known stays. What has to be read as a whole is read beside what is there, and takes its place in one step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from service.catalogue.attributes import Kind, Value, Values
from service.catalogue.columns import Columns
from service.catalogue.filters import Filters
from service.process.metrics import CATALOGUE_BEHIND_SECONDS, CATALOGUE_ITEMS, CATALOGUE_MISFITS, REDIS_ERRORS
from service.state.items import Changes, Mark
from service.state.link import StoreUnavailable

AT_ONCE = 100  # items, in one turn of the event loop: half a millisecond
PAUSE_SECONDS = (
    0.004  # after each piece, so that requests have the rest: a tenth of a worker is the most that it takes
)
TYPES: Mapping[Kind, type] = {
    "text": str,
    "string": str,
    "strings": str,
    "number": float,
    "numbers": float,
    "bool": bool,
    "time": float,
}

log = structlog.get_logger()


class TellsChanges(Protocol):
    """What the follower needs of `service.state.items.ItemStore`."""

    async def changes(self, after: Mark, limit: int) -> Changes: ...


class CatalogueFollower:
    """Keeps a worker's filters up to date; `error` tells why it cannot, in words fit for clients."""

    def __init__(
        self,
        store: TellsChanges,
        filters: Filters,
        poll_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.error: str | None = None
        self._store = store
        self._filters = filters
        self._poll_seconds = poll_seconds
        self._clock = clock
        self._mark = Mark()
        self._whole: Columns | None = None  # what is read beside the columns that answer
        self._up_to_date = clock()

    @property
    def behind_seconds(self) -> float:
        """How long ago all changes there were had been applied."""
        return self._clock() - self._up_to_date

    async def look(self) -> None:
        """Apply all changes there are. Raises `StoreUnavailable`, and goes on from there the next time."""
        began = self._clock()
        more = True
        while more:
            changes = await self._store.changes(self._mark, AT_ONCE)
            if changes.is_whole:
                self._whole = Columns(self._filters.columns.kinds)
            for start in range(0, len(changes.items), AT_ONCE):
                self._apply(changes.items[start : start + AT_ONCE])
                # What is read as a whole answers nothing yet, and at start nobody asks.
                await asyncio.sleep(0 if self._whole is not None else PAUSE_SECONDS)
            self._mark, more = changes.mark, changes.more
        if self._whole is not None:
            if len(self._whole) or len(self._filters.columns):
                await self._filters.replace(self._whole)
            self._whole = None
        self._up_to_date = began
        self._tell(None)

    async def follow(self) -> None:
        """Look for changes again and again; raises nothing."""
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self.look()
            except StoreUnavailable as error:
                REDIS_ERRORS.labels("catalogue").inc()
                self._tell(error)

    def failed(self, error: StoreUnavailable) -> None:
        """Tell that the first look failed."""
        self._tell(error)

    def _apply(self, items: Sequence[tuple[str, Values | None]]) -> None:
        kinds = self._filters.columns.kinds
        fitting = [
            (item_id, values if values is None or _all_fit(values, kinds) else _those_that_fit(values, kinds))
            for item_id, values in items
        ]
        if self._whole is not None:
            self._whole.apply(fitting)
        else:
            self._filters.apply(fitting)

    def _tell(self, error: StoreUnavailable | None) -> None:
        if (error is None) is not (self.error is None):
            if error is None:
                log.info("the catalogue is followed again")
            else:
                log.warning("the catalogue cannot be read: items stay as they were", reason=str(error))
        self.error = error.reason if error is not None else None
        CATALOGUE_ITEMS.set(len(self._filters.columns))
        CATALOGUE_BEHIND_SECONDS.set(self.behind_seconds)


def _all_fit(values: Values, kinds: Mapping[str, Kind]) -> bool:
    """Whether all values are of their kinds, as those are that were stored under the same catalogue.toml."""
    return all(name not in kinds or _fits(value, kinds[name]) for name, value in values.items())


def _fits(value: Value, kind: Kind) -> bool:
    if kind in ("strings", "numbers"):
        return isinstance(value, list) and all(type(each) is TYPES[kind] for each in value)
    return type(value) is TYPES[kind]


def _those_that_fit(values: Values, kinds: Mapping[str, Kind]) -> Values:
    """Without what was stored when its attribute was of another kind."""
    fitting = {
        name: value for name, value in values.items() if name not in kinds or _fits(value, kinds[name])
    }
    CATALOGUE_MISFITS.inc(len(values) - len(fitting))
    return fitting
