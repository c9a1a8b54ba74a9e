"""Ranks together whatever sessions wait at this moment: one run of the encoder and one search for all."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

from service.live import Model
from service.retriever import Items, Scores

Scored = tuple[str, float]
MOST = 64  # sessions at once: so long nothing else is done


class Query(NamedTuple):
    """One session for the model: item indices, oldest first; how many items to find, and which not."""

    items: Sequence[int]
    k: int
    excluded: Collection[int]


def rank(model: Model, queries: Sequence[Query]) -> list[list[Scored]]:
    """Each query's best items, all queries at once; fewer than k only by a bundle of neighbours."""
    found = model.ranker.rank(
        [query.items for query in queries],
        [query.k for query in queries],
        [query.excluded for query in queries],
    )
    return [scored(model, scores, items) for scores, items in found]


def scored(model: Model, scores: Scores, items: Items) -> list[Scored]:
    """External ids and rounded scores."""
    names = model.bundle.items
    return [
        (names[item], round(score, 6)) for score, item in zip(scores.tolist(), items.tolist(), strict=True)
    ]


Waiting = tuple[Query, "asyncio.Future[list[Scored]]"]


class Ranking:
    """Collects the queries of one turn of the event loop, and ranks them in the next."""

    def __init__(self) -> None:
        self._waiting: defaultdict[Model, list[tuple[Query, asyncio.Future[list[Scored]]]]] = defaultdict(
            list
        )

    async def rank(self, model: Model, query: Query) -> list[Scored]:
        """The query's best items."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._rank_all)
        future: asyncio.Future[list[Scored]] = loop.create_future()
        self._waiting[model].append((query, future))
        return await future

    def _rank_all(self) -> None:
        waiting, self._waiting = self._waiting, defaultdict(list)
        for model, queries in waiting.items():
            for start in range(0, len(queries), MOST):
                self._rank(model, queries[start : start + MOST])

    def _rank(self, model: Model, waiting: list[Waiting]) -> None:
        try:
            found = rank(model, [query for query, _ in waiting])
        except Exception as error:  # each who waits gets it
            for _, future in waiting:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), items in zip(waiting, found, strict=True):
            if not future.done():
                future.set_result(items)
