"""Metrics through the served path against a slow, obvious computation, case by case."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from models.niser import NISER
from models.sessions import Sessions
from service.ranking.bundle import Bundle
from tests.training.planted import N_ITEMS, planted_sessions, write_dataset
from training.baselines import item_knn, spop, stan
from training.baselines.counting import Counted
from training.bundling.export import export_bundle
from training.bundling.provenance import Provenance
from training.data.dataset import Dataset
from training.measure.evaluate import TOP, _held, answer, evaluate, evaluate_counted, rank_in
from training.measure.metrics import MISSED, ranking_metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Test sessions with an unknown item (0) as first click, in the middle, and as target."""
    plain = [[3, 4, 3, 6], [0, 7, 8], [0, 0, 9], [5, 0, 5, 6, 0], [1, 2]]
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in plain])])
    test = Sessions(np.array([i for s in plain for i in s], dtype=np.int32), offsets, N_ITEMS)
    return write_dataset(tmp_path_factory.mktemp("data") / "d", planted_sessions(80), test, n_validation=8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, data: Dataset) -> Bundle:
    """Knows the same items in another order: item indices of data set and bundle must not be confused."""
    torch.manual_seed(1)
    model = NISER(N_ITEMS, dim=8)
    provenance = Provenance("niser", 1, {}, "commit", "data")
    sample = [[1, 2, 3], [4], [5, 6]]
    path = export_bundle(
        model, data.items[::-1], sample, provenance, tmp_path_factory.mktemp("a"), "v1", lambda b: {}
    )
    return Bundle.load(path)


@pytest.mark.parametrize("without_seen", [False, True])
def test_equals_an_obvious_computation(bundle: Bundle, data: Dataset, without_seen: bool) -> None:
    ranks, answered, lengths = [], [], []
    for start, end in zip(data.test.offsets[:-1], data.test.offsets[1:], strict=True):
        session = [["", *data.items][i] for i in data.test.items[start:end]]
        for length in range(1, len(session)):
            known = [bundle.index_of[i] for i in session[:length] if i in bundle.index_of]
            ranking = list(range(1, N_ITEMS + 1))
            if known:
                vector = bundle.encoder.encode([known])
                _, items = bundle.retriever.exact().search(vector, N_ITEMS)
                ranking = items[0].tolist()
            if without_seen:
                ranking = [i for i in ranking if i not in known]
            target = bundle.index_of.get(session[length], 0)
            ranks.append(ranking.index(target) + 1 if target in ranking else MISSED)
            answered += ranking[:20]
            lengths.append(length)
    measured = evaluate(bundle, data, data.test)
    metrics = measured.unseen_only if without_seen else measured.unmasked
    assert measured.cases == len(ranks) == 3 + 2 + 2 + 4 + 1
    for name, value in ranking_metrics(np.array(ranks)).items():
        assert metrics[name] == pytest.approx(value), name
    if not without_seen:
        assert measured.ranks.tolist() == [rank if rank <= TOP + 1 else MISSED for rank in ranks], "in order"
        assert (measured.lengths.tolist(), measured.cases_of.tolist()) == (lengths, [3, 2, 2, 4, 1])
        by_length = measured.by_length()
        assert {name: group["cases"] for name, group in by_length.items()} == {"1": 5, "2": 4, "3": 2, "4": 1}
        of_two = [rank for rank, length in zip(ranks, lengths, strict=True) if length == 2]
        assert by_length["2"]["recall@20"] == 100 * np.mean([rank <= TOP for rank in of_two])
        assert by_length["2"]["mrr@20"] == pytest.approx(
            100 * np.mean([1 / rank if rank <= TOP else 0 for rank in of_two])
        )
    clicks = np.bincount(data.train_all.items, minlength=N_ITEMS + 1)
    by_bundle = [clicks[data.items.index(bundle.items[i]) + 1] for i in answered]
    assert metrics["popularity@20"] == pytest.approx(np.mean(by_bundle))
    assert metrics["coverage@20"] == pytest.approx(100 * len(set(answered)) / N_ITEMS)


def test_ties_stand_before_the_target() -> None:
    scores = np.array([[0.9, 0.5, 0.5, 0.5, 0.1]], dtype=np.float32)
    items = np.array([[7, 3, 1, 2, 4]])
    assert rank_in(scores, items, np.array([7])) == [1]
    assert rank_in(scores, items, np.array([3])) == [4]
    assert rank_in(scores, items, np.array([2])) == [4]
    assert rank_in(scores, items, np.array([9])) == [MISSED]


@pytest.mark.parametrize("counted", [item_knn, stan], ids=["item_knn", "stan"])
def test_what_a_baseline_leaves_open_is_filled_with_the_most_popular(data: Dataset, counted) -> None:  # type: ignore[no-untyped-def]
    baseline: Counted = counted.fit(data.train_all)
    prefixes = np.array([[3, 4, 0], [0, 0, 0], [7, 0, 0]])
    scores, items = answer(baseline, prefixes, N_ITEMS)
    assert items[1].tolist() == list(range(1, N_ITEMS + 1)), "nothing is known: the most popular"
    assert (np.diff(scores, axis=1)[[0, 2]] <= 0).all()
    for row in (0, 2):
        found_scores, found = baseline.search(prefixes[row : row + 1], N_ITEMS)
        own = found[0][found[0] > 0].tolist()
        assert 0 < len(own) < N_ITEMS
        rest = [item for item in range(1, N_ITEMS + 1) if item not in own]
        assert items[row].tolist() == own + rest
        assert scores[row][: len(own)].tolist() == found_scores[0][: len(own)].tolist()
    assert answer(baseline, prefixes, 4)[1].tolist() == items[:, :4].tolist()
    measured = evaluate_counted(baseline, data, data.test)
    assert measured.cases == 12


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_what_a_session_holds_is_left_out_in_chunks(rows: int) -> None:
    """However many rows are marked at a time: as when all is compared with all."""
    rng = np.random.default_rng(0)
    prefixes = rng.integers(0, N_ITEMS + 1, (33, 9))
    items = rng.integers(0, N_ITEMS + 1, (33, 25))
    items[0, 0] = N_ITEMS
    held = (items[:, :, None] == prefixes[:, None, :]).any(2)
    np.testing.assert_array_equal(_held(items, prefixes, rows * (N_ITEMS + 1)), held)


@pytest.mark.parametrize("counted", [item_knn, spop, stan], ids=["item_knn", "spop", "stan"])
def test_memory_grows_with_the_longest_session_not_with_its_square(tmp_path: Path, counted) -> None:  # type: ignore[no-untyped-def]
    """A crawler of 1,500 clicks; comparing all its clicks with all took more than 1 GB."""
    rng = np.random.default_rng(0)
    crawler = Sessions(rng.integers(1, 2001, 1500).astype(np.int32), np.array([0, 1500]), 2000)
    shop = Sessions(np.arange(1, 2001, dtype=np.int32), np.arange(0, 2001, 4), 2000)
    data = write_dataset(tmp_path / "d", shop, crawler, n_validation=0)
    baseline: Counted = counted.fit(shop)
    tracemalloc.start()
    try:
        measured = evaluate_counted(baseline, data, data.test)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert measured.cases == 1499
    assert peak < 400e6


def test_long_sessions_leave_out_all_they_hold(data: Dataset) -> None:
    """Whatever a ranker reads of a session, what is already in it is left out: Item-KNN reads one click."""
    session = [*range(1, 27), 27, 28]
    test = Sessions(np.array(session, np.int32), np.array([0, len(session)]), N_ITEMS)
    measured = evaluate_counted(item_knn.fit(data.train_all), data, test)
    unseen, unmasked = measured.unseen_only["mrr@20"], measured.unmasked["mrr@20"]
    assert unseen > 90, "all but the next item lie before the last click"
    assert unmasked < 80, "and those are its neighbours as well"
