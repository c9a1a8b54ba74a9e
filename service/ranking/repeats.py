"""Items that the session holds already: what is added to their scores, and their place in its answer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
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

    by_distance: Scores  # (max_length,)
    by_count: Scores  # (max_length + 1,), of 0, 1, … clicks
    once: Scores  # (max_length,), of items that were clicked once
    lowers: bool  # some scores, so that others move up

    @classmethod
    def of(cls, table: RepeatTable, max_length: int) -> Self:
        """The table, for sessions whose newest `max_length` clicks are read."""
        by_distance = _as_long_as(table.by_distance, max_length)
        by_count = _as_long_as((0.0, *table.by_count), max_length + 1)
        lowest = min(table.by_distance) + min(table.by_count)
        return cls(by_distance, by_count, by_distance + by_count[1], lowest < 0)

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
        held = [len(items) for items, _ in own]
        if not max(held):
            return retriever.search_each(vectors, ks, excluded)
        wanted = ks
        if self.lowers:  # in steps, so that most sessions share a search
            wanted = [k - n // -OVER_FETCH_STEP * OVER_FETCH_STEP for k, n in zip(ks, held, strict=True)]
        found = retriever.search_each(vectors, wanted, excluded)
        widths = [len(items) for _, items in found]
        if min(widths) == max(widths):
            scores = np.array([scores for scores, _ in found])
            items = np.array([items for _, items in found])
        else:
            scores = np.full((len(found), max(widths)), NONE, dtype=np.float32)
            items = np.zeros((len(found), max(widths)), dtype=np.int64)
            for row, (its_scores, its_items) in enumerate(found):
                scores[row, : len(its_items)], items[row, : len(its_items)] = its_scores, its_items
        scores, items = _merged(retriever, vectors, own, max(held), scores, items)
        return [_first(*row) for row in zip(scores, items, ks, strict=True)]

    def search(
        self, retriever: Retriever, vectors: Vectors, sessions: Sequence[Sequence[int]], k: int
    ) -> Ranked:
        """What `retriever.search` answers, likewise."""
        own = [self._own(session, ()) for session in sessions]
        held = max([len(items) for items, _ in own])
        scores, items = retriever.search(vectors, k + held if self.lowers else k)
        width = min(k, scores.shape[1])
        scores, items = _merged(retriever, vectors, own, held, scores, items)
        items[scores == NONE] = 0
        return scores[:, :width], items[:, :width]

    def _own(self, session: Sequence[int], excluded: Collection[int]) -> tuple[list[int], Scores]:
        """The session's distinct items, the newest first, and what is added to their scores."""
        newest = [*session[-len(self.once) :]][::-1]
        items = [*dict.fromkeys(newest)]
        n = min(len(items), MOST)
        if len(items) == len(newest):
            items, added = items[:n], self.once[:n]
        else:
            items = items[:n]
            distances, counts = [*map(newest.index, items)], [*map(newest.count, items)]
            added = self.by_distance[distances] + self.by_count[counts]
        if excluded:
            kept = [place for place, item in enumerate(items) if item not in excluded]
            items, added = [items[place] for place in kept], added[kept]
        return items, added


def _merged(
    retriever: Retriever,
    vectors: Vectors,
    own: Sequence[tuple[Sequence[int], Scores]],
    width: int,
    scores: Scores,
    items: Items,
) -> Ranked:
    """Each session's own items and what was found (B, K), best first, and last what is none.

    `width`: the most items that a session holds.
    """
    own_items = np.zeros((len(own), width), dtype=np.int64)
    added = np.empty((len(own), width), dtype=np.float32)
    added.fill(NONE)
    for row, (its_items, its_added) in enumerate(own):
        own_items[row, : len(its_items)] = its_items
        added[row, : len(its_items)] = its_added
    own_scores = retriever.scores_of(vectors, own_items) + added
    held = (items[:, :, None] == own_items[:, None, :]).any(2)
    scores[held] = NONE  # found again, without what is added
    scores = np.concatenate([own_scores, scores], axis=1)
    items = np.concatenate([own_items, items], axis=1)
    order = (-scores).argsort(axis=1, kind="stable")
    rows = np.arange(len(own))[:, None]
    return scores[rows, order], items[rows, order]


def _first(scores: Scores, items: Items, k: int) -> Ranked:
    scores, items = scores[:k], items[:k]
    if len(scores) and scores[-1] == NONE:
        there = scores > NONE
        return scores[there], items[there]
    return scores, items


def _as_long_as(values: Sequence[float], length: int) -> Scores:
    longer = [*values, *[values[-1]] * (length - len(values))]
    return np.array(longer[:length], dtype=np.float32)
