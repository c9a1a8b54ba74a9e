"""The retriever against brute force: whatever is hidden or excluded, the k best of the rest.

An index of codes is held to the vectors that its codes stand for, and those to the vectors that were indexed.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ranking.retriever import OVER_FETCH, Codes, Items, Kind, Retriever, Scores, Vectors, all_but
from tests.service.bundles import normalised
from tests.waiting import DEADLINE_SECONDS


@dataclass(frozen=True)
class Index:
    """A kind of index, and how far its vectors may lie from those that were indexed."""

    kind: Kind
    codes: Codes = "fp16"
    error: float = 0.0

    def build(self, vectors: Vectors) -> Retriever:
        return Retriever.build(vectors, self.kind, self.codes)

    def load(self, file: Path, dim: int) -> Retriever:
        return Retriever.load(file, self.kind, dim)

    def __str__(self) -> str:
        return f"{self.kind}-{self.codes}"


PLAIN = [Index("flat"), Index("hnsw")]
CODED = [Index("ivf-sq", "fp16", 0.001), Index("ivf-sq", "sq8", 0.01), Index("ivf-pq", error=1.0)]
FEW_ITEMS = [*PLAIN, *CODED[:2]]  # a product quantiser is learnt from 256 at least
SOME = 400  # items: ten lists
each_index = pytest.mark.parametrize("index", [*PLAIN, *CODED], ids=str)


def random_vectors(n: int, seed: int, dim: int = 10) -> Vectors:
    return normalised(np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32))


def check(
    vectors: Vectors, query: Scores, k: int, left_out: Collection[int], answer: tuple[Scores, Items]
) -> None:
    """The answer is the k best of what is not left out; which of two equal scores comes first is free."""
    scores, _ = answer
    allowed = np.setdiff1d(np.arange(1, len(vectors) + 1), list(left_out))
    best = np.sort(vectors[allowed - 1] @ query)[::-1][:k]
    check_valid(vectors, query, k, left_out, answer)
    np.testing.assert_allclose(scores, best, atol=1e-5)


def check_valid(
    vectors: Vectors, query: Scores, k: int, left_out: Collection[int], answer: tuple[Scores, Items]
) -> None:
    """As many items as there are, none twice and none left out, each with its score, best first."""
    scores, items = answer
    assert len(items) == min(k, len(vectors) - len(left_out))
    assert len(set(items.tolist())) == len(items)
    assert not set(items.tolist()) & set(left_out)
    assert (np.diff(scores) <= 0).all()
    np.testing.assert_allclose(vectors[items - 1] @ query, scores, atol=1e-5)


@pytest.mark.parametrize("index", FEW_ITEMS, ids=str)
@settings(deadline=None)
@given(data=st.data())
def test_the_k_best_of_the_rest(index: Index, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 50))  # so small that an approximate index, too, sees every item
    items = st.sets(st.integers(1, n))
    hidden, excluded = data.draw(items), data.draw(items)
    query, k = random_vectors(1, seed=99)[0], data.draw(st.integers(1, 60))
    built = index.build(random_vectors(n, seed=data.draw(st.integers(0, 5))))
    retriever = built.only(all_but(n, hidden))
    answer = retriever.search_excluding(query, k, excluded)
    check(retriever.vectors(), query, k, hidden | excluded, answer)


@each_index
def test_never_fewer_than_there_are(index: Index) -> None:
    built = index.build(random_vectors(SOME, seed=1)).searching(1)  # which finds as few as it can
    vectors, query = built.vectors(), random_vectors(1, seed=2)[0]

    @settings(deadline=None)
    @given(
        hidden=st.sets(st.integers(1, SOME)) | st.just(set(range(3, SOME))),
        excluded=st.sets(st.integers(1, SOME)) | st.just(set(range(1, 390))),
        k=st.integers(1, SOME + 10),
    )
    def every_answer_is_full(hidden: set[int], excluded: set[int], k: int) -> None:
        answer = built.only(all_but(SOME, hidden)).search_excluding(query, k, excluded)
        check_valid(vectors, query, k, hidden | excluded, answer)

    every_answer_is_full()
    assert len(built.search_excluding(query, SOME, ())[1]) == SOME


@each_index
@pytest.mark.parametrize("n_excluded", [1, OVER_FETCH, OVER_FETCH + 1, 390, SOME])
def test_the_nearest_are_excluded(index: Index, n_excluded: int) -> None:
    retriever = index.build(random_vectors(SOME, seed=1)).searching(SOME)
    query = random_vectors(1, seed=2)[0]
    nearest_first = (np.argsort(-(retriever.vectors() @ query)) + 1).tolist()
    excluded = nearest_first[:n_excluded]
    answer = retriever.search_excluding(query, 20, excluded)
    check(retriever.vectors(), query, 20, excluded, answer)


@each_index
@pytest.mark.parametrize("share", [0.3, 0.95])
def test_the_best_are_found_however_much_is_hidden(index: Index, share: float) -> None:
    built = index.build(random_vectors(3000, seed=3, dim=16)).searching(64)
    hidden = set((np.flatnonzero(np.random.default_rng(4).random(3000) < share) + 1).tolist())
    visible = all_but(3000, hidden)
    retriever, exact = built.only(visible), built.exact().only(visible)
    queries = random_vectors(50, seed=5, dim=16)
    found, right = retriever.search(queries, 20)[1], exact.search(queries, 20)[1]
    recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), right.tolist(), strict=True)])
    assert recall >= 0.99
    assert not hidden & set(found.ravel().tolist())


@each_index
@pytest.mark.parametrize("share", [0.15, 0.5, 0.7, 0.82])
def test_nothing_is_missed_where_hidden_items_are_all_alike(index: Index, share: float) -> None:
    """As those of a category are: then what is nearest to a session may all be hidden."""
    rng, n, n_centres = np.random.default_rng(11), 6000, 60
    centres, of = random_vectors(n_centres, seed=12, dim=16), rng.integers(n_centres, size=n)
    vectors = normalised((centres[of] + 0.15 * rng.normal(size=(n, 16))).astype(np.float32))
    queries = normalised((centres + 0.1 * rng.normal(size=(n_centres, 16))).astype(np.float32))
    hidden = set((np.flatnonzero(of < n_centres * share) + 1).tolist())
    built, visible = index.build(vectors).searching(32 if index.kind == "hnsw" else 4), all_but(n, hidden)
    restricted, exact = built.only(visible), built.exact().only(visible)
    assert _recall(restricted, exact, queries) >= _recall(built, built.exact(), queries) - 0.01
    for _, items in restricted.search_each(queries, [20] * n_centres, [()] * n_centres):
        assert len(items) == 20
        assert not hidden & set(items.tolist())


def _recall(retriever: Retriever, exact: Retriever, queries: Vectors) -> float:
    """Of the 20 best of each query, as it is answered."""
    answers = [
        each.search_each(queries, [20] * len(queries), [()] * len(queries)) for each in (retriever, exact)
    ]
    found = [
        len(set(items.tolist()) & set(right.tolist())) / 20
        for (_, items), (_, right) in zip(*answers, strict=True)
    ]
    return float(np.mean(found))


@each_index
def test_each_query_of_a_batch_has_its_own_answer(index: Index) -> None:
    retriever, queries = index.build(random_vectors(SOME, seed=6)), random_vectors(5, seed=7)
    vectors = retriever.vectors()
    ks, excluded = [1, 20, 60, 5, 20], [(), {1, 2, 3}, {9}, set(range(1, 390)), ()]
    answers = retriever.exact().search_each(queries, ks, excluded)
    for query, k, left_out, answer in zip(queries, ks, excluded, answers, strict=True):
        check(vectors, query, k, left_out, answer)
    assert [len(items) for _, items in answers] == [1, 20, 60, 5, 20]


@each_index
def test_similar_items_are_others(index: Index) -> None:
    retriever = index.build(random_vectors(SOME, seed=8)).only(all_but(SOME, {4}))
    vectors = retriever.vectors()
    check(vectors, vectors[2], 10, {3, 4}, retriever.search_similar(3, 10))


@each_index
def test_the_vectors_of_some_items(index: Index, tmp_path: Path) -> None:
    index.build(random_vectors(SOME, seed=9)).save(tmp_path / "index")
    loaded = index.load(tmp_path / "index", 10)
    query, items = random_vectors(1, seed=2), np.array([SOME, 0, 7, 7])
    before = loaded.search(query, 20)
    found = loaded.vectors_of(items)
    np.testing.assert_array_equal(found[[0, 2, 3]], loaded.vectors()[[SOME - 1, 6, 6]])
    assert found.shape == (4, 10)
    assert not found[1].any(), "of PAD there is none"
    assert loaded.vectors_of(np.array([0])).shape == (1, 10)
    for was, now in zip(before, loaded.search(query, 20), strict=True):
        np.testing.assert_array_equal(was, now)


@each_index
def test_a_saved_index_answers_the_same(index: Index, tmp_path: Path) -> None:
    vectors = random_vectors(SOME, seed=9)
    built = index.build(vectors)
    built.save(tmp_path / "index")
    loaded = index.load(tmp_path / "index", 10)
    assert (loaded.dim, loaded.n_items) == (10, SOME)
    for before, after in zip(built.search(vectors, 5), loaded.search(vectors, 5), strict=True):
        np.testing.assert_array_equal(before, after)
    np.testing.assert_array_equal(built.vectors(), loaded.vectors())


@each_index
def test_vectors_are_those_that_were_indexed(index: Index) -> None:
    vectors = random_vectors(SOME, seed=5)
    np.testing.assert_allclose(index.build(vectors).vectors(), vectors, rtol=0, atol=index.error)


@pytest.mark.parametrize("index", PLAIN, ids=str)
def test_exact_search_finds_each_vector_itself(index: Index) -> None:
    vectors = random_vectors(SOME, seed=9)
    _, items = index.build(vectors).exact().search(vectors, 1)
    np.testing.assert_array_equal(items.ravel(), np.arange(1, SOME + 1))


def test_a_broader_search_finds_more() -> None:
    built = Retriever.build(random_vectors(3000, seed=3, dim=16), "ivf-sq")
    queries = random_vectors(50, seed=5, dim=16)
    _, right = built.exact().search(queries, 20)
    found = [np.isin(right, built.searching(breadth).search(queries, 20)[1]).mean() for breadth in (1, 8, 64)]
    assert found == sorted(found)
    assert found[0] < 0.9 < found[2]
    assert built.searching(8).only(all_but(built.n_items, {1})).breadth == 8


WORKER = """
import sys
from pathlib import Path
from service.ranking.retriever import Retriever, use_one_thread

def own_kib():  # not Private_Dirty: the pages of a file just written are dirty, and shared all the same
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

use_one_thread()
small, file, kind = sys.argv[1:]
warm = Retriever.load(Path(small), kind, 100)
queries = warm.vectors()[:50]
warm.exact().search(queries, 20)  # whatever the libraries allocate once
before = own_kib()
loaded = Retriever.load(Path(file), kind, 100)
loaded.exact().search(queries, 20)  # reads all of it
print(own_kib() - before)
"""


@each_index
def test_workers_share_the_pages_of_an_index(index: Index, tmp_path: Path) -> None:
    # Links are no matter of size, and a graph of so many items takes 20 s to build.
    vectors = random_vectors(4_000 if index.kind == "hnsw" else 30_000, seed=10, dim=100)
    small, file = tmp_path / "small", tmp_path / "index"
    index.build(vectors[:1000]).save(small)
    index.build(vectors).save(file)
    worker = [sys.executable, "-c", WORKER, str(small), str(file), index.kind]
    done = subprocess.run(worker, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=True)
    # A copy would be all of it; whatever else is allocated does not grow with the index.
    assert 1024 * int(done.stdout) < file.stat().st_size / 2


def test_another_kind_of_index_is_refused(tmp_path: Path) -> None:
    faiss.write_index(faiss.IndexLSH(16, 16), str(tmp_path / "index"))
    with pytest.raises(ValueError, match="IndexLSH is not an index of kind ivf-sq"):
        Retriever.load(tmp_path / "index", "ivf-sq", 16)


@each_index
def test_the_few_that_are_visible_are_all_looked_at(index: Index) -> None:
    """However few an approximate search would look at, and whether or not some of them are excluded."""
    built = index.build(random_vectors(3000, seed=9)).searching(1)
    vectors, queries = built.vectors(), random_vectors(3, seed=10)
    shown = set(range(5, 3000, 100))
    few = built.only(all_but(3000, set(range(1, 3001)) - shown))
    # With 3 queries each: the later ones find an index of lists decoded.
    for excluded in ((), {5, 105, 7}, set(range(1, 2000)), ()):
        answers = few.search_each(queries, [20] * 3, [excluded] * 3)
        for query, answer in zip(queries, answers, strict=True):
            check(vectors, query, 20, set(range(1, 3001)) - shown | set(excluded), answer)
    assert few.visible().tolist() == sorted(shown)
    once = built.only(all_but(3000, set(range(1, 3001)) - shown))
    check(vectors, queries[0], 20, set(range(1, 3001)) - shown, once.search_excluding(queries[0], 20, ()))
    # What it was restricted to before is forgotten.
    check(vectors, queries[0], 3000, (), few.only(all_but(3000, ())).search_excluding(queries[0], 3000, ()))
