"""POP: Hidasi et al., Session-based Recommendations with Recurrent Neural Networks, ICLR 2016.

    score_i = clicks on i in training, whatever the session

A baseline there as in most papers since.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.ranking.ranker import Ranked
from service.ranking.retriever import Items


@dataclass(frozen=True)
class POP:
    """The most clicked items, the same for every session."""

    items: Items  # (n,) the most clicked first; of two that tie the lower index
    clicks: npt.NDArray[np.float32]  # (n,) on them

    @property
    def n_items(self) -> int:
        return len(self.items)

    def search(self, sessions: Items, k: int) -> Ranked:
        """See `Counted`."""
        k = min(k, self.n_items)
        return np.tile(self.clicks[:k], (len(sessions), 1)), np.tile(self.items[:k], (len(sessions), 1))


def fit(train: Sessions) -> POP:
    """Count the clicks."""
    clicks = np.bincount(train.items, minlength=train.n_items + 1)[1:]
    order = np.argsort(-clicks, kind="stable")
    return POP(order + 1, clicks[order].astype(np.float32))
