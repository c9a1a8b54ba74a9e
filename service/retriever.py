"""The retriever: nearest items by inner product. The only module of the service that imports faiss."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

HNSW_NEIGHBOURS = 32
HNSW_EF_CONSTRUCTION = 200
HNSW_EF_SEARCH = 128
OVER_FETCH = 256  # up to this many exclusions are searched past; more are filtered inside an exact search

Scores = npt.NDArray[np.float32]
Items = npt.NDArray[np.int64]


class Retriever:
    """A FAISS index over L2-normalised item vectors, answering in item indices (1..n, never PAD)."""

    def __init__(self, index: faiss.Index, ef_search: int | None = None) -> None:
        self._index = index
        self._hnsw = isinstance(index, faiss.IndexHNSW)
        if self._hnsw:
            index.hnsw.efSearch = ef_search or HNSW_EF_SEARCH
        self.n_items = int(index.ntotal)
        self.dim = int(index.d)

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

    def search(self, vectors: npt.NDArray[np.float32], k: int) -> tuple[Scores, Items]:
        """The k nearest items of each of (B, D) vectors: scores and item indices, both (B, min(k, n))."""
        scores, ids = self._index.search(vectors, min(k, self.n_items))
        return scores, ids + 1

    def search_excluding(self, vector: Scores, k: int, excluded: Collection[int]) -> tuple[Scores, Items]:
        """The k nearest items of one (D,) vector that are not in `excluded`; never fewer when k exist."""
        query = vector[None, :]
        if not excluded:
            scores, items = self.search(query, k)
            return scores[0], items[0]
        if len(excluded) <= OVER_FETCH:
            scores, items = self.search(query, k + len(excluded))
            keep = ~np.isin(items[0], np.fromiter(excluded, dtype=np.int64, count=len(excluded)))
            return scores[0][keep][:k], items[0][keep][:k]
        ids = np.fromiter(excluded, dtype=np.int64, count=len(excluded)) - 1
        allowed = np.ones(self.n_items, dtype=bool)
        allowed[ids] = False
        return self._search_exact(query, min(k, int(allowed.sum())), allowed)

    def search_similar(self, item: int, k: int) -> tuple[Scores, Items]:
        """The k items nearest to one item index, itself left out."""
        return self.search_excluding(self._index.reconstruct(item - 1), k, (item,))

    def exact(self) -> Retriever:
        """The same vectors behind exact search: the yardstick of an approximate index."""
        return Retriever(self._storage()) if self._hnsw else self

    def _storage(self) -> faiss.IndexFlat:
        return faiss.downcast_index(self._index.storage) if self._hnsw else self._index

    def _search_exact(
        self, query: npt.NDArray[np.float32], k: int, allowed: npt.NDArray[np.bool_]
    ) -> tuple[Scores, Items]:
        selector = faiss.IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
        parameters = faiss.SearchParameters(sel=selector)
        scores, ids = self._storage().search(query, k, params=parameters)
        return scores[0], ids[0] + 1


def use_one_thread() -> None:
    """Serve with one FAISS thread per process: the service scales by workers."""
    faiss.omp_set_num_threads(1)
