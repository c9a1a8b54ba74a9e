"""Item-KNN: Sarwar et al., Item-based Collaborative Filtering Recommendation Algorithms, WWW 2001.

    sim(i, j) = cooc_ij / sqrt((supp_i + λ)(supp_j + λ))     cosine over sessions, regularised
    score_j = sim(last item, j)

`cooc_ij` counts the sessions that hold both items, `supp_i` those that hold i. With `counts=clicks` they
count pairs of clicks, and clicks, as the code does that is behind the published figures. The regularisation,
λ = 20 as in Hidasi et al. 2016, keeps two rare items from being neighbours for one coincidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
from scipy.sparse import csr_array

from models.base import Hyper
from models.bounds import require
from models.sessions import Sessions
from service.ranking.neighbours import ItemNeighbours, best_of_each

PAPER: Mapping[str, Hyper] = {"neighbours": 100, "regularisation": 20.0, "counts": "sessions"}


def fit(
    train: Sessions,
    *,
    neighbours: int = 100,
    regularisation: float = 20.0,
    counts: Literal["sessions", "clicks"] = "sessions",
) -> ItemNeighbours:
    """Count pairs of items in a session; keep each item's `neighbours` most similar."""
    require(at_least=1, neighbours=neighbours)
    require(at_least=0, regularisation=regularisation)
    return most_similar(train, neighbours, regularisation, counts)


def most_similar(
    train: Sessions,
    neighbours: int,
    regularisation: float,
    counts: Literal["sessions", "clicks"] = "sessions",
    *,
    block: int = 4096,
) -> ItemNeighbours:
    """The neighbours of `block` items are counted at a time, to bound memory."""
    n = train.n_items
    session = np.repeat(np.arange(len(train)), np.diff(train.offsets))
    clicks = csr_array((np.ones(len(session), np.float32), (session, train.items)), shape=(len(train), n + 1))
    clicks.sum_duplicates()
    if counts == "sessions":
        clicks.data[:] = 1
    sessions, by_item = clicks, clicks.T.tocsr()
    support = clicks.sum(0) + regularisation
    items = np.zeros((n + 1, neighbours), np.int32)
    scores = np.zeros((n + 1, neighbours), np.float32)
    for start in range(0, n + 1, block):
        together = (by_item[start : start + block] @ sessions).tocoo()  # (block, n + 1)
        other = together.coords[0] + start != together.coords[1]  # nothing is its own neighbour
        row, column = (axis[other].astype(np.int64) for axis in together.coords)
        similarity = together.data[other] / np.sqrt(support[row + start] * support[column])
        best = best_of_each(row, similarity, neighbours, block)
        place = np.arange(len(best)) - np.searchsorted(row[best], row[best])
        items[row[best] + start, place], scores[row[best] + start, place] = column[best], similarity[best]
    return ItemNeighbours(items, scores)
