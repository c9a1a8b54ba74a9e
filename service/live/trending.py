"""What everyone clicks now: this worker's copy of the time-decayed counts in Redis, which outlives Redis."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import islice

import structlog

from service.process.metrics import REDIS_ERRORS
from service.state.link import StoreUnavailable
from service.state.store import SessionStore

KEPT = 500  # what remains of it after hidden, unknown and excluded items should fill an answer

log = structlog.get_logger()


class Trending:
    """The copy, and what keeps it fresh."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._scores: dict[str, float] = {}  # highest first

    def top(self, k: int, allowed: Callable[[str], bool]) -> list[tuple[str, float]]:
        """The k items that most sessions clicked among those that are allowed, highest score first."""
        return list(islice((entry for entry in self._scores.items() if allowed(entry[0])), k))

    def sessions(self, item_id: str) -> int:
        """How many sessions clicked an item of late: they fade. 0 when it is not among what is clicked most.

        Rounded up: it takes at least so many.
        """
        return math.ceil(self._scores.get(item_id, 0.0))

    async def refresh(self) -> None:
        """Copy what is trending from Redis. Raises `StoreUnavailable`, and keeps the copy at hand."""
        found = await self._store.trending(KEPT)
        self._scores = {item_id: round(score, 6) for item_id, score in found}

    async def follow(self, refresh_seconds: float) -> None:
        """Copy it again and again; raises nothing."""
        while True:
            await asyncio.sleep(refresh_seconds)
            try:
                await self.refresh()
            except StoreUnavailable as error:
                REDIS_ERRORS.labels("trending").inc()
                log.warning("redis unavailable: sessions are not read, clicks are refused", reason=str(error))
