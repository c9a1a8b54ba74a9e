"""The retriever: nearest items by inner product. The only module of the service that imports faiss."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

HNSW_NEIGHBOURS = 32
HNSW_EF_CONSTRUCTION = 200
HNSW_EF_SEARCH = 128
OVER_FETCH = 256  # up to this many exclusions of one query are searched past and dropped
MIN_HNSW_ALLOWED = 0.5  # share of items; below it, HNSW is left for exact search

Scores = npt.NDArray[np.float32]
Items = npt.NDArray[np.int64]


class Retriever:
    """A FAISS index over L2-normalised item vectors, answering in item indices (1..n, never PAD).

    `hidden` items are never answered; their vectors stay in the index.
    """

    def __init__(
        self, index: faiss.Index, ef_search: int | None = None, hidden: Collection[int] = frozenset()
    ) -> None:
        self._index = index
        self._hnsw = isinstance(index, faiss.IndexHNSW)
        self._ef_search = ef_search or HNSW_EF_SEARCH
        if self._hnsw:
            index.hnsw.efSearch = self._ef_search
        self.n_items = int(index.ntotal)
        self.dim = int(index.d)
        self._hidden = hidden
        self._visible = np.ones(self.n_items, dtype=bool)
        self._visible[_rows(hidden)] = False
        self._n_visible = int(self._visible.sum())
        # What `search` asks, and how: a walk that may keep few of the nodes it meets loses recall.
        walk = self._hnsw and self._n_visible >= MIN_HNSW_ALLOWED * self.n_items
        self._searched = index if walk else self._storage()
        self._parameters = None
        if hidden and walk:
            self._parameters = faiss.SearchParametersHNSW(
                sel=_selector(self._visible), efSearch=self._ef_search
            )
        elif hidden:
            self._parameters = faiss.SearchParameters(sel=_selector(self._visible))

    @classmethod
    def build(cls, vectors: npt.NDArray[np.float32], kind: str) -> Retriever:
        """Index (n, D) L2-normalised vectors; row i is item index i + 1. `kind` is flat or hnsw."""
        if kind == "flat":
            index = faiss.IndexFlatIP(vectors.shape[1])
        else:
            index = faiss.IndexHNSWFlat(vectors.shape[1], HNSW_NEIGHBOURS, faiss.METRIC_INNER_PRODUCT)
            index.hnsw.efConstruction = HNSW_EF_CONSTRUCTION
        index.add(vectors)
        return cls(index)

    @classmethod
    def load(cls, file: Path, ef_search: int | None = None) -> Retriever:
        """Memory-map an index file, so that workers share its pages. Raises `ValueError`."""
        try:
            index = faiss.read_index(str(file), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise ValueError(f"faiss cannot read it: {error}") from error
        if not isinstance(index, faiss.IndexFlat | faiss.IndexHNSWFlat):
            raise ValueError(f"{type(index).__name__} is neither a flat nor an HNSW index")
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError("its metric is not the inner product")
        return cls(index, ef_search)

    def save(self, file: Path) -> None:
        """Write the index in FAISS's own format."""
        faiss.write_index(self._index, str(file))

    def without(self, hidden: Collection[int]) -> Retriever:
        """A retriever over the same index that never answers `hidden`."""
        return Retriever(self._index, self._ef_search, hidden)

    def visible(self) -> Items:
        """The items that may be answered, in order."""
        return np.flatnonzero(self._visible) + 1

    def search(self, vectors: npt.NDArray[np.float32], k: int) -> tuple[Scores, Items]:
        """The k nearest items of each of (B, D) vectors: scores and item indices, both (B, min(k, n)).

        An HNSW index may find fewer; the rest of its row is then item 0 (PAD).
        """
        return _search(self._searched, vectors, min(k, self._n_visible), self._parameters)

    def search_each(
        self, vectors: npt.NDArray[np.float32], ks: Sequence[int], excluded: Sequence[Collection[int]]
    ) -> list[tuple[Scores, Items]]:
        """Each of (B, D) vectors' own k nearest items that are not in its own `excluded`, in one search.

        Never fewer than k when k exist.
        """
        depth = max(k + min(len(out), OVER_FETCH) for k, out in zip(ks, excluded, strict=True))
        found = []
        for query, scores, items, k, out in zip(
            vectors, *self.search(vectors, depth), ks, excluded, strict=True
        ):
            keep = items > 0
            if out:
                keep &= ~np.isin(items, np.fromiter(out, dtype=np.int64, count=len(out)))
            scores, items = scores[keep][:k], items[keep][:k]
            if len(items) < k:  # the HNSW walk ended early, or more was excluded than was searched past
                scores, items = self._search_exact(query, k, out)
            found.append((scores, items))
        return found

    def search_excluding(self, vector: Scores, k: int, excluded: Collection[int]) -> tuple[Scores, Items]:
        """The k nearest items of one (D,) vector that are not in `excluded`; never fewer when k exist."""
        return self.search_each(vector[None, :], [k], [excluded])[0]

    def search_similar(self, item: int, k: int) -> tuple[Scores, Items]:
        """The k items nearest to one item index, itself left out."""
        return self.search_excluding(self._index.reconstruct(item - 1), k, (item,))

    def vectors(self) -> Scores:
        """A copy of all item vectors, (n, D): row i is item index i + 1."""
        vectors: Scores = self._storage().reconstruct_n(0, self.n_items)
        return vectors

    def exact(self) -> Retriever:
        """The same vectors behind exact search: the yardstick of an approximate index."""
        return Retriever(self._storage(), hidden=self._hidden) if self._hnsw else self

    def _storage(self) -> faiss.IndexFlat:
        return faiss.downcast_index(self._index.storage) if self._hnsw else self._index

    def _search_exact(self, query: Scores, k: int, excluded: Collection[int]) -> tuple[Scores, Items]:
        allowed = self._visible.copy()
        allowed[_rows(excluded)] = False
        parameters = faiss.SearchParameters(sel=_selector(allowed))
        scores, items = _search(self._storage(), query[None, :], min(k, int(allowed.sum())), parameters)
        return scores[0], items[0]


def use_one_thread() -> None:
    """Serve with one FAISS thread per process: the service scales by workers."""
    faiss.omp_set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Search as a worker does for a while, and then with as many threads as before."""
    before = faiss.omp_get_max_threads()
    use_one_thread()
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _search(
    index: faiss.Index, vectors: npt.NDArray[np.float32], k: int, parameters: faiss.SearchParameters | None
) -> tuple[Scores, Items]:
    if k == 0:  # which faiss does not search for
        return np.empty((len(vectors), 0), np.float32), np.empty((len(vectors), 0), np.int64)
    scores, rows = index.search(vectors, k, params=parameters)
    return scores, rows + 1


def _rows(items: Collection[int]) -> Items:
    return np.fromiter(items, dtype=np.int64, count=len(items)) - 1


def _selector(allowed: npt.NDArray[np.bool_]) -> faiss.IDSelector:
    return faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
