"""Offline metrics through the served path: the bundle's own ranker, used as by a request."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.sessions import Sessions
from service.ranking.bundle import Bundle
from service.ranking.ranker import Ranked, Ranker
from service.ranking.retriever import Items, Scores
from training.baselines.counting import Counted
from training.data.dataset import Dataset, DatasetError
from training.learn.batches import Examples
from training.measure.metrics import MISSED, Ranks, mrr_at_k, ranking_metrics, recall_at_k

TOP = 20
BATCH_SIZE = 512
MARKS = 1 << 25  # bytes of a table that marks items of some sessions
LENGTHS = {"1": 1, "2": 2, "3": 3, "4": 4, "5-6": 6, "7-10": 10, "11+": np.iinfo(np.int64).max}


@dataclass(frozen=True)
class Evaluation:
    """Percent, but popularity in clicks; once with nothing masked, once without the session's items."""

    unmasked: dict[str, float]
    unseen_only: dict[str, float]
    clicks: Items  # (n,) training clicks of each item of the bundle
    answered: Items  # (n,) how often it was among the 20, nothing masked
    ranks: Ranks  # (cases,) of each target, nothing masked; in the sessions' order
    lengths: Items  # (cases,) clicks before each target
    cases_of: Items  # (sessions,) cases of each session

    @property
    def cases(self) -> int:
        return len(self.ranks)

    def by_length(self) -> dict[str, dict[str, float]]:
        """Recall@20 and MRR@20 of the cases with so many clicks before the target."""
        group = np.searchsorted(list(LENGTHS.values()), self.lengths)
        found = {}
        for number, name in enumerate(LENGTHS):
            ranks = self.ranks[group == number]
            if len(ranks):
                recall, mrr = 100 * recall_at_k(ranks, TOP), 100 * mrr_at_k(ranks, TOP)
                found[name] = {"cases": len(ranks), f"recall@{TOP}": recall, f"mrr@{TOP}": mrr}
        return found


def evaluate(bundle: Bundle, data: Dataset, sessions: Sessions) -> Evaluation:
    """Measure a bundle, whose items need not be those of the data set: by external id.

    Every proper prefix of every session is one case; its target is the next click, known or not. Clicks on
    items outside the bundle are skipped, and a prefix without any known item is answered with the most
    popular items: what the service does. `coverage@20` is the share of items ever answered, `popularity@20`
    the mean number of training clicks of an answered item. Raises `DatasetError` when there is no case.
    """
    to_bundle = np.array([0, *bundle.index_of.of(data.items)])
    return _evaluate(bundle.ranker, to_bundle, data, sessions)


def evaluate_counted(counted: Counted, data: Dataset, sessions: Sessions) -> Evaluation:
    """Measure a baseline of the data set's own items, in the same way."""
    return _evaluate(counted, np.arange(len(data.items) + 1), data, sessions)


def _evaluate(ranker: Ranker | Counted, index_of: Items, data: Dataset, sessions: Sessions) -> Evaluation:
    known = Sessions(index_of[sessions.items].astype(np.int32), sessions.offsets, ranker.n_items)
    clicks = np.bincount(index_of[data.train_all.items], minlength=ranker.n_items + 1)
    of_sessions = np.diff(sessions.offsets)
    examples = Examples.of(known, "prefixes", int(of_sessions.max(initial=1)))
    if not len(examples):
        raise DatasetError(f"{data.path}: no session to measure on has a second click")
    ranks = np.zeros(len(examples), dtype=np.int64)
    unmasked, unseen_only = _Tally(clicks), _Tally(clicks)
    for indices in examples.in_order(BATCH_SIZE):
        batch = examples.batch(indices)
        prefixes, targets = _skip_unknown(batch.sessions.numpy()), batch.targets.numpy()
        scores, items = answer(ranker, prefixes, TOP + 1 + prefixes.shape[1])
        ranks[indices] = unmasked.add(scores[:, : TOP + 1], items[:, : TOP + 1], targets)
        unseen_only.add(*_leave_out(scores, items, prefixes), targets)
    return Evaluation(
        unmasked.metrics(),
        unseen_only.metrics(),
        clicks[1:],
        unmasked.answered[1:],
        ranks,
        examples.length,
        np.maximum(of_sessions - 1, 0),
    )


def answer(ranker: Ranker | Counted, prefixes: Items, k: int) -> Ranked:
    """Scores and items (B, k) for (B, L) right-padded prefixes.

    What the ranker leaves open is filled with the most popular items; so is a row of PAD.
    """
    k = min(k, ranker.n_items)
    scores = np.full((len(prefixes), k), -np.inf, dtype=np.float32)
    items = np.zeros((len(prefixes), k), dtype=np.int64)
    asked = prefixes[:, 0] > 0
    if asked.any():
        found, best = ranker.search(prefixes[asked], k)
        scores[asked, : found.shape[1]], items[asked, : found.shape[1]] = found, best
    short = np.flatnonzero((items == 0).any(1))
    for part in np.array_split(short, -(-len(short) // BATCH_SIZE) or 1):
        _fill_up(scores, items, part)
    return scores, items


def _fill_up(scores: Scores, items: Items, rows: Items) -> None:
    """Put the most popular items that a row lacks where it holds 0, each below all before it."""
    k = items.shape[1]
    popular = np.arange(1, 2 * k + 1)  # of the first 2k, at most k are present already
    own = items[rows]  # (B, k)
    present = np.zeros((len(rows), 2 * k + 1), dtype=bool)
    np.put_along_axis(present, np.where(own <= 2 * k, own, 0), True, 1)
    order = np.argsort(present[:, 1:], axis=1, kind="stable")  # those not present first
    count = (own > 0).sum(1)
    column = np.arange(k)
    open_ = column >= count[:, None]
    nth = np.where(open_, column - count[:, None], 0)
    fill = popular[np.take_along_axis(order, nth, 1)]
    items[rows] = np.where(open_, fill, own)
    lowest = np.minimum(np.where(open_, np.inf, scores[rows]).min(1, initial=0), 0)
    scores[rows] = np.where(open_, lowest[:, None] - 1 - nth, scores[rows])


def rank_in(scores: Scores, items: Items, targets: Items) -> Ranks:
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

    def add(self, scores: Scores, items: Items, targets: Items) -> Ranks:
        self._ranks.append(rank_in(scores, items, targets))
        self.answered += np.bincount(items[:, :TOP].ravel(), minlength=len(self.answered))
        return self._ranks[-1]

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


def _held(items: Items, prefixes: Items, marks: int = MARKS) -> npt.NDArray[np.bool_]:
    """Which of each row's `items` (B, k) are in its prefix (B, L).

    By marking them in a table over the catalogue, a few rows at a time: to compare all with all takes
    k * L bytes a row, and k grows with the longest session.
    """
    held = np.empty(items.shape, dtype=bool)
    width = 1 + max(int(items.max(initial=0)), int(prefixes.max(initial=0)))
    rows = max(1, marks // width)
    for start in range(0, len(items), rows):
        part = slice(start, start + rows)
        marked = np.zeros((len(items[part]), width), dtype=bool)
        np.put_along_axis(marked, prefixes[part], True, 1)
        held[part] = np.take_along_axis(marked, items[part], 1)
    return held


def _leave_out(scores: Scores, items: Items, prefixes: Items) -> Ranked:
    """The first 21 of each row that its own session does not hold."""
    seen = _held(items, prefixes)  # (B, k)
    order = np.argsort(seen, axis=1, kind="stable")[:, : TOP + 1]
    kept = np.where(seen, -np.inf, scores).astype(np.float32)
    return np.take_along_axis(kept, order, 1), np.take_along_axis(items, order, 1)
