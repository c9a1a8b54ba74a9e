"""V-SKNN: Ludewig & Jannach, Evaluation of Session-based Recommendation Algorithms, UMUAI 2018.

    r_j = Σ_{i ∈ s ∩ j} (place of i / |s|)²                  over the m newest sessions j that share an item
    score_i = (1 + w · log(|H| / h_i)) · Σ_{j ∋ i} r_j / t_j over the k most similar

t_j counts steps from the end of the session s to the newest click it shares with j (1: the newest of all).
Decays (quadratic, div), k, m and the weight w of the idf are the authors' for Diginetica.

Departures: h_i counts the sessions with item i, where the authors' code counts its clicks.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from models.base import Hyper
from models.bounds import require
from models.sessions import Sessions
from service.ranking.neighbours import SessionNeighbours
from training.baselines.counting import session_neighbours

# Diginetica: window_digi_baselines.yml of session-rec, the authors' code
PAPER: Mapping[str, Hyper] = {"m": 5000, "k": 500, "idf": 5.0, "max_length": 50}


def fit(
    train: Sessions, *, m: int = 5000, k: int = 500, idf: float = 5.0, max_length: int = 50
) -> SessionNeighbours:
    """Count which session holds which items; `max_length` newest clicks of a session are compared."""
    require(at_least=0, idf=idf)
    require(at_least=1, max_length=max_length)
    step = np.arange(max_length + 1)
    return session_neighbours(
        train,
        m=m,
        k=k,
        place_power=2,
        step_weight=1 / np.maximum(step, 1),
        item_weight=lambda log_ratio: 1 + idf * log_ratio,
    )
