"""What goes into content.npz: a regression from items' attributes to their vectors, and its calibration.

A predicted vector is drawn to the mean, so its cosines say less than those of a learned one. How much less is
measured: a tenth of the known items is held back, its vectors are predicted from those of all others, and
real sessions are answered. Scale and offset are those by which most of all next clicks are then found, with
the items held back in at least a tenth, and at most all, of the share of the places in the top 20 that they
have of the next clicks: they neither flood the answers nor vanish from them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import sparse

from models.base import Head
from models.sessions import Sessions
from service.ranking.content import (
    EMBEDDING,
    MAX_FEATURES,
    UNREAD,
    Calibration,
    Content,
    Digests,
    Values,
    digested,
    embedding_of,
    unit,
)
from service.ranking.retriever import Items, Vectors

if TYPE_CHECKING:
    from sklearn.linear_model import Ridge

TOP = 20
MIN_ITEMS = 50  # with attributes, to learn from
MAX_ITEMS = 100_000  # the most clicked: more take hours, and say little more
MIN_SUPPORT = 2  # items that a feature needs
ALPHAS = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
SCALES = (0.7, 1.0, 1.4, 2.0)  # beyond, scores would no longer be like cosines
SHARES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # of the places, as multiples of the share of the next clicks
CASES = 4096
HELD_BACK = 0.1  # of the items, at a time
MAX_HELD_BACK = 5000
ROUNDS = 3
SCORES_AT_ONCE = 1 << 24
READ = frozenset({"text", "string", "strings", "number", "bool"})  # kinds

Floats = npt.NDArray[np.float64]


class ContentError(ValueError):
    """No content can be learned; the message says why."""


@dataclass(frozen=True)
class Attributes:
    """What is said of items, and of which kind each attribute is.

    `cold_share` is how large a share of the places items shall have that no model has seen, as a multiple of
    their share of the next clicks; None: the one by which most of all clicks are found. Where content is
    `optional`, there may be too little to learn it from.
    """

    kinds: Mapping[str, str]
    items: Mapping[str, Values]
    cold_share: float | None = None
    optional: bool = False


@dataclass(frozen=True)
class Cases:
    """Real sessions: their vectors, as served, and the item index that was clicked next."""

    queries: Vectors  # (B, D)
    targets: Items  # (B,)


def newest_cases(sessions: Sessions) -> tuple[list[list[int]], Items]:
    """The newest prefixes, and the click after each."""
    prefixes: list[list[int]] = []
    targets: list[int] = []
    for number in range(len(sessions) - 1, -1, -1):
        clicked = sessions.items[sessions.offsets[number] : sessions.offsets[number + 1]].tolist()
        for place in range(1, len(clicked)):
            prefixes.append(clicked[:place])
            targets.append(clicked[place])
        if len(targets) >= CASES:
            break
    return prefixes[:CASES], np.array(targets[:CASES], np.int64)


def fit_content(
    vectors: Vectors, head: Head, items: Sequence[str], clicks: Items, said: Attributes, cases: Cases
) -> Content:
    """Learn from (n, D) vectors of `items`, which were clicked so often. Raises `ContentError`."""
    kinds = {
        name: kind
        for name, kind in said.kinds.items()
        if name not in UNREAD and kind in READ and any(name in values for values in said.items.values())
    }
    known = [row for row, item_id in enumerate(items) if item_id in said.items]
    known = sorted(sorted(known, key=lambda row: -clicks[row])[:MAX_ITEMS])
    described = _describe([said.items[items[row]] for row in known], kinds)
    has_any = np.flatnonzero(np.diff(described.matrix.indptr))
    if len(has_any) < MIN_ITEMS:
        raise ContentError(
            f"of {len(has_any)} of the {len(items)} items there are attributes that others have, too:"
            f" {MIN_ITEMS} are the least that content is learned from"
        )
    rows = np.array(known)[has_any]
    learning = _Learning(described.matrix[has_any], vectors[rows], np.sqrt(clicks[rows] + 1.0), head)
    random = np.random.default_rng(0)
    alpha = learning.best_alpha(random)
    calibration, measured = _calibrated(learning, alpha, rows, vectors, cases, said.cold_share, random)
    ridge = learning.fit(np.arange(len(rows)), alpha)
    return Content(
        kinds,
        head,
        calibration,
        described.digests,
        ridge.coef_.T.astype(np.float16),
        ridge.intercept_.astype(np.float32),
        {"items": float(len(rows)), "alpha": alpha, **measured},
    )


@dataclass(frozen=True)
class _Described:
    digests: Digests  # (F,), ascending
    matrix: sparse.csr_matrix  # (n, F + E)


def _describe(items: Sequence[Values], kinds: Mapping[str, str]) -> _Described:
    found = [list(digested(values, kinds)) for values in items]
    support = Counter(digest for each in found for digest in {digest for digest, _ in each})
    kept = [digest for digest, n in support.most_common(MAX_FEATURES) if n >= MIN_SUPPORT]
    digests = np.sort(np.array(kept, np.uint64))
    column = {digest: place for place, digest in enumerate(digests.tolist())}
    entries = [
        (weight, row, column[digest])
        for row, each in enumerate(found)
        for digest, weight in each
        if digest in column
    ]
    weights, rows, columns = zip(*entries, strict=True) if entries else ((), (), ())
    matrix = sparse.csr_matrix((weights, (rows, columns)), (len(items), len(digests)), np.float32)
    dim = _embedding_dim(items)
    if dim:
        nothing = np.zeros(dim, np.float32)
        dense = [nothing if (each := embedding_of(values, dim)) is None else each for values in items]
        matrix = sparse.hstack([matrix, sparse.csr_matrix(np.array(dense))], format="csr")
    return _Described(digests, matrix)


def _embedding_dim(items: Sequence[Values]) -> int:
    """The length that most embeddings have; 0 if there are none."""
    lengths = Counter(len(value) for values in items if isinstance(value := values.get(EMBEDDING), list))
    return lengths.most_common(1)[0][0] if lengths else 0


@dataclass(frozen=True)
class _Learning:
    """What is learned from: row i of each is of one item."""

    matrix: sparse.csr_matrix
    vectors: Vectors
    weights: Floats  # much-clicked items' vectors are known better
    head: Head

    def fit(self, rows: Items, alpha: float) -> Ridge:
        from sklearn.linear_model import Ridge  # takes two seconds: most trainings are told of no attributes

        ridge = Ridge(alpha, solver="sparse_cg", tol=1e-3)
        weights = self.weights[rows] / self.weights[rows].mean()
        return ridge.fit(self.matrix[rows], self.vectors[rows], sample_weight=weights)

    def predict(self, ridge: Ridge, rows: Items) -> Vectors:
        return unit(ridge.predict(self.matrix[rows]).astype(np.float32), self.head)

    def best_alpha(self, random: np.random.Generator) -> float:
        """The strength at which predictions of items held back point nearest to where these lie."""
        order = random.permutation(len(self.vectors))
        back, others = np.split(order, [len(order) // 5])
        stop = -1 if self.head == "native" else None  # its filler says nothing

        def cosine(alpha: float) -> float:
            predicted, true = self.predict(self.fit(others, alpha), back)[:, :stop], self.vectors[back, :stop]
            lengths = np.linalg.norm(predicted, axis=1) * np.linalg.norm(true, axis=1)
            cosines = (predicted * true).sum(1) / np.maximum(lengths, 1e-9)
            return float(np.average(cosines, weights=self.weights[back]))

        return max(ALPHAS, key=cosine)


@dataclass(frozen=True)
class _Round:
    """Answers while some items are held back, for each case: the best of the others, the best of these."""

    warm: Vectors  # (B, 20) scores, best first
    cold: Vectors  # (B, <= 20)
    warm_place: Items  # (B,) where the target stands in `warm`, or 20
    cold_place: Items  # (B,) likewise in `cold`
    is_cold: npt.NDArray[np.bool_]  # (B,) whether the target was held back

    def places(self, calibration: Calibration) -> tuple[npt.NDArray[np.bool_], Items]:
        """Which of `cold` stand in the merged top 20 (B, 20), and how many those are."""
        scores = self.cold * np.float32(calibration.scale) + np.float32(calibration.offset)
        # The j-th of the cold ones is among the best 20 if at most 20 - j of the others are better.
        within = scores > self.warm[:, ::-1][:, : scores.shape[1]]
        return within, within.sum(1)


def _calibrated(
    learning: _Learning,
    alpha: float,
    rows: Items,
    vectors: Vectors,
    cases: Cases,
    cold_share: float | None,
    random: np.random.Generator,
) -> tuple[Calibration, dict[str, float]]:
    size = min(max(int(HELD_BACK * len(rows)), 1), MAX_HELD_BACK)
    order = random.permutation(len(rows))
    rounds = []
    for number in range(ROUNDS):
        back = order[number * size : (number + 1) * size]
        predicted = learning.predict(learning.fit(np.setdiff1d(order, back), alpha), back)
        rounds.append(_round(vectors, rows[back], predicted, cases))
    wanted = float(np.mean([each.is_cold.mean() for each in rounds]))
    if not wanted:
        raise ContentError("none of the items that were held back is clicked next in any newest session")
    shares = SHARES if cold_share is None else (cold_share,)
    tried = [
        Calibration(scale, _offset(rounds, scale, share * wanted)) for scale in SCALES for share in shares
    ]
    best = max(tried, key=lambda each: _recalls(rounds, each)["all"])
    found = _recalls(rounds, best)
    without = np.concatenate([each.warm_place[~each.is_cold] < TOP for each in rounds])
    measured = {
        "share of next clicks": 100 * wanted,
        "share of places": 100 * _share(rounds, best),
        "recall@20 of items held back": 100 * found["cold"],
        "recall@20 of the others without them": 100 * float(without.mean()),
        "recall@20 of the others beside them": 100 * found["warm"],
    }
    return best, measured


def _round(vectors: Vectors, back: Items, predicted: Vectors, cases: Cases) -> _Round:
    """`back` are rows of `vectors`; their own are not looked at, but those that are `predicted`."""
    row_of = np.full(len(vectors), -1)
    row_of[back] = np.arange(len(back))
    targets = cases.targets - 1
    parts = []
    at_once = max(1, SCORES_AT_ONCE // len(vectors))
    for start in range(0, len(targets), at_once):
        queries = cases.queries[start : start + at_once]
        scores = queries @ vectors.T
        scores[:, back] = -np.inf
        parts.append((*_best(scores), *_best(queries @ predicted.T)))
    warm, warm_items, cold, cold_items = map(np.concatenate, zip(*parts, strict=True))
    cold_targets = row_of[targets]
    return _Round(
        warm,
        cold,
        _place(warm_items, targets),
        np.where(cold_targets >= 0, _place(cold_items, cold_targets), TOP),
        cold_targets >= 0,
    )


def _best(scores: Vectors) -> tuple[Vectors, Items]:
    top = min(TOP, scores.shape[1])
    found = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    found = np.take_along_axis(found, np.argsort(-np.take_along_axis(scores, found, 1), axis=1), 1)
    return np.take_along_axis(scores, found, 1), found


def _place(items: Items, targets: Items) -> Items:
    hit = items == targets[:, None]
    return np.where(hit.any(1), hit.argmax(1), TOP)


def _share(rounds: Sequence[_Round], calibration: Calibration) -> float:
    """Of all places, how many are taken by items that were held back."""
    return float(np.mean([each.places(calibration)[1].mean() / TOP for each in rounds]))


def _recalls(rounds: Sequence[_Round], calibration: Calibration) -> dict[str, float]:
    """Recall@20 of the merged answers: of items held back, of the others, and of all."""
    hits = []
    for each in rounds:
        cold = each.places(calibration)[1]
        hits.append(np.where(each.is_cold, each.cold_place < cold, each.warm_place < TOP - cold))
    found, is_cold = np.concatenate(hits), np.concatenate([each.is_cold for each in rounds])
    return {
        "cold": float(found[is_cold].mean()),
        "warm": float(found[~is_cold].mean()),
        "all": float(found.mean()),
    }


def _offset(rounds: Sequence[_Round], scale: float, wanted: float) -> float:
    """The one at which the share of places is as wanted; it grows with the offset."""
    low, high = -8.0, 8.0  # cosines times a scale lie within half of it
    for _ in range(40):
        middle = (low + high) / 2
        if _share(rounds, Calibration(scale, middle)) < wanted:
            low = middle
        else:
            high = middle
    return low
