"""Which index a bundle gets: the fastest of those that were measured to lose almost nothing.

What cannot win is not built: nothing approximate over a small catalogue, nothing beyond the memory limit, and
no product quantiser, which misses one in twenty of the 20 nearest, as long as scalar codes fit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Literal

import numpy as np
import numpy.typing as npt

from service.ranking.bundle import IndexInfo
from service.ranking.retriever import (
    HNSW_NEIGHBOURS,
    Codes,
    Kind,
    Retriever,
    Scores,
    Vectors,
    padded,
    search_threads,
)

TOP = 20
TIE = 1e-5  # two cosines closer than this may change places
MIN_RECALL = 0.99
INDEX_SESSIONS = 2000  # whose vectors decide
SURE = 2.0  # standard errors above MIN_RECALL that a breadth must reach: other sessions have other neighbours
APPROXIMATE_FROM = 5_000  # items: below, exact search takes less than 0.05 ms
MAX_HNSW_ITEMS = 100_000  # a graph of more takes minutes to build, and was slower than lists at every size
BREADTHS: dict[Kind, tuple[int, ...]] = {  # tried from the narrowest on, until one is sure to be good enough
    "hnsw": (32, 48, 64, 96, 128, 192, 256),
    "ivf-sq": (4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256),
    "ivf-pq": (16, 64, 256),
}
ROUNDS = 3  # of timing; the best counts, since whatever else the machine does only adds
TIMED_QUERIES = 100

Shares = npt.NDArray[np.float64]
IndexKind = Literal["auto", "flat", "hnsw", "ivf-sq", "ivf-pq"]


class NoIndexFits(ValueError):  # noqa: N818
    """No index is both small enough and good enough."""


@dataclass(frozen=True)
class WantedIndex:
    """What is asked of the index: a kind, or whichever is fastest; millions of bytes that it may take."""

    kind: IndexKind = "auto"
    max_mb: float | None = None


FASTEST = WantedIndex()


@dataclass(frozen=True)
class Candidate:
    """An index that may be built."""

    kind: Kind
    codes: Codes | None = None

    def __str__(self) -> str:
        return f"{self.kind} {self.codes}" if self.codes else self.kind

    def least_mb(self, n_items: int, dim: int) -> float:
        """What its vectors, ids and links take, in millions of bytes: a little less than the whole."""
        row_bytes = {
            "flat": 4 * dim,
            "hnsw": 4 * dim + 4 * 2 * HNSW_NEIGHBOURS,
            "ivf-sq": (1 if self.codes == "sq8" else 2) * padded(dim) + 8,
            "ivf-pq": padded(dim) // 2 + 8,
        }
        return n_items * row_bytes[self.kind] / 1e6


CANDIDATES = {
    "flat": [Candidate("flat")],
    "hnsw": [Candidate("hnsw")],
    "ivf-sq": [Candidate("ivf-sq", "fp16"), Candidate("ivf-sq", "sq8")],
    "ivf-pq": [Candidate("ivf-pq")],
}


@dataclass(frozen=True)
class MeasuredIndex:
    """An index that was built, with the least breadth that is sure to be good enough, or with the widest."""

    candidate: Candidate
    breadth: int | None  # None: it looks at everything
    n_lists: int | None
    recall: float
    p50_microseconds: float
    megabytes: float

    def info(self) -> IndexInfo:
        """What the manifest says of it."""
        is_ivf = self.n_lists is not None
        return IndexInfo(
            kind=self.candidate.kind,
            recall_at_20=self.recall,
            ef_search=None if is_ivf else self.breadth,
            codes=self.candidate.codes,
            n_lists=self.n_lists,
            n_probe=self.breadth if is_ivf else None,
            p50_microseconds=round(self.p50_microseconds, 1),
            megabytes=self.megabytes,
        )


def candidates(wanted: WantedIndex, n_items: int, dim: int) -> list[Candidate]:
    """What is worth building. Raises `NoIndexFits` when nothing can be small enough."""
    if wanted.kind != "auto":
        found = CANDIDATES[wanted.kind]
    elif n_items < APPROXIMATE_FROM:
        found = CANDIDATES["flat"]
    else:
        found = [*CANDIDATES["flat"], *CANDIDATES["ivf-sq"]]
        if n_items <= MAX_HNSW_ITEMS:
            found += CANDIDATES["hnsw"]
    if wanted.max_mb is None:
        return found
    limit = wanted.max_mb
    fitting = [candidate for candidate in found if candidate.least_mb(n_items, dim) <= limit]
    if not fitting and wanted.kind == "auto":
        found = [*found, *CANDIDATES["ivf-pq"]]
        fitting = [
            candidate for candidate in CANDIDATES["ivf-pq"] if candidate.least_mb(n_items, dim) <= limit
        ]
    if not fitting:
        needs = ", ".join(f"{candidate} {candidate.least_mb(n_items, dim):.1f} MB" for candidate in found)
        raise NoIndexFits(
            f"no index of {n_items:,} items of {dim} dimensions fits into {limit:g} MB; at least needed: "
            f"{needs}: raise --max-index-mb, or train with a smaller dim"
        )
    return fitting


def choose(measured: Sequence[MeasuredIndex], wanted: WantedIndex) -> MeasuredIndex:
    """The fastest that is small enough and good enough. Raises `NoIndexFits` that says what each reached."""
    good = [
        each
        for each in measured
        if each.recall >= MIN_RECALL and (wanted.max_mb is None or each.megabytes <= wanted.max_mb)
    ]
    if good:
        return min(good, key=lambda each: (each.p50_microseconds, each.megabytes))
    within = "" if wanted.max_mb is None else f" within {wanted.max_mb:g} MB"
    reached = ", ".join(
        f"{each.candidate} {each.recall:.4f} with {each.megabytes:.1f} MB" for each in measured
    )
    raise NoIndexFits(
        f"no index reaches recall@{TOP} >= {MIN_RECALL}{within}; reached: {reached}: choose --index auto or "
        "raise --max-index-mb"
    )


def build(candidate: Candidate, vectors: Vectors, file: Path) -> None:
    """Write one index over (n, D) item vectors."""
    Retriever.build(vectors, candidate.kind, candidate.codes or "fp16").save(file)


def write_index(
    vectors: Vectors,
    queries: Vectors,
    wanted: WantedIndex,
    file: Path,
    build: Callable[[Candidate, Vectors, Path], None] = build,
) -> IndexInfo:
    """Build what is worth it over (n, D) item vectors, measure it as served, and leave the best in `file`.

    `queries` are (B, D) vectors of real sessions. Raises `NoIndexFits`.
    """
    files = {
        candidate: file.with_name(f"{file.name}.{candidate}")
        for candidate in candidates(wanted, *vectors.shape)
    }
    nearest = nearest_scores(vectors, queries)
    try:
        found = {}
        for candidate, place in files.items():
            build(candidate, vectors, place)
            found[candidate] = narrowest(candidate, vectors, queries, nearest, place)
        timed = dict(zip(found, microseconds([served for served, _ in found.values()], queries), strict=True))
        best = choose(
            [
                MeasuredIndex(
                    candidate,
                    served.breadth,
                    served.n_lists,
                    recall,
                    timed[candidate],
                    files[candidate].stat().st_size / 1e6,
                )
                for candidate, (served, recall) in found.items()
            ],
            wanted,
        )
        files[best.candidate].rename(file)
    finally:
        for place in files.values():
            place.unlink(missing_ok=True)
    return best.info()


def narrowest(
    candidate: Candidate, vectors: Vectors, queries: Vectors, nearest: Scores, file: Path
) -> tuple[Retriever, float]:
    """The index as a worker loads it, no broader than it must be, and its recall."""
    served = Retriever.load(file, candidate.kind, vectors.shape[1])
    widest = served.n_lists or len(vectors)
    shares = np.zeros(len(queries))
    for breadth in BREADTHS.get(candidate.kind, (widest,)):
        served = served.searching(min(breadth, widest))
        shares = shares_found(served, vectors, queries, nearest)
        if shares.mean() - SURE * shares.std() / np.sqrt(len(queries)) >= MIN_RECALL:
            break
    return served, float(shares.mean())


def nearest_scores(vectors: Vectors, queries: Vectors) -> Scores:
    """What an item's score must be to belong to the 20 nearest, (B,), by exact search."""
    scores, _ = Retriever.build(vectors, "flat").search(queries, TOP)
    return scores[:, -1]


def shares_found(served: Retriever, vectors: Vectors, queries: Vectors, nearest: Scores) -> Shares:
    """Each query's share of its 20 nearest that are found, by the vectors' own scores; ties are forgiven."""
    _, items = served.search(queries, TOP)
    scores = np.einsum("bkd,bd->bk", vectors[items - 1], queries)
    shares: Shares = ((items > 0) & (scores >= nearest[:, None] - TIE)).mean(1)
    return shares


def microseconds(retrievers: Sequence[Retriever], queries: Vectors) -> list[float]:
    """Median of one search for one query on one thread; turn by turn, so that other work slows all alike."""
    best = [float("inf")] * len(retrievers)
    with search_threads(1):
        for _ in range(ROUNDS):
            for number, served in enumerate(retrievers):
                seconds = []
                for query in np.split(queries[:TIMED_QUERIES], len(queries[:TIMED_QUERIES])):
                    started = perf_counter()
                    served.search(query, TOP)
                    seconds.append(perf_counter() - started)
                best[number] = min(best[number], float(np.median(seconds)) * 1e6)
    return best
