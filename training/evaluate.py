"""Offline metrics through the served path: the bundle's own encoder and index, used as by a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.base import Sessions
from service.bundle import Bundle
from training.batches import Examples
from training.dataset import Dataset
from training.metrics import MISSED, Ranks, ranking_metrics

TOP = 20
BATCH_SIZE = 512

Items = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Evaluation:
    """Percent, but popularity in clicks; once with nothing masked, once without the session's items."""

    cases: int
    unmasked: dict[str, float]
    unseen_only: dict[str, float]
    clicks: Items  # (n,) training clicks of each item of the bundle
    answered: Items  # (n,) how often it was among the 20, nothing masked


def evaluate(bundle: Bundle, data: Dataset, sessions: Sessions) -> Evaluation:
    """Every proper prefix of every session is one case; its target is the next click, known or not.

    Clicks on items outside the bundle are skipped, and a prefix without any known item is answered with the
    most popular items: what the service does. `coverage@20` is the share of items ever answered,
    `popularity@20` the mean number of training clicks of an answered item.
    """
    to_bundle = np.array([0, *(bundle.index_of.get(item_id, 0) for item_id in data.items)])
    known = Sessions(to_bundle[sessions.items].astype(np.int32), sessions.offsets, bundle.manifest.n_items)
    clicks = np.bincount(to_bundle[data.train_all.items], minlength=bundle.manifest.n_items + 1)
    examples = Examples.of(known, "prefixes", bundle.encoder.max_length)
    unmasked, unseen_only = _Tally(clicks), _Tally(clicks)
    for indices in examples.in_order(BATCH_SIZE):
        batch = examples.batch(indices)
        prefixes, targets = _skip_unknown(batch.sessions.numpy()), batch.targets.numpy()
        scores, items = answer(bundle, prefixes, TOP + 1 + prefixes.shape[1])
        unmasked.add(scores[:, : TOP + 1], items[:, : TOP + 1], targets)
        unseen_only.add(*_leave_out(scores, items, prefixes), targets)
    return Evaluation(
        len(examples), unmasked.metrics(), unseen_only.metrics(), clicks[1:], unmasked.answered[1:]
    )


def answer(bundle: Bundle, prefixes: Items, k: int) -> tuple[npt.NDArray[np.float32], Items]:
    """Scores and items (B, k) for (B, L) right-padded prefixes; a row of PAD gets the most popular items."""
    k = min(k, bundle.manifest.n_items)
    scores = np.tile(np.arange(0, -k, -1, dtype=np.float32), (len(prefixes), 1))
    items = np.tile(np.arange(1, k + 1, dtype=np.int64), (len(prefixes), 1))
    encoded = prefixes[:, 0] > 0
    if encoded.any():
        vectors = bundle.encoder.encode_padded(np.ascontiguousarray(prefixes[encoded]))
        scores[encoded], items[encoded] = bundle.retriever.search(vectors, k)
    return scores, items


def rank_in(scores: npt.NDArray[np.float32], items: Items, targets: Items) -> Ranks:
    """Pessimistic rank of each target in its row of at least 21 best items; `MISSED` when it is not there.

    One more item than the cut-off is enough: a target that ties with the 21st cannot count as a hit.
    """
    hit = (items == targets[:, None]) & (targets[:, None] > 0)  # (B, k)
    of_target = np.where(hit, scores, np.inf).min(1)
    ranks = (scores >= of_target[:, None]).sum(1)
    return np.where(hit.any(1), ranks, MISSED)


class _Tally:
    """Ranks and recommended items, added up batch by batch."""

    def __init__(self, clicks: Items) -> None:
        self._clicks = clicks  # (n + 1,) training clicks of each item
        self._ranks: list[Ranks] = []
        self.answered = np.zeros(len(clicks), dtype=np.int64)

    def add(self, scores: npt.NDArray[np.float32], items: Items, targets: Items) -> None:
        self._ranks.append(rank_in(scores, items, targets))
        self.answered += np.bincount(items[:, :TOP].ravel(), minlength=len(self.answered))

    def metrics(self) -> dict[str, float]:
        answered = self.answered[1:]
        return {
            **ranking_metrics(np.concatenate(self._ranks)),
            f"coverage@{TOP}": 100 * float((answered > 0).mean()),
            f"popularity@{TOP}": float(answered @ self._clicks[1:] / answered.sum()),
        }


def _skip_unknown(prefixes: Items) -> Items:
    """Move the known clicks of each row to its front, in order; unknown ones become padding."""
    order = np.argsort(prefixes == 0, axis=1, kind="stable")
    return np.take_along_axis(prefixes, order, 1)


def _leave_out(
    scores: npt.NDArray[np.float32], items: Items, prefixes: Items
) -> tuple[npt.NDArray[np.float32], Items]:
    """The first 21 of each row that its own session does not hold."""
    seen = (items[:, :, None] == prefixes[:, None, :]).any(2)  # (B, k)
    order = np.argsort(seen, axis=1, kind="stable")[:, : TOP + 1]
    kept = np.where(seen, -np.inf, scores).astype(np.float32)
    return np.take_along_axis(kept, order, 1), np.take_along_axis(items, order, 1)
