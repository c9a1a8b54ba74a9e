"""The retriever against brute force: whatever is hidden or excluded, the k best of the rest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.retriever import OVER_FETCH, Items, Retriever, Scores
from tests.service.bundles import Vectors, normalised

KINDS = ("flat", "hnsw")


def random_vectors(n: int, seed: int, dim: int = 8) -> Vectors:
    return normalised(np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32))


def check(
    vectors: Vectors, query: Scores, k: int, left_out: Collection[int], answer: tuple[Scores, Items]
) -> None:
    """The answer is the k best of what is not left out; which of two equal scores comes first is free."""
    scores, items = answer
    allowed = np.setdiff1d(np.arange(1, len(vectors) + 1), list(left_out))
    best = np.sort(vectors[allowed - 1] @ query)[::-1][:k]
    assert len(items) == len(best)
    assert len(set(items.tolist())) == len(items)
    assert not set(items.tolist()) & set(left_out)
    np.testing.assert_allclose(scores, best, atol=1e-5)
    np.testing.assert_allclose(vectors[items - 1] @ query, scores, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_the_k_best_of_the_rest(kind: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 50))  # so small that HNSW, too, sees every item
    items = st.sets(st.integers(1, n))
    vectors = random_vectors(n, seed=data.draw(st.integers(0, 5)))
    hidden, excluded = data.draw(items), data.draw(items)
    query, k = random_vectors(1, seed=99)[0], data.draw(st.integers(1, 60))
    retriever = Retriever.build(vectors, kind).without(hidden)
    check(vectors, query, k, hidden | excluded, retriever.search_excluding(query, k, excluded))


@pytest.mark.parametrize(
    ("kind", "n_excluded"),
    [("flat", OVER_FETCH), ("flat", OVER_FETCH + 1), ("flat", 390), ("hnsw", 390), ("hnsw", 400)],
)
def test_more_is_excluded_than_is_searched_past(kind: str, n_excluded: int) -> None:
    vectors = random_vectors(400, seed=1)
    query = random_vectors(1, seed=2)[0]
    nearest_first = (np.argsort(-(vectors @ query)) + 1).tolist()
    excluded = set(nearest_first[:n_excluded])
    answer = Retriever.build(vectors, kind).search_excluding(query, 20, excluded)
    check(vectors, query, 20, excluded, answer)


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_hnsw_finds_the_best_however_much_is_hidden(share: float) -> None:
    vectors = random_vectors(3000, seed=3, dim=16)
    hidden = set((np.flatnonzero(np.random.default_rng(4).random(3000) < share) + 1).tolist())
    retriever = Retriever.build(vectors, "hnsw").without(hidden)
    exact = Retriever.build(vectors, "flat").without(hidden)
    queries = random_vectors(50, seed=5, dim=16)
    found, right = retriever.search(queries, 20)[1], exact.search(queries, 20)[1]
    recall = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(found.tolist(), right.tolist(), strict=True)])
    assert recall >= 0.99
    assert not hidden & set(found.ravel().tolist())


@pytest.mark.parametrize("kind", KINDS)
def test_each_query_of_a_batch_has_its_own_answer(kind: str) -> None:
    vectors, queries = random_vectors(60, seed=6), random_vectors(4, seed=7)
    ks, excluded = [1, 20, 60, 5], [(), {1, 2, 3}, {9}, set(range(1, 50))]
    answers = Retriever.build(vectors, kind).search_each(queries, ks, excluded)
    for query, k, left_out, answer in zip(queries, ks, excluded, answers, strict=True):
        check(vectors, query, k, left_out, answer)


@pytest.mark.parametrize("kind", KINDS)
def test_similar_items_are_others(kind: str) -> None:
    vectors = random_vectors(40, seed=8)
    answer = Retriever.build(vectors, kind).without({4}).search_similar(3, 10)
    check(vectors, vectors[2], 10, {3, 4}, answer)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_answers_the_same(kind: str, tmp_path: Path) -> None:
    vectors = random_vectors(50, seed=9)
    built = Retriever.build(vectors, kind)
    built.save(tmp_path / "index")
    loaded = Retriever.load(tmp_path / "index")
    for before, after in zip(built.search(vectors, 5), loaded.search(vectors, 5), strict=True):
        np.testing.assert_array_equal(before, after)
    exact: tuple[Scores, npt.NDArray[np.int64]] = loaded.exact().search(vectors, 1)
    np.testing.assert_array_equal(exact[1].ravel(), np.arange(1, 51))


@pytest.mark.parametrize("kind", KINDS)
def test_vectors_are_those_that_were_indexed(kind: str) -> None:
    vectors = random_vectors(50, seed=5)
    np.testing.assert_array_equal(Retriever.build(vectors, kind).vectors(), vectors)
