"""What ranks the catalogue for a session; the one interface of both kinds of bundle."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np

from service.process.metrics import ENCODE_SECONDS, SEARCH_SECONDS
from service.ranking.cold import ColdItems, MayAnswer
from service.ranking.encoder import Encoder
from service.ranking.repeats import Repeats
from service.ranking.retriever import Items, Mask, Retriever, Scores, Vectors

Ranked = tuple[Scores, Items]


class Ranker(Protocol):
    """Sessions of item indices (1..n, oldest click first) in, each one's best items out; never PAD.

    Only the newest `max_length` clicks of a session are read.
    """

    @property
    def n_items(self) -> int: ...

    @property
    def max_length(self) -> int: ...

    def search(self, sessions: Items, k: int) -> Ranked:
        """Scores and items (B, min(k, visible)) for (B, L) sessions, right-padded with 0, none empty.

        Where a session's row has fewer, the rest of it is item 0.
        """
        ...

    def rank(
        self, sessions: Sequence[Sequence[int]], ks: Sequence[int], excluded: Sequence[Collection[int]]
    ) -> list[Ranked]:
        """Each non-empty session's own k best items that are not in its own `excluded`."""
        ...

    def similar(self, item: int, k: int) -> Ranked:
        """The k items nearest to one, itself left out."""
        ...

    def only(self, visible: Mask) -> Self:
        """The same ranker, but it answers no others than these; whatever it was restricted to before."""
        ...

    def visible(self) -> Items:
        """The items that may be answered, in order."""
        ...


@dataclass(frozen=True)
class NearestItems:
    """The items whose vectors are nearest to the session's vector; never fewer than k when k exist.

    `rank` answers cold items, too, which go by indices above `n_items`; nothing else knows of them.
    """

    encoder: Encoder
    retriever: Retriever
    cold: ColdItems | None = None  # None: the bundle has no content
    may_answer: MayAnswer | None = None  # of cold items, by external id; None: all
    repeats: Repeats | None = None  # None: an item that the session holds is ranked like any other

    @property
    def n_items(self) -> int:
        return self.retriever.n_items

    @property
    def max_length(self) -> int:
        return self.encoder.max_length

    def search(self, sessions: Items, k: int) -> Ranked:
        """See `Ranker`; an HNSW index may find fewer than k."""
        vectors = self.encoder.encode_padded(np.ascontiguousarray(newest(sessions, self.max_length)))
        if self.repeats is None:
            return self.retriever.search(vectors, k)
        return self.repeats.search(self.retriever, vectors, [row[row > 0].tolist() for row in sessions], k)

    def rank(
        self, sessions: Sequence[Sequence[int]], ks: Sequence[int], excluded: Sequence[Collection[int]]
    ) -> list[Ranked]:
        """See `Ranker`: one run of the encoder and one search for all of them."""
        with ENCODE_SECONDS.time():
            vectors = self.encoder.encode(sessions)
        with SEARCH_SECONDS.time():
            if self.cold is None:
                return self._nearest(vectors, sessions, ks, excluded)
            own = [[item for item in out if item <= self.n_items] for out in excluded]
            found = self._nearest(vectors, sessions, ks, own)
            return self.cold.merged(vectors, found, ks, excluded, self.may_answer) if self.cold else found

    def _nearest(
        self,
        vectors: Vectors,
        sessions: Sequence[Sequence[int]],
        ks: Sequence[int],
        excluded: Sequence[Collection[int]],
    ) -> list[Ranked]:
        if self.repeats is None:
            return self.retriever.search_each(vectors, ks, excluded)
        return self.repeats.rank(self.retriever, vectors, sessions, ks, excluded)

    def similar(self, item: int, k: int) -> Ranked:
        """See `Ranker`: by the cosine of their vectors; cold items are asked about, and answered, as well."""
        if self.cold is None:
            return self.retriever.search_similar(item, k)
        is_cold = item > self.n_items
        vector = self.cold.vector(item) if is_cold else self.retriever.vector_of(item)
        found = self.retriever.search_excluding(vector, k, () if is_cold else (item,))
        return self.cold.merged(vector[None, :], [found], [k], [(item,)], self.may_answer)[0]

    def vectors_of(self, item_ids: Sequence[int]) -> Vectors:
        """The vectors (n, D) of some items, cold ones as well; zero for PAD."""
        items = np.array(item_ids, dtype=np.int64)
        is_cold = items > self.n_items
        vectors = self.retriever.vectors_of(np.where(is_cold, 0, items))
        for row in np.flatnonzero(is_cold).tolist():
            assert self.cold is not None
            vectors[row] = self.cold.vector(item_ids[row])
        return vectors

    def only(self, visible: Mask) -> NearestItems:
        """See `Ranker`."""
        return replace(self, retriever=self.retriever.only(visible))

    def visible(self) -> Items:
        """See `Ranker`."""
        return self.retriever.visible()


def newest(sessions: Items, length: int) -> Items:
    """The newest `length` clicks of each of (B, L) right-padded sessions."""
    if sessions.shape[1] <= length:
        return sessions
    start = np.maximum((sessions > 0).sum(1) - length, 0)
    return np.take_along_axis(sessions, start[:, None] + np.arange(length), 1)
