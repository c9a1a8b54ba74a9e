"""VMIS-kNN: Kersbergen et al., Serenade: Low-Latency Session-Based Recommendation in e-Commerce at Scale,
SIGMOD 2022.

    π(p) = p / |s|                                           weight of the click at place p of the session s
    r_j = Σ_{i ∈ s ∩ j} π(place of i)                        over the m newest sessions j that share an item
    λ(t) = max(0, 1 − 0.1 t)                                 t: steps from the end of s, 1 = newest click
    score_i = log(|H| / h_i) · Σ_{j ∋ i} r_j λ(t_j)          over the k most similar; t_j: newest shared click

The paper's index holds the m newest sessions of each item and finds the m newest of their union with a heap;
that is what sorting them gives (`service.ranking.neighbours`).

Departures: the authors' code never answers the session's newest item, and lets λ fall below zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.base import Hyper
from models.bounds import require
from models.sessions import Sessions
from service.ranking.neighbours import SessionNeighbours
from training.baselines.counting import session_neighbours

PAPER: Mapping[str, Hyper] = {"m": 500, "k": 100, "max_length": 50}


def fit(train: Sessions, *, m: int = 500, k: int = 100, max_length: int = 50) -> SessionNeighbours:
    """Count which session holds which items; `max_length` newest clicks of a session are compared."""
    require(at_least=1, max_length=max_length)
    step = np.arange(max_length + 1)
    return session_neighbours(
        train,
        m=m,
        k=k,
        place_power=1,
        step_weight=np.maximum(0, 1 - 0.1 * step),
        item_weight=lambda idf: idf,
    )
