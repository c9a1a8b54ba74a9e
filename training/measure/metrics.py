"""Ranks to metrics: Recall@k, MRR@k, NDCG@k over next-click cases.

One case has one target, so Recall@k is the papers' P@k and HitRate@k. Ranks are 1-based and pessimistic: an
item that ties with the target stands before it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ranks = npt.NDArray[np.int64]
MISSED = np.iinfo(np.int64).max  # the rank of a target that was not retrieved, or is not in the vocabulary


def recall_at_k(ranks: Ranks, k: int) -> float:
    """Share of cases whose target stands among the first k, 0..1."""
    return float((ranks <= k).mean())


def mrr_at_k(ranks: Ranks, k: int) -> float:
    """Mean of 1 / rank, 0 beyond k."""
    return float(np.where(ranks <= k, 1 / ranks, 0).mean())


def ndcg_at_k(ranks: Ranks, k: int) -> float:
    """Mean of 1 / log2(rank + 1), 0 beyond k; the ideal DCG of one target is 1."""
    return float(np.where(ranks <= k, 1 / np.log2(np.minimum(ranks, k) + 1), 0).mean())


def ranking_metrics(ranks: Ranks, ks: tuple[int, ...] = (5, 10, 20)) -> dict[str, float]:
    """Every metric at every cut-off, in percent, keyed `recall@20` and the like."""
    functions = {"recall": recall_at_k, "mrr": mrr_at_k, "ndcg": ndcg_at_k}
    return {f"{name}@{k}": 100 * f(ranks, k) for name, f in functions.items() for k in ks}
