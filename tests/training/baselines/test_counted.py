"""Counted baselines against plain loops over their papers' rules."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.sessions import Sessions
from service.ranking.neighbours import ItemNeighbours
from tests.training.planted import N_ITEMS, planted_sessions
from training.baselines import item_knn, pop, spop, stan, vmis_knn, vsknn
from training.baselines.counting import Counted
from training.learn.registry import baseline_names

Session = list[int]
N = 9
history_strategy = st.lists(st.lists(st.integers(1, N), min_size=1, max_size=6), min_size=1, max_size=20)
session_strategy = st.lists(st.integers(1, N), min_size=1, max_size=7)


def sessions_of(history: list[Session], n_items: int = N) -> Sessions:
    offsets = np.cumsum([0, *map(len, history)])
    return Sessions(np.array([i for s in history for i in s], np.int32), offsets, n_items)


def scores_of(counted: Counted, session: Session) -> dict[int, float]:
    scores, items = counted.search(np.array([[*session, 0, 0]]), counted.n_items)
    found = items[0] > 0
    assert (np.diff(scores[0][found]) <= 0).all(), "best first"
    return dict(zip(items[0][found].tolist(), scores[0][found].tolist(), strict=True))


def about(scores: dict[int, float]) -> object:
    """The same items, and their scores but for rounding to float32."""
    return pytest.approx(scores, rel=1e-5, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(history_strategy, session_strategy)
def test_pop_and_spop_count(history: list[Session], session: Session) -> None:
    train = sessions_of(history)
    clicks = Counter(item for past in history for item in past)
    assert scores_of(pop.fit(train), session) == about({item: clicks[item] for item in range(1, N + 1)})
    assert scores_of(spop.fit(train), session) == about(
        {item: times + clicks[item] / (1 + clicks[item]) for item, times in Counter(session).items()}
    )


@settings(deadline=None, max_examples=40)
@given(history_strategy, session_strategy, st.integers(1, 4))
def test_item_knn_is_a_regularised_cosine(history: list[Session], session: Session, neighbours: int) -> None:
    last = session[-1]
    support = Counter(item for past in history for item in set(past))
    together = Counter(item for past in history if last in past for item in set(past) - {last})
    similarity = {
        item: count / math.sqrt((support[last] + 20) * (support[item] + 20))
        for item, count in together.items()
    }
    found = scores_of(item_knn.fit(sessions_of(history), neighbours=neighbours), session)
    assert sorted(found.values(), reverse=True) == pytest.approx(
        sorted(similarity.values(), reverse=True)[:neighbours]
    )
    for item, score in found.items():
        assert score == pytest.approx(similarity[item])


@settings(deadline=None, max_examples=40)
@given(history_strategy, session_strategy)
def test_item_knn_counts_pairs_of_clicks_as_the_code_does(history: list[Session], session: Session) -> None:
    """Of each click on the one item, every click on the other in its session."""
    last = session[-1]
    support = Counter(item for past in history for item in past)
    together: Counter[int] = Counter()
    for past in history:
        for _ in range(past.count(last)):
            together.update(item for item in past if item != last)
    expected = {
        item: count / math.sqrt((support[last] + 20) * (support[item] + 20))
        for item, count in together.items()
    }
    assert scores_of(item_knn.fit(sessions_of(history), counts="clicks"), session) == about(expected)


def test_item_knn_counts_in_blocks_what_it_counts_at_once() -> None:
    train = planted_sessions(200)
    whole = item_knn.fit(train, neighbours=5)
    blocks = item_knn.most_similar(train, 5, 20.0, "sessions", block=7)
    assert isinstance(whole, ItemNeighbours)
    np.testing.assert_array_equal(whole.items, blocks.items)
    np.testing.assert_array_equal(whole.scores, blocks.scores)


@pytest.mark.parametrize("name", ["vsknn", "vmis_knn"])
@settings(deadline=None, max_examples=40)
@given(history_strategy, session_strategy)
def test_session_knns_decay_by_place_and_step(name: str, history: list[Session], session: Session) -> None:
    held = Counter(item for past in history for item in set(past))
    place = {item: number for number, item in enumerate(session, start=1)}
    expected: dict[int, float] = defaultdict(float)
    for past in history:
        if shared := set(past) & set(session):
            shares = [place[item] / len(session) for item in shared]
            step = len(session) - max(place[item] for item in shared) + 1
            for item in set(past):
                idf = math.log(len(history) / held[item])
                if name == "vsknn":
                    expected[item] += sum(share**2 for share in shares) / step * (1 + 5 * idf)
                else:
                    expected[item] += sum(shares) * max(0, 1 - 0.1 * step) * idf
    fit = {"vsknn": vsknn.fit, "vmis_knn": vmis_knn.fit}[name]
    assert scores_of(fit(sessions_of(history)), session) == about(dict(expected))


@settings(deadline=None, max_examples=40)
@given(history_strategy, session_strategy, st.integers(1, 12))
def test_stan_knows_places_ages_and_distances(history: list[Session], session: Session, m: int) -> None:
    place = {item: number for number, item in enumerate(session, start=1)}
    weight = {item: math.exp((at - len(session)) / 1.5) for item, at in place.items()}
    sharing = [number for number, past in enumerate(history) if set(past) & set(session)]
    expected: dict[int, float] = defaultdict(float)
    for number in sharing[-m:]:
        past = history[number]
        shared = set(past) & set(session)
        similarity = sum(weight[item] for item in shared) / math.sqrt(
            sum(w**2 for w in weight.values()) * len(set(past))
        )
        age = (len(history) - number) / len(history)
        newest = {item: at for at, item in enumerate(past, start=1)}
        centre = max(newest[item] for item in shared)
        for item, at in newest.items():
            expected[item] += similarity * math.exp(-age / 0.4) * math.exp(-abs(at - centre) / 2.5)
    counted = stan.fit(sessions_of(history), m=m, decay_place=1.5, decay_age=0.4, decay_distance=2.5)
    assert scores_of(counted, session) == about(dict(expected))


def test_every_baseline_is_tested_here() -> None:
    assert set(baseline_names()) == {"item_knn", "pop", "spop", "stan", "vmis_knn", "vsknn"}


@pytest.mark.parametrize("fit", [stan.fit, vsknn.fit, vmis_knn.fit, item_knn.fit, spop.fit, pop.fit])
def test_rows_of_a_batch_are_answered_as_if_alone(fit) -> None:  # type: ignore[no-untyped-def]
    counted: Counted = fit(planted_sessions(300))
    rng = np.random.default_rng(3)
    batch = rng.integers(1, N_ITEMS + 1, (40, 5))
    batch[np.arange(5) >= rng.integers(1, 6, 40)[:, None]] = 0
    scores, items = counted.search(batch, 8)
    for row, session in enumerate(batch):
        alone_scores, alone_items = counted.search(session[None, session > 0], 8)
        np.testing.assert_array_equal(items[row], alone_items[0])
        np.testing.assert_allclose(scores[row], alone_scores[0], rtol=1e-6)
