"""STAN: Garg et al., Sequence and Time Aware Neighborhood for Session-based Recommendations, SIGIR 2019.

    w₁(i) = exp((p_i − |s|) / λ₁)                            clicks at the end of the session s count most
    sim(s, j) = Σ_{i ∈ s ∩ j} w₁(i) / √(Σ_{i ∈ s} w₁(i)² · |j|)
    w₂(j) = exp(−age_j / λ₂)                                 recent sessions count most
    w₃(i, j) = exp(−|q_i − q*| / λ₃)                         near q*, the newest place in j that s shares
    score_i = Σ_{j ∋ i} sim(s, j) w₂(j) w₃(i, j)             over the k most similar of the m newest

p and q are places in s and in j, an item's newest one.

Departures: there are no times here, so the age of a session is the number of training sessions after it, and
λ₂ a share of all of them. `decay_age` = 1 is from validation (Diginetica 50.8/18.4, yoochoose1_64 69.3/29.0);
the paper's 20 days for Diginetica would be 0.138 (47.7/17.7).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.base import Hyper
from models.bounds import require
from models.sessions import Sessions
from service.ranking.neighbours import Candidates, best_of_each, distinct_clicks, match, places, starts
from service.ranking.ranker import Ranked
from service.ranking.retriever import Items
from training.baselines.counting import Floats, distinct_pairs, offsets

PAPER: Mapping[str, Hyper] = {  # Diginetica, for MRR: window_digi_stan.yml of session-rec
    "m": 10_000,
    "k": 500,
    "decay_place": 1.225,
    "decay_age": 0.138,  # 20 days
    "decay_distance": 4.9,
}


@dataclass(frozen=True)
class STAN:
    """Training sessions, and which of them hold which items at which place."""

    n_items: int
    sessions_of: npt.NDArray[np.int32]  # the sessions of each item, cut by `sessions_offsets`
    sessions_offsets: Items  # (n + 2,)
    items_of: Items  # the distinct items of each session, cut by `items_offsets`
    places_of: Items  # the newest place of each of them
    items_offsets: Items  # (sessions + 1,)
    recency: Floats  # (sessions,) w₂(j) / √|j|
    m: int
    k: int
    decay_place: float  # λ₁
    decay_distance: float  # λ₃

    def search(self, sessions: Items, k: int) -> Ranked:
        """See `Counted`."""
        rows = len(sessions)
        clicks = distinct_clicks(sessions)
        weight = np.exp((clicks.place - clicks.length) / self.decay_place)
        length = np.sqrt(np.bincount(clicks.row, weight**2, minlength=rows))
        found = match(self.sessions_offsets, self.sessions_of, len(self.recency), clicks, weight)
        found = found.newest(self.m, rows)
        similarity = found.similarity * self.recency[found.session] / length[found.row]
        nearest = best_of_each(found.row, similarity, self.k, rows)
        row, session, similarity = found.row[nearest], found.session[nearest], similarity[nearest]

        place, source = places(self.items_offsets, session)
        item, at = self.items_of[place], self.places_of[place]
        key = row[source] * (self.n_items + 1) + item
        shared = np.isin(key, clicks.row * (self.n_items + 1) + clicks.item)
        newest = np.maximum.reduceat(np.where(shared, at, 0), starts(source))  # q* of each neighbour
        value = similarity[source] * np.exp(-np.abs(at - newest[source]) / self.decay_distance)

        order = np.argsort(key, kind="stable")
        first = starts(key[order])
        row, item = np.divmod(key[order][first], self.n_items + 1)
        return Candidates(row, item, np.add.reduceat(value[order], first)).best(k, rows)


def fit(
    train: Sessions,
    *,
    m: int = 10_000,
    k: int = 500,
    decay_place: float = 1.225,
    decay_age: float = 1.0,
    decay_distance: float = 4.9,
) -> STAN:
    """Count which session holds which items, and where."""
    require(at_least=1, m=m, k=k)
    require(above=0, decay_place=decay_place, decay_age=decay_age, decay_distance=decay_distance)
    session, item = distinct_pairs(train)
    by_item = np.argsort(item, kind="stable")
    length = np.bincount(session, minlength=len(train))
    age = np.arange(len(train), 0, -1) / len(train)
    return STAN(
        n_items=train.n_items,
        sessions_of=session[by_item].astype(np.int32),
        sessions_offsets=offsets(item, train.n_items + 1),
        items_of=item,
        places_of=newest_places(train),
        items_offsets=offsets(session, len(train)),
        recency=np.exp(-age / decay_age) / np.sqrt(np.maximum(length, 1)),
        m=m,
        k=k,
        decay_place=decay_place,
        decay_distance=decay_distance,
    )


def newest_places(train: Sessions) -> Items:
    """Of each distinct pair of session and item, in their order, the place of its newest click, from 1."""
    session = np.repeat(np.arange(len(train)), np.diff(train.offsets))
    place = np.arange(1, len(session) + 1) - train.offsets[session]
    order = np.lexsort((place, train.items, session))
    pair = session[order] * (train.n_items + 1) + train.items[order]
    last = np.append(starts(pair)[1:], len(pair)) - 1
    newest: Items = place[order][last]
    return newest
