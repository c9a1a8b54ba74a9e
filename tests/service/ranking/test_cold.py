"""Cold items beside an index: as if they stood in it, but for what their scores are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ranking.cold import ColdItems
from service.ranking.content import Calibration
from service.ranking.retriever import Retriever
from tests.service.bundles import normalised

N, DIM = 30, 6


@given(
    seed=st.integers(0, 10_000),
    n_cold=st.integers(0, 12),
    k=st.integers(1, 60),
    offset=st.floats(-1, 1),
    excluded=st.sets(st.integers(1, N + 12)),
    refused=st.sets(st.integers(0, 11)),
)
def test_the_answer_is_the_best_of_both(
    seed: int, n_cold: int, k: int, offset: float, excluded: set[int], refused: set[int]
) -> None:
    random = np.random.default_rng(seed)
    vectors = normalised(random.normal(size=(N + n_cold, DIM)).astype(np.float32))
    queries = normalised(random.normal(size=(3, DIM)).astype(np.float32))
    cold = ColdItems(N, DIM, Calibration(0.7, offset))
    for number in range(n_cold):
        cold.put(f"c{number}", vectors[N + number])
    may_answer = {f"c{number}" for number in range(12) if number not in refused}
    retriever = Retriever.build(vectors[:N], "flat")
    found = retriever.search_each(queries, [k] * 3, [{item for item in excluded if item <= N}] * 3)
    answers = cold.merged(queries, found, [k] * 3, [excluded] * 3, may_answer.__contains__)

    scores = queries @ vectors.T
    scores[:, N:] = scores[:, N:] * 0.7 + offset
    allowed = np.array(
        [
            item not in excluded and (item <= N or item - N - 1 not in refused)
            for item in range(1, N + n_cold + 1)
        ]
    )
    for row, (own_scores, items) in zip(scores, answers, strict=True):
        best = np.sort(row[allowed])[::-1][:k]
        np.testing.assert_allclose(own_scores, best, atol=1e-5)
        assert len(set(items.tolist())) == len(items)
        assert allowed[items - 1].all()
        np.testing.assert_allclose(row[items - 1], own_scores, atol=1e-5)


@pytest.mark.parametrize("scale", [0.7, 1.0, 2.0])
def test_vectors_are_what_was_put_in_whatever_they_are_worth(scale: float) -> None:
    vectors = normalised(np.random.default_rng(1).normal(size=(4, DIM)).astype(np.float32))
    cold = ColdItems(N, DIM, Calibration(scale, -0.3))
    for number, vector in enumerate(vectors):
        cold.put(f"c{number}", vector)
        np.testing.assert_allclose(cold.vector(cold.index_of[f"c{number}"]), vector, atol=1e-6)


def names(cold: ColdItems, query: list[float], k: int = 10) -> list[str]:
    nothing = np.empty(0, np.float32), np.empty(0, np.int64)
    ((_, items),) = cold.merged(np.array([query], np.float32), [nothing], [k], [()])
    return [cold.item_id(item) for item in items.tolist()]


def test_items_come_change_and_go() -> None:
    cold = ColdItems(N, 2, Calibration())
    axes = np.eye(2, dtype=np.float32)
    cold.put("a", axes[0])
    cold.put("b", axes[1])
    assert names(cold, [1, 0.5]) == ["a", "b"]
    cold.put("a", -axes[0])
    assert names(cold, [1, 0.5]) == ["b", "a"]
    assert len(cold) == 2
    cold.remove("b")
    cold.remove("b")
    cold.remove("never there")
    assert names(cold, [1, 0.5]) == ["a"]
    cold.put("c", axes[1])
    assert names(cold, [1, 0.5]) == ["c", "a"], "the row that was free is used again"
    assert sorted(cold.index_of.values()) == [N + 1, N + 2]


def test_one_too_many_takes_the_place_of_the_oldest() -> None:
    cold = ColdItems(N, 2, Calibration(), most=300)
    for number in range(700):
        cold.put(f"c{number}", np.array([1, 0], np.float32))
    assert list(cold.index_of) == [f"c{number}" for number in range(400, 700)]
    assert set(names(cold, [1, 0], 1000)) == set(cold.index_of)


@pytest.mark.parametrize("k", [1, 3])
def test_no_cold_item_that_scores_lower_changes_an_answer(k: int) -> None:
    cold = ColdItems(N, 2, Calibration(offset=-3))
    cold.put("a", np.array([1, 0], np.float32))
    found = np.array([0.5, 0.4, 0.3][:k], np.float32), np.arange(1, k + 1)
    ((scores, items),) = cold.merged(np.array([[1, 0]], np.float32), [found], [k], [()])
    assert scores is found[0]
    assert items is found[1]
