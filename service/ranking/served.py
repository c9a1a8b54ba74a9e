"""A bundle as it is served: only what may be answered, and that in external item ids."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from service.ranking.bundle import Bundle
from service.ranking.cold import ColdItems, MayAnswer
from service.ranking.ranker import NearestItems, Ranker
from service.ranking.retriever import Items, Mask, Scores, Vectors, all_but

LOOKED_AT = 8  # times as many items as are wanted

Scored = tuple[str, float]  # an external item id and its score


class Query(NamedTuple):
    """One session for the ranker: item indices, oldest first; how many items to find, and which not."""

    items: Sequence[int]
    k: int
    excluded: Collection[int]


@dataclass(frozen=True, eq=False)
class ServedBundle:
    """A loaded bundle that answers some of its items: which, is said once, and not by each request."""

    bundle: Bundle
    ranker: Ranker
    mask: Mask | None = None  # the items that may be answered; None: all are
    may_answer: MayAnswer | None = None  # likewise of items that the bundle has never seen, by external id

    @classmethod
    def of(cls, bundle: Bundle, hidden: frozenset[str] = frozenset()) -> ServedBundle:
        """`bundle` without `hidden`, external item ids that it need not know."""
        items = set(bundle.index_of.of(hidden)) - {0}
        whole = cls(bundle, bundle.ranker)
        if items or (whole.cold is not None and hidden):
            visible = all_but(len(bundle.items) - 1, items) if items else None
            return whole.only(visible, lambda item_id: item_id not in hidden)
        return whole

    def only(self, allowed: Mask | None, may_answer: MayAnswer) -> ServedBundle:
        """The same, but it answers only those of its items that are `allowed`, too (None: all of them).

        Of what the bundle has never seen, `may_answer` tells by external id.
        """
        mask = allowed if self.mask is None else self.mask if allowed is None else allowed & self.mask
        ranker = self.bundle.ranker if mask is None else self.bundle.ranker.only(mask)
        before = self.may_answer
        both = may_answer if before is None else lambda item_id: before(item_id) and may_answer(item_id)
        if isinstance(ranker, NearestItems) and ranker.cold is not None:
            ranker = replace(ranker, may_answer=both)
        return ServedBundle(self.bundle, ranker, mask, both)

    @property
    def cold(self) -> ColdItems | None:
        """The items that the bundle has never seen, and ranks all the same."""
        return self.ranker.cold if isinstance(self.ranker, NearestItems) else None

    def knows(self, item_id: str) -> bool:
        """Whether it may answer the item: it was trained on it, or has made itself a picture of it."""
        return item_id in self.bundle.index_of or (self.cold is not None and item_id in self.cold.index_of)

    def indices(self, item_ids: Collection[str]) -> set[int]:
        """The indices of those that it can rank."""
        found = set(self.bundle.index_of.of(item_ids)) - {0}
        if self.cold:
            cold = self.cold.index_of
            found.update([cold[item_id] for item_id in item_ids if item_id in cold])
        return found

    @property
    def visible(self) -> Items:
        """Item indices that may be answered, most popular first."""
        return self.ranker.visible()

    @property
    def version(self) -> str:
        """The bundle's version."""
        return self.bundle.manifest.version

    def rank(self, queries: Sequence[Query]) -> list[list[Scored]]:
        """Each query's best items, all queries at once; fewer than k only by a bundle of neighbours."""
        found = self.ranker.rank(
            [query.items for query in queries],
            [query.k for query in queries],
            [query.excluded for query in queries],
        )
        return [self._scored(scores, items) for scores, items in found]

    def similar(self, item_id: str, k: int) -> list[Scored]:
        """The items nearest to one that it `knows`. Raises `KeyError`."""
        item = self.bundle.index_of.find(item_id)
        if not item:
            item = (self.cold.index_of if self.cold is not None else {})[item_id]
        return self._scored(*self.ranker.similar(item, k))

    def vectors_of(self, item_ids: Sequence[str]) -> Vectors | None:
        """The vectors (n, D) of some items, zero for those that it does not know; None if it has none."""
        if not isinstance(self.ranker, NearestItems):
            return None
        items = self.bundle.index_of.of(item_ids)
        if self.cold:
            cold = self.cold.index_of
            items = [item or cold.get(each, 0) for item, each in zip(items, item_ids, strict=True)]
        return self.ranker.vectors_of(items)

    def popular(self, k: int, excluded: Collection[str]) -> list[Scored]:
        """What was clicked most in training; it has no scores."""
        wanted = k + len(excluded)  # of so many, at least k are not excluded
        if self.mask is None:
            candidates: Sequence[str] = self.bundle.items[1 : 1 + wanted]
        else:
            candidates = self.bundle.items.of(first(wanted, self.mask))
        return [(item_id, 0.0) for item_id in candidates if item_id not in excluded][:k]

    def _scored(self, scores: Scores, items: Items) -> list[Scored]:
        rounded = scores.astype(np.float64).round(6).tolist()  # in float32, six digits would not stay six
        found, cold, n = items.tolist(), self.cold, self.bundle.manifest.n_items
        if cold and max(found, default=0) > n:
            item_ids = [self.bundle.items[item] if item <= n else cold.item_id(item) for item in found]
        else:
            item_ids = self.bundle.items.of(found)
        return list(zip(item_ids, rounded, strict=True))


def first(n: int, mask: Mask) -> list[int]:
    """The first n items of a mask, or as many as it has; mostly without looking at all of it."""
    found = np.flatnonzero(mask[1 : 1 + LOOKED_AT * n])
    if len(found) < n:
        found = np.flatnonzero(mask[1:])
    return [item + 1 for item in found[:n].tolist()]
