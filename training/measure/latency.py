"""How long a bundle takes for one session: through its own ranker, one session at a time, one thread."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import numpy as np

from models.sessions import Sessions
from service.ranking.bundle import Bundle
from service.ranking.ranker import NearestItems
from service.ranking.retriever import search_threads
from training.learn.batches import Examples

LENGTHS = (1, 5, 20, 50)
SESSIONS = 500
REPEATS = 200  # of one length's session
WARM_UP = 20
K = 20


def encode_microseconds(bundle: Bundle) -> dict[str, float] | None:
    """Median of encoding one session of so many clicks; None when nothing is encoded."""
    if not isinstance(bundle.ranker, NearestItems):
        return None
    encoder = bundle.ranker.encoder
    items = np.random.default_rng(0).integers(1, bundle.manifest.n_items + 1, max(LENGTHS)).tolist()
    found = {}
    for length in LENGTHS:
        session = items[: min(length, encoder.max_length)]
        found[str(length)] = _quantiles(lambda each: encoder.encode([each]), [session] * REPEATS)["p50"]
    return found


def rank_microseconds(bundle: Bundle, sessions: Sessions) -> dict[str, float]:
    """Median and 90th percentile of a whole answer of 20 items, over prefixes drawn from `sessions`."""
    examples = Examples.of(sessions, "prefixes", bundle.ranker.max_length)
    drawn = np.random.default_rng(0).choice(len(examples), min(SESSIONS, len(examples)), replace=False)
    batch = examples.batch(drawn).sessions.numpy()
    prefixes = [row[row > 0].tolist() for row in batch if row.any()]
    with search_threads(1):
        return _quantiles(lambda each: bundle.ranker.rank([each], [K], [()]), prefixes)


def _quantiles(call: Callable[[list[int]], object], sessions: list[list[int]]) -> dict[str, float]:
    for session in sessions[:WARM_UP]:
        call(session)
    seconds = []
    for session in sessions:
        started = perf_counter()
        call(session)
        seconds.append(perf_counter() - started)
    p50, p90 = np.percentile(seconds, (50, 90)) * 1e6
    return {"p50": round(float(p50), 1), "p90": round(float(p90), 1)}
