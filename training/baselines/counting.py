"""What the counted baselines share: how they rank, and which training sessions hold which items."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.bounds import require
from models.sessions import Sessions
from service.ranking.neighbours import SessionNeighbours
from service.ranking.ranker import Ranked
from service.ranking.retriever import Items

Integers = npt.NDArray[np.integer]
Floats = npt.NDArray[np.floating]


class Counted(Protocol):
    """A baseline that was counted; `service.ranking.neighbours.Neighbours` are those that can be served."""

    @property
    def n_items(self) -> int: ...

    def search(self, sessions: Items, k: int) -> Ranked:
        """Scores and items (B, k) for (B, L) right-padded, non-empty sessions of known items.

        Where a session's row has fewer, the rest of it is item 0.
        """
        ...


def distinct_pairs(train: Sessions) -> tuple[Items, Items]:
    """Every session with each of its items, once: session numbers and items, by session, then by item."""
    session = np.repeat(np.arange(len(train)), np.diff(train.offsets))
    pairs = np.unique(session * (train.n_items + 1) + train.items)
    session, item = np.divmod(pairs, train.n_items + 1)
    return session, item


def offsets(row: Integers, n_rows: int) -> Items:
    """(n_rows + 1,) where each row begins among values sorted by `row`."""
    bounds = np.zeros(n_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=n_rows), out=bounds[1:])
    return bounds


def session_neighbours(
    train: Sessions,
    *,
    m: int,
    k: int,
    place_power: int,
    step_weight: Floats,
    item_weight: Callable[[Floats], Floats],
) -> SessionNeighbours:
    """VMIS-kNN's arrays: a click weighs (place / length) ** `place_power`; `item_weight` is told log(|H|/h).

    |H| training sessions, h of them with the item.
    """
    require(at_least=1, m=m, k=k)
    session, item = distinct_pairs(train)
    by_item = np.argsort(item, kind="stable")
    held = np.bincount(item, minlength=train.n_items + 1)
    place = np.arange(len(step_weight))
    return SessionNeighbours(
        sessions_of=session[by_item].astype(np.int32),
        sessions_offsets=offsets(item, train.n_items + 1),
        items_of=item.astype(np.int32),
        items_offsets=offsets(session, len(train)),
        place_weight=((place / np.maximum(place, 1)[:, None]) ** place_power).astype(np.float32),
        step_weight=step_weight.astype(np.float32),
        item_weight=item_weight(np.log(len(train) / np.maximum(held, 1))).astype(np.float32),
        limits=np.array([m, k], dtype=np.int64),
    )
