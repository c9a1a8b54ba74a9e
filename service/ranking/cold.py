"""Items that a bundle has never seen, beside its index: their vectors come from what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np

from service.ranking.content import Calibration
from service.ranking.retriever import Items, Scores, Vectors

FIRST_ROWS = 256
MAX_COLD = 20_000  # each answer looks at all of them

Ranked = tuple[Scores, Items]
MayAnswer = Callable[[str], bool]


class ColdItems:
    """A small exact index that changes between two searches.

    Its items go by indices that follow on the bundle's own. One too many takes the place of the one that was
    put in first.
    """

    def __init__(self, n_items: int, dim: int, calibration: Calibration, most: int = MAX_COLD) -> None:
        self.index_of: dict[str, int] = {}  # in the order they were put in
        self._first = n_items + 1
        self._most = most
        self._scale, self._offset = np.float32(calibration.scale), np.float32(calibration.offset)
        self._item_ids: list[str] = []
        self._vectors = np.zeros((0, dim), np.float32)  # times the scale
        self._offsets = np.zeros(0, np.float32)  # -inf where a row is free
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.index_of)

    def item_id(self, index: int) -> str:
        """The external id of one of its items."""
        return self._item_ids[index - self._first]

    def vector(self, index: int) -> Vectors:
        """The unit vector (D,) of one of its items."""
        scaled = self._vectors[index - self._first]
        length = float(np.linalg.norm(scaled))
        unit: Vectors = scaled * np.float32(np.copysign(1, self._scale) / length) if length else scaled
        return unit

    def put(self, item_id: str, vector: Vectors) -> None:
        """Have an item with this unit vector."""
        if item_id in self.index_of:
            row = self.index_of[item_id] - self._first
        else:
            if len(self.index_of) >= self._most:
                self.remove(next(iter(self.index_of)))
            row = self._free.pop() if self._free else self._new_row()
            self.index_of[item_id] = self._first + row
            self._item_ids[row] = item_id
        self._vectors[row] = vector * self._scale
        self._offsets[row] = self._offset

    def remove(self, item_id: str) -> None:
        """Have it no more, if it was there."""
        index = self.index_of.pop(item_id, None)
        if index is not None:
            self._offsets[index - self._first] = -np.inf
            self._free.append(index - self._first)

    def clear(self) -> None:
        """Have none."""
        for item_id in list(self.index_of):
            self.remove(item_id)

    def merged(
        self,
        vectors: Vectors,
        found: Sequence[Ranked],
        ks: Sequence[int],
        excluded: Sequence[Collection[int]],
        may_answer: MayAnswer | None = None,
    ) -> list[Ranked]:
        """What the bundle's own index found for each of (B, D) vectors, and what of the cold scores higher.

        `found` holds k items, or as many as there are; so does what is returned.
        """
        used = len(self._item_ids)
        all_scores = vectors @ self._vectors[:used].T + self._offsets[:used]  # (B, used)
        return [
            self._merged_one(scores, *own, k, out, may_answer)
            for scores, own, k, out in zip(all_scores, found, ks, excluded, strict=True)
        ]

    def _merged_one(
        self,
        cold: Scores,
        scores: Scores,
        items: Items,
        k: int,
        excluded: Collection[int],
        may_answer: MayAnswer | None,
    ) -> Ranked:
        to_beat = scores[k - 1] if len(scores) >= k else -np.inf
        rows = np.flatnonzero(cold > to_beat)  # a free row beats nothing
        if not len(rows):
            return scores, items
        taken: list[int] = []
        for row in rows[np.argsort(-cold[rows], kind="stable")].tolist():
            if self._first + row not in excluded and (may_answer is None or may_answer(self._item_ids[row])):
                taken.append(row)
                if len(taken) == k:
                    break
        both = np.concatenate([scores, cold[taken]])
        order = np.argsort(-both, kind="stable")[:k]
        return both[order], np.concatenate([items, np.array(taken, np.int64) + self._first])[order]

    def _new_row(self) -> int:
        row = len(self._item_ids)
        if row == len(self._vectors):
            room = min(max(FIRST_ROWS, 2 * row), max(self._most, row + 1))
            vectors = np.zeros((room, self._vectors.shape[1]), np.float32)
            offsets = np.full(room, -np.inf, np.float32)
            vectors[:row], offsets[:row] = self._vectors, self._offsets
            self._vectors, self._offsets = vectors, offsets
        self._item_ids.append("")
        return row
