"""Ranks together whatever sessions wait at this moment: one run of the encoder and one search for all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Sequence
from typing import Protocol, TypeVar

from service.ranking.served import Query, Scored

T = TypeVar("T")
MAX_BATCH = 64  # sessions ranked at once: so long nothing else is done


class RanksQueries(Protocol):
    """What the batcher needs of a served bundle."""

    def rank(self, queries: Sequence[Query]) -> list[list[Scored]]: ...


Waiting = tuple[Query, "asyncio.Future[list[Scored]]"]


class Batcher:
    """Collects queries until those that are on their way have come, and then ranks all of them.

    A query waits for the sessions that were being read when it came, and for no others: Redis answers in
    order, so these are next. Who comes alone waits for nobody.
    """

    def __init__(self) -> None:
        self._waiting: defaultdict[RanksQueries, list[Waiting]] = defaultdict(list)
        self._coming = 0  # sessions that are being read, and may become queries
        self._awaited = 0  # of these, the ones that those who wait still wait for
        self._is_due = False

    async def after(self, reading: Awaitable[T]) -> T:
        """The result of reading a session; who is waiting to be ranked waits for it."""
        self._coming += 1
        try:
            return await reading
        finally:
            self._coming -= 1
            if self._awaited:
                self._awaited -= 1
                if not self._awaited:
                    self._rank_soon()

    async def rank(self, bundle: RanksQueries, query: Query) -> list[Scored]:
        """The query's best items."""
        if not self._waiting:
            self._awaited = self._coming
        if not self._awaited:
            self._rank_soon()
        future: asyncio.Future[list[Scored]] = asyncio.get_running_loop().create_future()
        self._waiting[bundle].append((query, future))
        return await future

    def _rank_soon(self) -> None:
        """In the next turn of the event loop: more may come in this one."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._rank_all)

    def _rank_all(self) -> None:
        self._is_due = False
        waiting, self._waiting = self._waiting, defaultdict(list)
        for bundle, queries in waiting.items():
            for start in range(0, len(queries), MAX_BATCH):
                self._rank(bundle, queries[start : start + MAX_BATCH])

    def _rank(self, bundle: RanksQueries, waiting: list[Waiting]) -> None:
        try:
            found = bundle.rank([query for query, _ in waiting])
        except Exception as error:  # each who waits gets it
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), items in zip(waiting, found, strict=True):
            if not future.done():
                future.set_result(items)
