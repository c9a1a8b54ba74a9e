"""Ranks by neighbours: what sessions like this one, or sessions with its last item, went on to.

Counted arrays, memory-mapped, and a few numpy passes a request: no encoder, no vectors, no index.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from service.process.metrics import SEARCH_SECONDS
from service.ranking.ranker import Ranked, newest
from service.ranking.retriever import Items, Mask

Ints = npt.NDArray[np.int64]
FIRST = np.zeros(1, dtype=np.int64)
COMPARED = 64  # clicks up to which comparing all with all is faster than sorting them


class Candidates(NamedTuple):
    """Items that some of B sessions may be answered with, in any order, each once a session."""

    row: Ints  # which session
    item: Ints
    score: npt.NDArray[np.floating]

    def take(self, which: Ints) -> Candidates:
        """Some of them."""
        return Candidates(self.row[which], self.item[which], self.score[which])

    def best(self, k: int, rows: int) -> Ranked:
        """The k best of each session, as (B, k) scores and items; item 0 where there are no more."""
        row, item, score = self.take(best_of_each(self.row, self.score, k, rows))
        column = np.arange(len(row)) - np.searchsorted(row, row)
        scores = np.full((rows, k), -np.inf, dtype=np.float32)
        items = np.zeros((rows, k), dtype=np.int64)
        scores[row, column], items[row, column] = score, item
        return scores, items


class Neighbours(ABC):
    """A ranker made of arrays: each field of a subclass is one, and a file `<field>.npy` of its bundle."""

    dtypes: ClassVar[dict[str, type[np.generic]]]  # of every field
    _visible: Mask | None = None  # None: all are

    @property
    @abstractmethod
    def n_items(self) -> int: ...

    @property
    @abstractmethod
    def max_length(self) -> int: ...

    @abstractmethod
    def candidates(self, sessions: Items) -> Candidates:
        """All items that (B, L) right-padded, non-empty sessions lead to."""

    @abstractmethod
    def problem(self) -> str | None:
        """What makes the arrays useless, or None."""

    @classmethod
    def files(cls) -> tuple[str, ...]:
        """The names of its files, in a bundle."""
        return tuple(f"{name}.npy" for name in cls.dtypes)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Memory-map the arrays under `path`, so that workers share them. Raises `ValueError`."""
        arrays = {}
        for name, dtype in cls.dtypes.items():
            file = path / f"{name}.npy"
            try:
                # As a plain array over the mapped pages: numpy's memmap costs a microsecond an access.
                array = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
            except (ValueError, OSError, EOFError) as error:
                raise ValueError(f"{file.name}: numpy cannot map it: {error}") from error
            if array.dtype != dtype:
                raise ValueError(f"{file.name}: holds {array.dtype}, not {np.dtype(dtype)}")
            arrays[name] = array
        loaded = cls(**arrays)
        problem = loaded.problem()
        if problem:
            raise ValueError(problem)
        return loaded

    def save(self, path: Path) -> None:
        """Write the arrays under `path`; the counterpart of `load`."""
        for name, dtype in self.dtypes.items():
            np.save(path / f"{name}.npy", getattr(self, name).astype(dtype, copy=False), allow_pickle=False)

    def search(self, sessions: Items, k: int) -> Ranked:
        """See `Ranker`."""
        found = self.candidates(newest(sessions, self.max_length))
        if self._visible is not None:
            found = found.take(np.flatnonzero(self._visible[found.item]))
        return found.best(k, len(sessions))

    def rank(
        self, sessions: Sequence[Sequence[int]], ks: Sequence[int], excluded: Sequence[Collection[int]]
    ) -> list[Ranked]:
        """See `Ranker`; there may be fewer than k."""
        with SEARCH_SECONDS.time():
            length = min(self.max_length, max(map(len, sessions)))
            padded = np.zeros((len(sessions), length), dtype=np.int64)
            for row, session in zip(padded, sessions, strict=True):
                row[: len(session[-length:])] = session[-length:]
            depth = max(k + len(out) for k, out in zip(ks, excluded, strict=True))
            found = []
            for scores, items, k, out in zip(*self.search(padded, depth), ks, excluded, strict=True):
                keep = items > 0
                if out:
                    keep &= ~np.isin(items, np.fromiter(out, dtype=np.int64, count=len(out)))
                found.append((scores[keep][:k], items[keep][:k]))
            return found

    def similar(self, item: int, k: int) -> Ranked:
        """See `Ranker`: what a session of that item alone leads to."""
        return self.rank([[item]], [k], [(item,)])[0]

    def only(self, visible: Mask) -> Self:
        """See `Ranker`."""
        other = copy.copy(self)
        object.__setattr__(other, "_visible", visible)
        return other

    def visible(self) -> Items:
        """See `Ranker`."""
        if self._visible is None:
            return np.arange(1, self.n_items + 1)
        return np.flatnonzero(self._visible[1:]) + 1


@dataclass(frozen=True)
class ItemNeighbours(Neighbours):
    """Item-KNN: the neighbours of the newest click's item.

    Row i of both arrays is item index i, best first, filled up with item 0.
    """

    dtypes: ClassVar[dict[str, type[np.generic]]] = {"items": np.int32, "scores": np.float32}

    items: npt.NDArray[np.int32]  # (n + 1, K)
    scores: npt.NDArray[np.float32]  # (n + 1, K)

    @property
    def n_items(self) -> int:
        return len(self.items) - 1

    @property
    def max_length(self) -> int:
        return 1

    def candidates(self, sessions: Items) -> Candidates:
        last = sessions[:, 0]
        items = self.items[last]  # (B, K)
        row, column = np.nonzero(items)
        return Candidates(row, items[row, column].astype(np.int64), self.scores[last[row], column])

    def problem(self) -> str | None:
        if self.items.ndim != 2 or self.items.shape != self.scores.shape:
            return f"items.npy and scores.npy: shapes {self.items.shape} and {self.scores.shape}"
        if self.items.min(initial=0) < 0 or self.items.max(initial=0) > self.n_items:
            return f"items.npy: names items outside 0..{self.n_items}"
        if not np.isfinite(self.scores).all():
            return "scores.npy: holds what is not finite"
        return None


@dataclass(frozen=True)
class SessionNeighbours(Neighbours):
    """VMIS-kNN and V-SKNN: the items of the training sessions that share most with this one.

        m   newest training sessions j that share an item with the session s are compared
        r_j = Σ_{i ∈ s ∩ j} place_weight[|s|, place of i in s]
        k   of them with the highest r_j, the newest if tied, are its neighbours
        score_i = item_weight[i] · Σ_{j ∋ i} r_j · step_weight[of the newest click they share]

    An item clicked again counts at its newest place. Training sessions are numbered oldest first.
    """

    dtypes: ClassVar[dict[str, type[np.generic]]] = {
        "sessions_of": np.int32,
        "sessions_offsets": np.int64,
        "items_of": np.int32,
        "items_offsets": np.int64,
        "place_weight": np.float32,
        "step_weight": np.float32,
        "item_weight": np.float32,
        "limits": np.int64,
    }

    sessions_of: npt.NDArray[
        np.int32
    ]  # the sessions with item i: sessions_offsets[i] to sessions_offsets[i + 1]
    sessions_offsets: npt.NDArray[np.int64]  # (n + 2,)
    items_of: npt.NDArray[
        np.int32
    ]  # the distinct items of session j: items_offsets[j] to items_offsets[j + 1]
    items_offsets: npt.NDArray[np.int64]  # (sessions + 1,)
    place_weight: npt.NDArray[np.float32]  # (max_length + 1, max_length + 1): by length, by place 1..length
    step_weight: npt.NDArray[np.float32]  # (max_length + 1,): 1 is the newest click
    item_weight: npt.NDArray[np.float32]  # (n + 1,)
    limits: npt.NDArray[np.int64]  # m, k

    @property
    def n_items(self) -> int:
        return len(self.item_weight) - 1

    @property
    def max_length(self) -> int:
        return len(self.step_weight) - 1

    def candidates(self, sessions: Items) -> Candidates:
        rows, (m, k) = len(sessions), self.limits.tolist()
        clicks = distinct_clicks(sessions)
        weight = self.place_weight[clicks.length, clicks.place]
        found = match(self.sessions_offsets, self.sessions_of, len(self.items_offsets) - 1, clicks, weight)
        found = found.newest(m, rows).nearest(k, rows)
        value = found.similarity * self.step_weight[clicks.length - clicks.place + 1][found.click]

        place, source = places(self.items_offsets, found.session)
        bits = self.n_items.bit_length()
        key = (found.row[source] << bits) | self.items_of[place]
        order = key.argsort(kind="stable")
        key = key[order]
        first = starts(key)
        key, score = key[first], np.add.reduceat(value[source[order]], first)
        item = key & ((1 << bits) - 1)
        return Candidates(key >> bits, item, score * self.item_weight[item])

    def problem(self) -> str | None:
        sessions, longest = len(self.items_offsets) - 1, self.max_length
        for offsets, values, rows, top in (
            ("sessions_offsets", self.sessions_of, self.n_items + 1, sessions - 1),
            ("items_offsets", self.items_of, sessions, self.n_items),
        ):
            bounds = getattr(self, offsets)
            if (
                len(bounds) != rows + 1
                or bounds[0]
                or bounds[-1] != len(values)
                or (np.diff(bounds) < 0).any()
            ):
                return f"{offsets}.npy: does not cut its values into {rows} rows"
            if values.min(initial=0) < 0 or values.max(initial=0) > top:
                return f"the values of {offsets}.npy are not within 0..{top}"
        if self.place_weight.shape != (longest + 1, longest + 1) or self.limits.shape != (2,):
            return (
                f"place_weight.npy and limits.npy: shapes {self.place_weight.shape} and {self.limits.shape}"
            )
        if self.limits.min() < 1:
            return f"limits.npy: {self.limits.tolist()} is fewer than one session"
        for name in ("place_weight", "step_weight", "item_weight"):
            if not np.isfinite(getattr(self, name)).all():
                return f"{name}.npy: holds what is not finite"
        return None


# What a bundle of neighbours may be, by the model its manifest names.
NEIGHBOURS: dict[str, type[ItemNeighbours] | type[SessionNeighbours]] = {
    "item_knn": ItemNeighbours,
    "vmis_knn": SessionNeighbours,
    "vsknn": SessionNeighbours,
}


class Clicks(NamedTuple):
    """The distinct items of some sessions, each at its newest click; by row, then by place."""

    row: Ints
    item: Ints
    place: Ints  # 1 is the session's oldest click
    length: Ints  # the session's


def distinct_clicks(sessions: Items) -> Clicks:
    """Take (B, L) right-padded sessions apart."""
    real = sessions > 0
    if sessions.shape[1] > COMPARED:
        row, column = np.nonzero(real & ~_comes_again(sessions))
    elif sessions.shape[1] > 1:
        later = np.triu(np.ones((sessions.shape[1],) * 2, dtype=bool), 1)
        again = ((sessions[:, :, None] == sessions[:, None, :]) & later).any(2)
        row, column = np.nonzero(real & ~again)
    else:
        row, column = np.nonzero(real)
    return Clicks(row, sessions[row, column], column + 1, real.sum(1)[row])


def _comes_again(sessions: Items) -> npt.NDArray[np.bool_]:
    """Which clicks of (B, L) sessions are repeated later: memory grows with L, not with its square."""
    order = np.argsort(sessions, axis=1, kind="stable")  # equal items by place
    ordered = np.take_along_axis(sessions, order, 1)
    again = np.zeros(sessions.shape, dtype=bool)
    np.put_along_axis(again, order[:, :-1], ordered[:, :-1] == ordered[:, 1:], 1)
    return again


class Matches(NamedTuple):
    """Training sessions that share an item with a session; by row, then oldest first."""

    row: Ints
    session: Ints
    similarity: npt.NDArray[np.floating]
    click: Ints  # the newest of the shared clicks, an index into `Clicks`

    def newest(self, m: int, rows: int) -> Matches:
        """The m newest of each row."""
        if len(self.row) <= m:
            return self
        ends = np.bincount(self.row, minlength=rows).cumsum()
        return self._take(np.flatnonzero(ends[self.row] - np.arange(len(self.row)) <= m))

    def nearest(self, k: int, rows: int) -> Matches:
        """The k most similar of each row, the newer one of two that tie."""
        if len(self.row) <= k:
            return self
        return self._take(best_of_each(self.row, self.similarity, k, rows))

    def _take(self, which: Ints) -> Matches:
        return Matches(self.row[which], self.session[which], self.similarity[which], self.click[which])


def match(
    offsets: Ints,
    sessions_of: npt.NDArray[np.int32],
    n_sessions: int,
    clicks: Clicks,
    weight: npt.NDArray[np.floating],
) -> Matches:
    """Every training session with a clicked item; its similarity sums the `weight` of the shared clicks.

    `sessions_of`, cut by `offsets`, names the training sessions of each item.
    """
    place, click = places(offsets, clicks.item)
    # (row, session, click) in one number: one sort brings together what a session shares, oldest click first.
    bits, session_bits = len(clicks.item).bit_length(), n_sessions.bit_length()
    packed = (((clicks.row[click] << session_bits) | sessions_of[place]) << bits) | click
    packed.sort()
    group, click = packed >> bits, packed & ((1 << bits) - 1)
    first = starts(group)
    last = np.append(first[1:], len(group))[: len(first)] - 1
    similarity, group = np.add.reduceat(weight[click], first), group[first]
    return Matches(group >> session_bits, group & ((1 << session_bits) - 1), similarity, click[last])


def starts(groups: Ints) -> Ints:
    """Where each run of equal values begins."""
    return np.concatenate((FIRST, np.flatnonzero(groups[1:] != groups[:-1]) + 1))[: len(groups)]


def places(offsets: Ints, rows: Ints) -> tuple[Ints, Ints]:
    """Where the values of `rows` lie, one row after another, and which of `rows` each belongs to."""
    start = offsets[rows]
    count = offsets[rows + 1] - start
    end = count.cumsum()
    source = np.arange(len(rows)).repeat(count)
    return np.arange(len(source)) + (start - end + count)[source], source


def best_of_each(row: Ints, score: npt.NDArray[np.floating], k: int, rows: int) -> Ints:
    """Indices of the k highest scores of each row, by row, best first; the later one of two that tie."""
    if rows == 1:
        return len(score) - 1 - np.argsort(-score[::-1], kind="stable")[:k]
    order = np.lexsort((-np.arange(len(row)), -score, row))
    start = np.searchsorted(row[order], np.arange(rows))
    return order[np.arange(len(row)) - start[row[order]] < k]
