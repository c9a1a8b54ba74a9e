"""The retriever: nearest items by inner product. The only module of the service that imports faiss."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence, Set
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
import numpy.typing as npt

HNSW_NEIGHBOURS = 32
HNSW_EF_CONSTRUCTION = 200
HNSW_EF_SEARCH = 128
IVF_PROBES = 32
IVF_ITERATIONS = 10  # of k-means
IVF_POINTS = 64  # to learn a centre from, at most
MIN_PER_LIST = 39  # items
CODE_BLOCK = 8  # dimensions; codes of another multiple are decoded one by one, 7 to 9 times slower
OVER_FETCH = 256  # up to this many exclusions of one query are searched past and dropped
OVER_FETCH_STEP = 8  # depths are rounded up to it, so that queries of a batch share their search
UNIT_TOLERANCE = 1e-2  # of lengths: enough for any rounding
PROVEN_AT_ONCE = 16_384
# Where some items are hidden, an approximate search finds so many times the items of which the wanted ones
# would be left on average, looks at so much of the index for it, and those that are visible are kept. One
# that is told what it may find loses recall instead, without a word, where the hidden items lie close to
# each other, as those of a category do: it looks at what is near, and little of that is visible.
SIFT_MARGIN = 1.5
SIFT_BREADTH = 0.6  # times what it finds
MIN_SIFTED = 0.4  # share of items that are visible; below it, an approximate search is left for an exact one
MIN_SIFTED_LISTS = 0.15  # likewise, of an index of lists: to search one exactly takes longer
DEEPER = 4  # times as deep a search follows one that found too few
DEEPEST = 500  # visible items for each that such a search wants: with fewer, an exact one is hardly dearer
FEW = 2048  # visible items, or one in FEW_SHARE: only these are looked at, one after the other
FEW_SHARE = 5
BY_ONE_SHARE = 0.5  # of items that are looked at one by one where a search is exact
FEW_DECODED = 1024  # where a search decodes vectors, theirs are kept: at 128 dimensions half a megabyte
DECODED_AFTER = 4  # searches: it costs as much as three, and most rules about a session are asked once

Kind = Literal["flat", "hnsw", "ivf-sq", "ivf-pq"]
Codes = Literal["fp16", "sq8"]  # of ivf-sq: two bytes for each dimension, or one

Scores = npt.NDArray[np.float32]
Items = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]  # (n + 1,), by item index; PAD's is not looked at

CLASSES: dict[Kind, type[faiss.Index]] = {
    "flat": faiss.IndexFlat,
    "hnsw": faiss.IndexHNSWFlat,
    "ivf-sq": faiss.IndexIVFScalarQuantizer,
    "ivf-pq": faiss.IndexIVFPQ,
}


class Retriever:
    """A FAISS index over L2-normalised item vectors, answering in item indices (1..n, never PAD).

    `dim` is that of the vectors: an index of codes pads them with zeros. `breadth` is how much of an
    approximate index one search looks at: HNSW's efSearch, or the lists that IVF reads. Only `visible` items
    are answered, though the index holds them all: they are sifted out of what an approximate search finds;
    where they are few, they alone are looked at.
    """

    def __init__(
        self,
        index: faiss.Index,
        dim: int | None = None,
        breadth: int | None = None,
        visible: Mask | None = None,
        *,
        exact: bool = False,
    ) -> None:
        self._index = index
        self._hnsw = isinstance(index, faiss.IndexHNSW)
        self._ivf = isinstance(index, faiss.IndexIVF)
        self._needs_map = self._ivf  # from items to lists, or it has not been asked whether there is one
        self.n_items = int(index.ntotal)
        self._width = int(index.d)
        self.dim = dim if self._ivf and dim and padded(dim) == self._width else self._width
        self._breadth = breadth or (IVF_PROBES if self._ivf else HNSW_EF_SEARCH)
        self._all_visible = visible is None
        self._visible = np.ones(self.n_items, dtype=bool) if visible is None else visible[1:]
        self._n_visible = int(np.count_nonzero(self._visible))
        self._exact = exact
        is_approximate = (self._hnsw or self._ivf) and not exact
        self._few = visible is not None and self._n_visible <= self._most_to_look_at(exact=not is_approximate)
        self._decoded: tuple[Items, Vectors] | None = None  # of the few, once they have been asked for often
        self._n_searched = 0
        self._stored: Vectors | None = None  # the index's own memory, once single vectors have been asked for
        least = MIN_SIFTED_LISTS if self._ivf else MIN_SIFTED
        many = not self._few and self._n_visible >= least * self.n_items
        self._sifted = _without_pad(visible) if visible is not None and is_approximate and many else None
        # What else `search` asks, and how.
        exact = not is_approximate or not many
        self._searched = self._storage() if exact else index
        selector = None if visible is None or self._sifted is not None else self._selector(self._visible)
        self._parameters = self._search_parameters(self._breadth, selector, exact=exact)
        self._sieves: dict[
            tuple[int, int], faiss.SearchParameters | None
        ] = {}  # by depth, and how much further

    @classmethod
    def build(cls, vectors: Vectors, kind: Kind, codes: Codes = "fp16") -> Retriever:
        """Index (n, D) L2-normalised vectors; row i is item index i + 1. `codes` is for ivf-sq alone."""
        n_items, dim = vectors.shape
        if kind == "flat":
            index = faiss.IndexFlatIP(dim)
        elif kind == "hnsw":
            index = faiss.IndexHNSWFlat(dim, HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        else:
            vectors, index = _pad(vectors, padded(dim)), _untrained(n_items, padded(dim), kind, codes)
            index.train(vectors)
        index.add(vectors)
        return cls(index, dim)

    @classmethod
    def load(cls, file: Path, kind: Kind, dim: int | None = None, breadth: int | None = None) -> Retriever:
        """Memory-map an index file, so that workers share its pages. Raises `ValueError`."""
        # The one flag maps vectors and graphs, but copies lists; the other one the reverse.
        flag = faiss.IO_FLAG_MMAP if kind.startswith("ivf") else faiss.IO_FLAG_MMAP_IFC
        try:
            index = faiss.read_index(str(file), flag)
        except RuntimeError as error:
            raise ValueError(f"faiss cannot read it: {error}") from error
        if not isinstance(index, CLASSES[kind]):
            raise ValueError(f"{type(index).__name__} is not an index of kind {kind}")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("its metric is not the inner product")
        if isinstance(index, faiss.IndexIVF):
            # Else faiss starts threads that read ahead for every search: 0.6 to 2 ms instead of 0.03 ms.
            faiss.downcast_InvertedLists(index.invlists).prefetch_nthread = 0
        return cls(index, dim, breadth)

    def save(self, file: Path) -> None:
        """Write the index in FAISS's own format."""
        faiss.write_index(self._index, str(file))

    def searching(self, breadth: int) -> Retriever:
        """A retriever over the same index that looks at more of it, or less."""
        return Retriever(self._index, self.dim, breadth, self._mask())

    def only(self, visible: Mask) -> Retriever:
        """A retriever over the same index that answers no others."""
        return Retriever(self._index, self.dim, self._breadth, visible, exact=self._exact)

    @property
    def holds_vectors(self) -> bool:
        """Whether the vectors are stored as they are, and not as codes."""
        return not self._ivf

    @property
    def breadth(self) -> int | None:
        """How much of an approximate index one search looks at; None where it is all of it."""
        return self._breadth if self._hnsw or self._ivf else None

    @property
    def n_lists(self) -> int | None:
        """Of an IVF index."""
        return int(self._index.nlist) if self._ivf else None

    def visible(self) -> Items:
        """The items that may be answered, in order."""
        return np.flatnonzero(self._visible) + 1

    def search(self, vectors: Vectors, k: int) -> tuple[Scores, Items]:
        """The k nearest items of each of (B, D) vectors: scores and item indices, both (B, min(k, n)).

        An approximate index may find fewer; the rest of its row is then item 0 (PAD).
        """
        if self._few and self._ivf:
            self._n_searched += len(vectors)
            if self._n_searched >= DECODED_AFTER:
                return self._search_decoded(vectors, min(k, self._n_visible), self._decode())
        if self._sifted is not None:
            return self._sift(vectors, min(k, self._n_visible), self._sifted)
        return self._search(self._searched, vectors, min(k, self._n_visible), self._parameters)

    def search_each(
        self, vectors: Vectors, ks: Sequence[int], excluded: Sequence[Collection[int]]
    ) -> list[tuple[Scores, Items]]:
        """Each of (B, D) vectors' own k nearest items that are not in its own `excluded`.

        Never fewer than k when k exist. Queries that have to look equally deep are searched together: one
        long list of exclusions shall not make an approximate search of all the others as deep.
        """
        depths = [_depth(k, len(out)) for k, out in zip(ks, excluded, strict=True)]
        if min(depths) == max(depths):
            scores, items = self.search(vectors, depths[0])
            return [self._best(*found) for found in zip(vectors, scores, items, ks, excluded, strict=True)]
        of_depth = defaultdict(list)
        for query, depth in enumerate(depths):
            of_depth[depth].append(query)
        answers: dict[int, tuple[Scores, Items]] = {}
        for depth, queries in of_depth.items():
            scores, items = self.search(vectors[queries], depth)
            for row, query in enumerate(queries):
                answers[query] = self._best(
                    vectors[query], scores[row], items[row], ks[query], excluded[query]
                )
        return [answers[query] for query in range(len(depths))]

    def search_excluding(self, vector: Scores, k: int, excluded: Collection[int]) -> tuple[Scores, Items]:
        """The k nearest items of one (D,) vector that are not in `excluded`; never fewer when k exist."""
        return self.search_each(vector[None, :], [k], [excluded])[0]

    def search_similar(self, item: int, k: int) -> tuple[Scores, Items]:
        """The k items nearest to one item index, itself left out."""
        return self.search_excluding(self.vector_of(item), k, (item,))

    def vector_of(self, item: int) -> Vectors:
        """The vector (D,) of one item, as it is stored."""
        # Without a map from items to lists, of 8 bytes an item in every worker, an IVF index looks through
        # the ids of all its lists.
        vector: Vectors = self._index.reconstruct_n(item - 1, 1)[0, : self.dim]
        return vector

    def vectors(self) -> Scores:
        """A copy of all item vectors, (n, D), as they are stored: row i is item index i + 1."""
        vectors: Scores = self._storage().reconstruct_n(0, self.n_items)
        return np.ascontiguousarray(vectors[:, : self.dim])

    def ready_vectors(self) -> None:
        """Be ready to look up vectors: an index of lists needs a map to them, of 8 bytes an item."""
        if self._needs_map:
            if self._index.direct_map.type == faiss.DirectMap.NoMap:
                self._index.make_direct_map()
            self._needs_map = False

    def vectors_of(self, items: Items) -> Vectors:
        """The vectors of some items, (n, D), as they are stored; zero for PAD."""
        self.ready_vectors()
        vectors = np.zeros((len(items), self.dim), dtype=np.float32)
        known = np.flatnonzero(items)
        if len(known):
            index = self._index if self._ivf else self._storage()
            vectors[known] = index.reconstruct_batch(items[known] - 1)[:, : self.dim]
        return vectors

    def scores_of(self, vectors: Vectors, items: Sequence[Sequence[int]]) -> list[list[float]]:
        """What each of (B, D) vectors' own items score, none of them PAD; -inf for those that are hidden."""
        flat = np.array([*chain.from_iterable(items)], dtype=np.int64)
        if not len(flat):
            return [[] for _ in items]
        rows = flat - 1
        if self._ivf:
            self.ready_vectors()
            own = self._index.reconstruct_batch(rows)[:, : self.dim]
        else:
            if self._stored is None:
                storage = self._storage()
                memory = faiss.rev_swig_ptr(storage.get_xb(), self.n_items * self.dim)
                self._stored = memory.reshape(self.n_items, self.dim)
            own = self._stored[rows]  # (N, D)
        if len(items) == 1:
            scores = own @ vectors[0]
        else:
            scores = np.einsum("nd,nd->n", own, vectors.repeat([*map(len, items)], axis=0))
        if not self._all_visible:
            scores[~self._visible[rows]] = -np.inf
        flat_scores = iter(scores.tolist())
        return [[*islice(flat_scores, len(each))] for each in items]

    def problem(self, sample: int | None = None) -> str | None:
        """What makes some of the vectors useless, or None; without a sample, of all of them."""
        if self._ivf and (problem := self._problem_of_lists(sample)):
            return problem
        if not self._ivf or sample is None:
            storage, rows = self._storage(), spread(self.n_items, sample) - 1
            for start in range(0, len(rows), PROVEN_AT_ONCE):
                some = rows[start : start + PROVEN_AT_ONCE]
                if sample is None:
                    vectors = storage.reconstruct_n(int(some[0]), len(some))
                else:
                    vectors = storage.reconstruct_batch(some)
                if problem := self._problem_of(vectors, some + 1):
                    return problem
        return None

    def _problem_of(self, vectors: Vectors, items: Items) -> str | None:
        lengths = np.linalg.norm(vectors, axis=1)
        good = np.abs(lengths - 1) <= UNIT_TOLERANCE if self.holds_vectors else lengths > UNIT_TOLERANCE
        bad = np.flatnonzero(~(good & np.isfinite(lengths)))
        return f"the vector of item {items[bad[0]]} has length {lengths[bad[0]]:g}" if len(bad) else None

    def _problem_of_lists(self, sample: int | None) -> str | None:
        """Of an IVF index: which items its lists hold, and the first vector of each of them."""
        # Not by item: without a map from items to lists, each would be looked for in all of them.
        lists = faiss.downcast_InvertedLists(self._index.invlists)
        seen = np.zeros(self.n_items, dtype=bool)
        for number in (spread(self.n_lists or 0, sample) - 1).tolist():
            size = lists.list_size(number)
            if not size:
                continue
            rows = faiss.rev_swig_ptr(lists.get_ids(number), size)
            if rows.min() < 0 or rows.max() >= self.n_items:
                return f"list {number} holds items outside 1..{self.n_items}"
            seen[rows] = True
            vector = np.empty((1, self._width), dtype=np.float32)
            self._index.reconstruct_from_offset(number, 0, faiss.swig_ptr(vector))
            if problem := self._problem_of(vector, rows[:1] + 1):
                return problem
        return None if sample or seen.all() else f"no list holds item {int(np.argmin(seen)) + 1}"

    def exact(self) -> Retriever:
        """The vectors as they are stored, behind exact search: the yardstick of an approximate index."""
        return Retriever(self._index, self.dim, self._breadth, self._mask(), exact=True)

    def _best(
        self, query: Scores, scores: Scores, items: Items, k: int, excluded: Collection[int]
    ) -> tuple[Scores, Items]:
        """The first k of one query's answer that are not excluded, or a better answer if they are fewer."""
        if excluded:
            out = excluded if isinstance(excluded, Set) else set(excluded)
            kept = [row for row, item in enumerate(items.tolist()) if item and item not in out][:k]
            scores, items = scores[kept], items[kept]
            complete = len(items) == k
        else:
            scores, items = scores[:k], items[:k]
            complete = not len(items) or items[-1] > 0  # an answer that ends early ends in zeros
        return (scores, items) if complete else self._search_further(query, k, excluded)

    def _search_further(self, query: Scores, k: int, excluded: Collection[int]) -> tuple[Scores, Items]:
        """Of one query that found too few: deeper and deeper, as long as an exact search would cost more."""
        wanted, times = k + len(excluded), DEEPER
        while self._sifted is not None and wanted * times * DEEPEST <= self._n_visible:
            scores, items = (found[0] for found in self._sift(query[None, :], wanted, self._sifted, times))
            kept = np.flatnonzero((items > 0) & ~np.isin(items, _rows(excluded) + 1))[:k]
            if len(kept) == k:
                return scores[kept], items[kept]
            times *= DEEPER
        return self._search_exact(query, k, excluded)

    def _search_exact(self, query: Scores, k: int, excluded: Collection[int]) -> tuple[Scores, Items]:
        rows = _rows(excluded)
        if self._decoded is not None:
            items, vectors = self._decoded
            keep = ~np.isin(items, rows + 1)
            decoded = items[keep], vectors[keep]
            scores, items = self._search_decoded(query[None, :], min(k, len(decoded[0])), decoded)
        else:
            allowed = self._visible.copy()
            allowed[rows] = False
            parameters = self._search_parameters(self._breadth, self._selector(allowed), exact=True)
            storage, k = self._storage(), min(k, int(allowed.sum()))
            scores, items = self._search(storage, query[None, :], k, parameters)
        found = items[0] > 0  # all, unless the query is no number
        return scores[0][found], items[0][found]

    def _search_decoded(
        self, vectors: Vectors, k: int, decoded: tuple[Items, Vectors]
    ) -> tuple[Scores, Items]:
        items, decoded_vectors = decoded
        scores = vectors @ decoded_vectors.T  # (B, n)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, best, 1), items[best]

    def _decode(self) -> tuple[Items, Vectors]:
        """The few items that are visible, and their vectors."""
        if self._decoded is None:
            rows = np.flatnonzero(self._visible)
            if self._index.direct_map.type == faiss.DirectMap.NoMap:
                # 8 bytes an item; all that share the index share it, and it is made in one pass over the ids.
                self._index.make_direct_map()
            vectors = self._index.reconstruct_batch(rows)[:, : self.dim]
            self._decoded = rows + 1, np.ascontiguousarray(vectors)
        return self._decoded

    def _search(
        self, index: faiss.Index, vectors: Vectors, k: int, parameters: faiss.SearchParameters | None
    ) -> tuple[Scores, Items]:
        if k == 0:  # which faiss does not search for
            return np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
        if self.dim != self._width:
            vectors = _pad(vectors, self._width)
        scores, rows = index.search(vectors, k, params=parameters)
        rows += 1
        return scores, rows

    def _sift(self, vectors: Vectors, k: int, visible: Mask, times: int = 1) -> tuple[Scores, Items]:
        """The k nearest that are visible of what an approximate search finds, 0 where these are fewer.

        `times`: it looks so much further than would be enough, were hidden items spread evenly.
        """
        share = self._n_visible / self.n_items
        depth = min(math.ceil(SIFT_MARGIN * k * times / share), self.n_items)
        parameters = self._sieves.get((depth, times))
        if parameters is None:
            breadth = math.ceil(self._breadth * max(1.0, SIFT_BREADTH * SIFT_MARGIN / share) * times)
            parameters = self._search_parameters(breadth, None, exact=False)
            self._sieves[depth, times] = parameters
        scores, items = self._search(self._index, vectors, depth, parameters)
        is_visible = visible[items]
        if len(items) == 1:  # as most are, and two thirds of what follows is spared
            kept = np.flatnonzero(is_visible)[:k]
            if len(kept) == k:
                return scores[:, kept], items[:, kept]
        items[~is_visible] = 0
        rows, kept = np.arange(len(items))[:, None], np.argsort(items == 0, axis=1, kind="stable")[:, :k]
        return scores[rows, kept], items[rows, kept]

    def _search_parameters(
        self, breadth: int, selector: faiss.IDSelector | None, *, exact: bool
    ) -> faiss.SearchParameters | None:
        if self._ivf:
            return faiss.SearchParametersIVF(
                sel=selector, nprobe=int(self._index.nlist) if exact else breadth
            )
        if self._hnsw and not exact:
            return faiss.SearchParametersHNSW(sel=selector, efSearch=breadth)
        return faiss.SearchParameters(sel=selector) if selector is not None else None

    def _most_to_look_at(self, *, exact: bool) -> int:
        """So few items are looked at one after the other: about what a search looks at anyway, at most."""
        if self._ivf:
            return 0 if exact else FEW_DECODED
        return max(FEW, self.n_items // FEW_SHARE)

    def _selector(self, allowed: npt.NDArray[np.bool_]) -> faiss.IDSelector:
        """By one of them, an exact search asks of every item; by the other, only these are looked at."""
        if not self._ivf and self._n_visible <= BY_ONE_SHARE * self.n_items:
            return faiss.IDSelectorArray(np.flatnonzero(allowed))
        return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))

    def _mask(self) -> Mask | None:
        return None if self._all_visible else np.append(False, self._visible)

    def _storage(self) -> faiss.Index:
        """What is searched exactly."""
        return faiss.downcast_index(self._index.storage) if self._hnsw else self._index


def spread(n: int, sample: int | None) -> Items:
    """So many of 1..n, evenly spread, both ends among them; all of them for None."""
    return np.unique(np.linspace(1, n, min(n, sample or n)).round().astype(np.int64))


def padded(dim: int) -> int:
    """The dimensions of an index of codes over vectors of `dim`."""
    return -(-dim // CODE_BLOCK) * CODE_BLOCK


def use_one_thread() -> None:
    """Serve with one FAISS thread per process: the service scales by workers."""
    faiss.omp_set_num_threads(1)


@contextmanager
def search_threads(count: int) -> Iterator[None]:
    """Search with so many threads for a while, a worker has one, and then with as many as before."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _untrained(n_items: int, width: int, kind: Kind, codes: Codes) -> faiss.IndexIVF:
    # About 2.5 lists for each of sqrt(n): choosing lists and reading them then cost about the same.
    n_lists = max(1, min(2 ** round(math.log2(2.5 * math.sqrt(n_items))), n_items // MIN_PER_LIST))
    # Not polysemous (np): an ordering of centroids that serves another way to search, and is slow to learn.
    code = f"PQ{width // 2}np" if kind == "ivf-pq" else {"fp16": "SQfp16", "sq8": "SQ8"}[codes]
    index = faiss.index_factory(width, f"IVF{n_lists},{code}", faiss.METRIC_INNER_PRODUCT)
    for clustering in (index.cp, index.pq.cp) if kind == "ivf-pq" else (index.cp,):
        clustering.niter = IVF_ITERATIONS
        clustering.max_points_per_centroid = IVF_POINTS
        clustering.min_points_per_centroid = 1  # faiss would warn once for each of many clusterings
    return index


def _depth(k: int, n_excluded: int) -> int:
    return k + min(-(-n_excluded // OVER_FETCH_STEP) * OVER_FETCH_STEP, OVER_FETCH)


def _pad(vectors: Vectors, width: int) -> Vectors:
    wide = np.zeros((len(vectors), width), dtype=np.float32)
    wide[:, : vectors.shape[1]] = vectors
    return wide


def _without_pad(visible: Mask) -> Mask:
    visible = visible.copy()
    visible[0] = False
    return visible


def _rows(items: Collection[int]) -> Items:
    return np.fromiter(items, dtype=np.int64, count=len(items)) - 1


def all_but(n_items: int, hidden: Collection[int]) -> Mask:
    """The mask of all items but some."""
    visible = np.ones(n_items + 1, dtype=bool)
    visible[_rows(hidden) + 1] = False
    return visible
