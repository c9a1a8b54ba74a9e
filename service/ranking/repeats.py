"""Items that the session holds already: what is added to their scores, and their place in its answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import add
from typing import Annotated, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from service.ranking.retriever import OVER_FETCH_STEP, Items, Retriever, Scores, Vectors

MOST = 50  # distinct items of a session that something is added to: its newest ones
NONE = -np.inf  # the score of what cannot be answered
LARGEST = 1000.0  # far more than any two scores differ by

Ranked = tuple[Scores, Items]
Added = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]


class RepeatTable(BaseModel):
    """What the manifest says of it; the last entry of each list holds for all beyond."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    by_distance: tuple[Added, ...] = Field(
        min_length=1, max_length=MOST, description="added to an item whose newest click is so many clicks ago"
    )
    by_count: tuple[Added, ...] = Field(
        min_length=1, max_length=MOST, description="added to an item of 1, 2, … clicks"
    )
    measured: dict[str, float] = Field(default_factory=dict, description="what it was worth on validation")


@dataclass(frozen=True, eq=False)
class Repeats:
    """A table, as wide as the longest session."""

    by_distance: Sequence[float]  # (max_length,)
    by_count: Sequence[float]  # (max_length + 1,), of 0, 1, … clicks
    once: Sequence[float]  # (max_length,), of items that were clicked once
    lowers: bool  # some scores, so that others move up

    @classmethod
    def of(cls, table: RepeatTable, max_length: int) -> Self:
        """The table, for sessions whose newest `max_length` clicks are read."""
        by_distance = _as_long_as(table.by_distance, max_length)
        by_count = _as_long_as((0.0, *table.by_count), max_length + 1)
        lowest = min(table.by_distance) + min(table.by_count)
        return cls(by_distance, by_count, [added + by_count[1] for added in by_distance], lowest < 0)

    def rank(
        self,
        retriever: Retriever,
        vectors: Vectors,
        sessions: Sequence[Sequence[int]],
        ks: Sequence[int],
        excluded: Sequence[Collection[int]],
    ) -> list[Ranked]:
        """What `retriever.search_each` answers, with the table's scores added. `vectors` (B, D) are the
        sessions'.
        """
        own = [self._own(session, out) for session, out in zip(sessions, excluded, strict=True)]
        if not any(items for items, _ in own):
            return retriever.search_each(vectors, ks, excluded)
        wanted = ks
        if self.lowers:  # in steps, so that most sessions share a search
            held = [len(items) for items, _ in own]
            wanted = [k - n // -OVER_FETCH_STEP * OVER_FETCH_STEP for k, n in zip(ks, held, strict=True)]
        found = retriever.search_each(vectors, wanted, excluded)
        return _merged(retriever, vectors, own, found, ks)

    def search(
        self, retriever: Retriever, vectors: Vectors, sessions: Sequence[Sequence[int]], k: int
    ) -> Ranked:
        """What `retriever.search` answers, likewise."""
        own = [self._own(session, ()) for session in sessions]
        held = max([len(items) for items, _ in own])
        scores, items = retriever.search(vectors, k + held if self.lowers else k)
        width = min(k, scores.shape[1])
        found = [(scores[row][there], items[row][there]) for row, there in enumerate(items > 0)]
        scores = np.full((len(own), width), NONE, dtype=np.float32)
        items = np.zeros((len(own), width), dtype=np.int64)
        for row, (best, which) in enumerate(_merged(retriever, vectors, own, found, [width] * len(own))):
            scores[row, : len(best)], items[row, : len(best)] = best, which
        return scores, items

    def _own(self, session: Sequence[int], excluded: Collection[int]) -> tuple[list[int], Sequence[float]]:
        """The session's distinct items, the newest first, and what is added to their scores."""
        newest = [*session[-len(self.once) :]][::-1]
        items = [*dict.fromkeys(newest)]
        if len(items) == len(newest):
            items, added = items[:MOST], self.once[:MOST]
        else:
            items = items[:MOST]
            by_distance = map(self.by_distance.__getitem__, map(newest.index, items))
            by_count = map(self.by_count.__getitem__, map(newest.count, items))
            added = [*map(add, by_distance, by_count)]
        if excluded:
            kept = [place for place, item in enumerate(items) if item not in excluded]
            items, added = [items[place] for place in kept], [added[place] for place in kept]
        return items, added


def _merged(
    retriever: Retriever,
    vectors: Vectors,
    own: Sequence[tuple[Sequence[int], Sequence[float]]],
    found: Sequence[Ranked],
    ks: Sequence[int],
) -> list[Ranked]:
    """The k best of what was found for each session and of its own items, whose scores are looked up.

    Most sessions hold a handful of items and are answered with twenty: too few for arrays to be faster.
    """
    own_scores = retriever.scores_of(vectors, [items for items, _ in own])
    return [
        _merged_one(items, map(add, scores, added), *ranked, k)
        for (items, added), scores, ranked, k in zip(own, own_scores, found, ks, strict=True)
    ]


def _merged_one(
    own_items: Sequence[int], own_scores: Iterable[float], scores: Scores, items: Items, k: int
) -> Ranked:
    both = dict(zip(items.tolist(), scores.tolist(), strict=True))
    both.update(zip(own_items, own_scores, strict=False))  # also if found again, without what is added
    best = sorted(both, key=both.__getitem__, reverse=True)[:k]
    while best and both[best[-1]] == NONE:
        best.pop()
    return np.array([*map(both.__getitem__, best)], np.float32), np.array(best, np.int64)


def _as_long_as(values: Sequence[float], length: int) -> Sequence[float]:
    return [*values, *[values[-1]] * (length - len(values))][:length]
