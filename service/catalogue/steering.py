"""Steering: what a shop wants shown, applied to the best that a session is allowed; docs/placements.md.

Pure functions over a pool: the items that the stages found, one stage after the other, each in its own order.
What a rule says of an item comes from outside, as one look-up for all of the pool.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

POOL = 200  # items that steering sees, at least
POOL_PER_K = 5

Stage = Literal["neighbours", "model", "trending", "popular", "pinned"]
Scored = tuple[str, float]
Rows = npt.NDArray[np.int64]  # of the catalogue, 0 for an item that it does not know
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Matches = Callable[[Rows], Bools]
Values = Callable[[Rows], Sequence[Collection[object]]]  # what is false is no value


class Boost(NamedTuple):
    """Items that match are worth more, or less: relevance times `factor`, plus `addition`."""

    name: str
    matches: Matches
    factor: float = 1.0
    addition: float = 0.0


class Bury(NamedTuple):
    """Items that match stand behind all others."""

    name: str
    matches: Matches


class Promotion(NamedTuple):
    """At least `percent` of the items answered match."""

    name: str
    matches: Matches
    percent: int

    def needed(self, k: int) -> int:
        """How many of k that is, rounded up."""
        return -(-k * self.percent // 100)


class Cap(NamedTuple):
    """At most so many items answered share one of an attribute's values."""

    name: str
    values: Values
    at_most: int


class Pin(NamedTuple):
    """An item that stands at a position, counted from 1."""

    name: str
    item_id: str
    position: int


class Found(NamedTuple):
    """What one stage found, best first."""

    stage: Stage
    items: Sequence[Scored]
    is_cosine: bool = False  # its scores are cosines, and not counts


class Steered(NamedTuple):
    """An item of the answer, with its stage's own score, and the names of the rules that moved it."""

    item_id: str
    score: float
    stage: Stage
    moved_by: tuple[str, ...]


@dataclass(frozen=True)
class Steering:
    """All that a placement steers by."""

    boosts: Sequence[Boost] = ()
    bury: Sequence[Bury] = ()
    promotions: Sequence[Promotion] = ()
    caps: Sequence[Cap] = ()
    mmr: float | None = None  # λ: 1 is relevance alone
    pins: Sequence[Pin] = ()

    def pool_size(self, k: int) -> int:
        """How many items it wants to see for an answer of k."""
        return max(POOL, POOL_PER_K * k)


class Pool:
    """The items of the stages, and behind them, `beside`, those that only a pin or a promotion brings in."""

    def __init__(self, found: Sequence[Found], beside: Sequence[Found] = ()) -> None:
        items: list[Scored] = []
        relevance: list[Floats] = []
        self.stages: list[Stage] = []
        for part in (*found, *beside):
            items += part.items
            relevance.append(relevance_of(part))
            self.stages += [part.stage] * len(part.items)
        self.size = sum(len(part.items) for part in found)
        self.items = items
        self.item_ids = [item_id for item_id, _ in items]
        self.relevance: Floats = np.concatenate(relevance) if relevance else np.empty(0)
        self.group = np.repeat(np.arange(len(found)), [len(part.items) for part in found])


def relevance_of(found: Found) -> Floats:
    """How relevant each item of a stage is, from 0 to 1; above 1 an item that is expected again."""
    scores = np.array([score for _, score in found.items], dtype=np.float64)
    if found.stage in ("popular", "pinned"):
        return np.zeros(len(scores))
    if found.is_cosine:
        return np.maximum((1 + scores) / 2, 0.0)  # a boost of less than nothing would lower it
    highest = scores.max(initial=0.0)
    return scores / highest if highest > 0 else np.zeros(len(scores))


def steer(
    pool: Pool,
    steering: Steering,
    k: int,
    rows: Rows,
    vectors: npt.NDArray[np.float32] | None = None,
) -> list[Steered]:
    """The k items to answer, in order; fewer only where the pool has fewer.

    `rows` are those of the pool's items, and of what is beside it; `vectors` (n, D) are theirs too, zero for
    an item that has none. What is pinned and neither in the pool nor beside it is not allowed, and left out.
    """
    walk = _Walk(pool, steering, k, rows, vectors)
    walk.go()
    for promotion in steering.promotions:
        walk.promote(promotion)
    return walk.answer()


class _Walk:
    """One answer on its way: places are positions in the pool."""

    def __init__(
        self,
        pool: Pool,
        steering: Steering,
        k: int,
        rows: Rows,
        vectors: npt.NDArray[np.float32] | None,
    ) -> None:
        self._pool, self._k, self._rows = pool, k, rows
        self._mmr = steering.mmr if vectors is not None else None
        self._vectors = vectors
        self._caps = [(cap, cap.values(rows)) for cap in steering.caps]
        self._counts: list[defaultdict[object, int]] = [defaultdict(int) for _ in self._caps]
        self._why: list[tuple[str, Bools]] = []
        self._moved_by: dict[int, list[str]] = {}
        self._promised: list[tuple[Bools, int]] = []  # what earlier promotions match, and how many they need
        self._pins = self._pinned(steering.pins)
        self._chosen: list[int] = []
        self._wanted = k - len(self._pins)
        self._worth, self._group = self._valued(steering)
        self._order: list[int] = np.lexsort((-self._worth[: pool.size], self._group)).tolist()

    def go(self) -> None:
        """Take the best, one after the other, as long as their caps allow; then those that are over them."""
        pinned = {place for _, place in self._pins}
        for place in pinned:
            self._count(place, 1)
        if self._mmr is not None:
            left = self._diverse(self._mmr, pinned)
        else:
            left = []
            for place in self._order:
                if len(self._chosen) >= self._wanted:
                    break
                if place in pinned:
                    continue
                if self._caps and not self._fits(place):
                    left.append(place)
                else:
                    self._take(place)
        for place in left[: self._wanted - len(self._chosen)]:
            over = self._over(place)
            self._take(place)
            self._moved(place, over)

    def promote(self, promotion: Promotion) -> None:
        """Let the last that do not match give way to the best that do, until enough of them match."""
        matches = promotion.matches(self._rows)
        needed = promotion.needed(self._k)
        answered = {*self._chosen, *(place for _, place in self._pins)}
        missing = needed - sum(bool(matches[place]) for place in answered)
        beside = range(self._pool.size, len(self._pool.items))
        coming = [place for place in (*self._order, *beside) if matches[place] and place not in answered]
        taken: list[int] = []
        indices: list[int] = []
        while len(taken) < missing and coming:
            index = self._gives_way(matches)
            if index is None:
                break
            if index < len(self._chosen):
                self._count(self._chosen.pop(index), -1)
            place = next((place for place in coming if self._fits(place)), coming[0])
            coming.remove(place)
            self._chosen.insert(index, place)
            self._count(place, 1)
            taken.append(place)
            indices.append(index)
        for index, place in zip(sorted(indices), taken, strict=True):
            self._chosen[index] = place
            self._moved(place, [promotion.name])
        self._promised.append((matches, needed))

    def answer(self) -> list[Steered]:
        """What is chosen, with the pins in their positions."""
        places = self._chosen.copy()
        for pin, place in self._pins:
            places.insert(pin.position - 1, place)
            self._moved(place, [pin.name])
        items, stages = self._pool.items, self._pool.stages
        return [
            Steered(
                *items[place],
                stages[place],
                (
                    *[name for name, matches in self._why if matches[place]],
                    *self._moved_by.get(place, ()),
                ),
            )
            for place in places
        ]

    def _valued(self, steering: Steering) -> tuple[Floats, Rows]:
        """What each item is worth, and the group of the pool that it stands in: stages, then the buried."""
        pool = self._pool
        factor: Floats | float = 1.0
        addition: Floats | float = 0.0
        for boost in steering.boosts:
            matches = boost.matches(self._rows)
            factor = factor * np.where(matches, boost.factor, 1.0)
            addition = addition + np.where(matches, boost.addition, 0.0)
            self._why.append((boost.name, matches))
        group = pool.group
        buried: Bools | None = None
        for bury in steering.bury:
            matches = bury.matches(self._rows)
            buried = matches if buried is None else buried | matches
            self._why.append((bury.name, matches))
        if buried is not None:
            group = group + buried[: pool.size] * (1 + int(group.max(initial=0)))
        return pool.relevance * factor + addition, group

    def _pinned(self, pins: Sequence[Pin]) -> list[tuple[Pin, int]]:
        if not pins:
            return []
        place_of = {item_id: place for place, item_id in enumerate(self._pool.item_ids)}
        shown = [pin for pin in pins if pin.position <= self._k and pin.item_id in place_of]
        return [(pin, place_of[pin.item_id]) for pin in sorted(shown, key=lambda pin: pin.position)]

    def _diverse(self, weight: float, pinned: Collection[int]) -> list[int]:
        """Take what is relevant and unlike what is taken; returns what was over its caps, in order."""
        assert self._vectors is not None
        order = np.array(self._order, dtype=np.int64)
        vectors, groups = self._vectors[order], self._group[order]
        likeness = np.zeros(len(order))
        for place in pinned:
            np.maximum(likeness, vectors @ self._vectors[place], out=likeness)
        relevance = weight * self._worth[order]
        relevance[np.isin(order, list(pinned))] = -np.inf  # taken
        over: list[int] = []
        for group in np.unique(groups).tolist():
            of_group = np.flatnonzero(groups == group)
            while len(self._chosen) < self._wanted:
                value = relevance[of_group] - (1 - weight) * likeness[of_group]
                best = of_group[value.argmax()]  # of equals the one before
                if relevance[best] == -np.inf:
                    break
                relevance[best] = -np.inf
                place = self._order[best]
                if self._fits(place):
                    self._take(place)
                    np.maximum(likeness, vectors @ vectors[best], out=likeness)
                else:
                    over.append(place)
        return over

    def _take(self, place: int) -> None:
        self._chosen.append(place)
        self._count(place, 1)

    def _count(self, place: int, by: int) -> None:
        for counts, (_, values) in zip(self._counts, self._caps, strict=True):
            for value in values[place]:
                counts[value] += by

    def _fits(self, place: int) -> bool:
        for counts, (cap, values) in zip(self._counts, self._caps, strict=True):
            for value in values[place]:
                if value and counts[value] >= cap.at_most:
                    return False
        return True

    def _over(self, place: int) -> list[str]:
        """The names of the caps that forbid it."""
        return [
            cap.name
            for counts, (cap, values) in zip(self._counts, self._caps, strict=True)
            if any(value and counts[value] >= cap.at_most for value in values[place])
        ]

    def _gives_way(self, matches: Bools) -> int | None:
        """Where the next promoted item goes: an open place, or that of the last that nothing keeps there."""
        if len(self._chosen) < self._wanted:
            return len(self._chosen)
        answered = [*self._chosen, *(place for _, place in self._pins)]
        kept = [others for others, needed in self._promised if int(others[answered].sum()) <= needed]
        for index in reversed(range(len(self._chosen))):
            place = self._chosen[index]
            if not matches[place] and not any(others[place] for others in kept):
                return index
        return None

    def _moved(self, place: int, names: Sequence[str]) -> None:
        if names:
            self._moved_by.setdefault(place, []).extend(names)
