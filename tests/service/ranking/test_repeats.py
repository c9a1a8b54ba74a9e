"""What is added to a session's own items: the same as plain Python adds, whatever the index or session."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from service.ranking.bundle import MANIFEST, Bundle, BundleError, Manifest, read_manifest
from service.ranking.ranker import NearestItems
from service.ranking.repeats import MOST, Repeats, RepeatTable
from service.ranking.retriever import CLASSES, Kind, Retriever, Scores
from service.ranking.served import Query, ServedBundle
from tests.service.bundles import Shop, edit_manifest, normalised

N_ITEMS = 60
PQ_ITEMS = 300  # its codes are learned of 256 at least
RAISES = RepeatTable(by_distance=(0.3, 0.5, 0.2), by_count=(0.0, 0.1, 0.15))
LOWERS = RepeatTable(by_distance=(-4.0, 0.2, -0.3), by_count=(0.0, 0.4))
NOTHING = RepeatTable(by_distance=(0.0,), by_count=(0.0,))
TABLES = {"raises": RAISES, "lowers": LOWERS, "nothing": NOTHING}
KINDS: tuple[Kind, ...] = tuple(CLASSES)


@cache
def bundle(kind: Kind, table: str, max_length: int = 10, n_items: int = N_ITEMS) -> Bundle:
    n_items = PQ_ITEMS if kind == "ivf-pq" else n_items
    vectors = Shop.make(n_items).vectors.copy()
    vectors[n_items // 2 :] = vectors[: n_items // 2]  # each has a twin: ties
    items = tuple(f"i{item}" for item in range(1, n_items + 1))
    shop = Shop(items, vectors, max_length)
    return Bundle.load(shop.write(Path(mkdtemp()), "v1", kind, repeat=TABLES[table]))


def scores_in_python(
    ranker: NearestItems, table: RepeatTable, session: Sequence[int], vector: Scores, added_to: int = MOST
) -> dict[int, float]:
    vectors = ranker.retriever.vectors()
    scores = {item: float(vectors[item - 1] @ vector) for item in range(1, ranker.n_items + 1)}
    newest = list(session)[-ranker.max_length :][::-1]
    distinct: list[int] = []
    for item in newest:
        if item not in distinct:
            distinct.append(item)
    for item in distinct[:added_to]:
        distance = next(place for place, each in enumerate(newest) if each == item)
        count = sum(each == item for each in newest)
        scores[item] += table.by_distance[min(distance, len(table.by_distance) - 1)]
        scores[item] += table.by_count[min(count, len(table.by_count)) - 1]
    return scores


def check(found: tuple[Scores, Any], scores: dict[int, float], k: int, allowed: Collection[int]) -> None:
    """The k best of the allowed ones, each with its score; which of two that tie is not said."""
    got_scores, got_items = found
    best = sorted((scores[item] for item in allowed), reverse=True)[:k]
    assert got_scores == pytest.approx(best, abs=1e-5)
    assert [scores[item] for item in got_items.tolist()] == pytest.approx(best, abs=1e-5)
    assert len(set(got_items.tolist())) == len(got_items)
    assert set(got_items.tolist()) <= set(allowed)


SESSION = st.lists(st.integers(1, N_ITEMS) | st.integers(1, 4), min_size=1, max_size=14)
QUERY = st.tuples(
    SESSION, st.integers(1, 70), st.sets(st.integers(1, N_ITEMS) | st.integers(1, 4), max_size=20)
)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(queries=st.lists(QUERY, min_size=1, max_size=6), hidden=st.sets(st.integers(1, N_ITEMS), max_size=55))
@example(queries=[([1, 2, 1, 3], 20, set()), ([1, 31], 20, {1, 31})], hidden=set())
def test_a_batch_is_ranked_as_in_plain_python(
    kind: Kind, table: str, queries: list[tuple[list[int], int, set[int]]], hidden: set[int]
) -> None:
    ranker = bundle(kind, table).ranker
    assert isinstance(ranker, NearestItems)
    items = set(range(1, ranker.n_items + 1))
    visible = np.ones(ranker.n_items + 1, dtype=bool)
    visible[list(hidden)] = False
    served = ranker.only(visible) if hidden else ranker
    sessions, ks, excluded = [list(each) for each in zip(*queries, strict=True)]
    vectors = ranker.encoder.encode(sessions)
    found = served.rank(sessions, ks, excluded)
    for session, vector, k, out, ranked in zip(sessions, vectors, ks, excluded, found, strict=True):
        scores = scores_in_python(ranker, TABLES[table], session, vector)
        check(ranked, scores, k, items - hidden - out)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15, deadline=None)
@given(sessions=st.lists(SESSION, min_size=1, max_size=6), k=st.integers(1, 70))
def test_evaluation_searches_what_the_service_ranks(
    kind: Kind, table: str, sessions: list[list[int]], k: int
) -> None:
    ranker = bundle(kind, table).ranker
    assert isinstance(ranker, NearestItems)
    padded = np.zeros((len(sessions), max(map(len, sessions))), dtype=np.int64)
    for row, session in zip(padded, sessions, strict=True):
        row[: len(session)] = session
    scores, items = ranker.search(padded, k)
    assert scores.shape == items.shape == (len(sessions), min(k, ranker.n_items))
    for number, session in enumerate(sessions):
        vector = ranker.encoder.encode([session])[0]
        expected = scores_in_python(ranker, TABLES[table], session, vector)
        check((scores[number], items[number]), expected, k, range(1, ranker.n_items + 1))


def test_a_table_of_nothing_changes_nothing() -> None:
    plain = Bundle.load(Shop.make().write(Path(mkdtemp()))).ranker
    same = Bundle.load(Shop.make().write(Path(mkdtemp()), repeat=NOTHING)).ranker
    sessions = [[1, 2, 1], [5], [7, 8, 9, 7]]
    for one, other in zip(
        plain.rank(sessions, [20] * 3, [(), {5}, ()]),
        same.rank(sessions, [20] * 3, [(), {5}, ()]),
        strict=True,
    ):
        assert one[1].tolist() == other[1].tolist()
        assert one[0] == pytest.approx(other[0], abs=1e-6)


def test_only_the_newest_items_of_a_long_session_are_raised() -> None:
    ranker = bundle("flat", "raises", 80, 200).ranker
    assert isinstance(ranker, NearestItems)
    session = list(range(1, 71))  # 20 more than are looked at
    scores = scores_in_python(ranker, RAISES, session, ranker.encoder.encode([session])[0])
    check(ranker.rank([session], [100], [()])[0], scores, 100, range(1, 201))
    by_all = scores_in_python(ranker, RAISES, session, ranker.encoder.encode([session])[0], added_to=70)
    assert sorted(by_all.values()) != pytest.approx(sorted(scores.values()), abs=1e-5)


def test_an_item_is_answered_that_the_index_would_not_find() -> None:
    """The session's item lies in a list that a search does not read."""
    rng = np.random.default_rng(0)
    vectors = normalised(rng.normal(size=(2000, 16)).astype(np.float32))
    vectors[0] = -vectors[1:40].sum(0) / np.linalg.norm(vectors[1:40].sum(0))
    retriever = Retriever.build(vectors, "ivf-sq").searching(1)
    table = RepeatTable(by_distance=(3.0,), by_count=(0.0,))
    query = vectors[1:40].sum(0, keepdims=True) / np.linalg.norm(vectors[1:40].sum(0))
    assert 1 not in retriever.search(query, 100)[1]
    ((scores, items),) = Repeats.of(table, 10).rank(retriever, query, [[1]], [20], [()])
    assert items[0] == 1
    assert scores[0] == pytest.approx(2.0, abs=0.01)


def test_excluding_all_that_was_seen_is_the_plain_search() -> None:
    ranker = bundle("flat", "raises").ranker
    assert isinstance(ranker, NearestItems)
    plain = NearestItems(ranker.encoder, ranker.retriever)
    session, seen = [4, 9, 4, 30], {4, 9, 30}
    (one,), (other,) = ranker.rank([session], [20], [seen]), plain.rank([session], [20], [seen])
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])


def test_served_hidden_and_cold_items(tmp_path: Path) -> None:
    shop = Shop.make()
    path = shop.write(tmp_path, content=shop.content(offset=0.0), repeat=RAISES)
    served = ServedBundle.of(Bundle.load(path), frozenset({"i3"}))
    assert served.cold is not None
    session = ["i3", "i7", "i9"]
    served.cold.put("new", shop.session_vector(session))
    (found,) = served.rank([Query([3, 7, 9], 20, ())])
    answered = [item_id for item_id, _ in found]
    assert "i3" not in answered
    scores = dict(found)
    vector = shop.session_vector(session)
    assert scores["new"] == pytest.approx(1, abs=1e-5)
    assert scores["i9"] == pytest.approx(float(shop.vectors[8] @ vector) + 0.3, abs=1e-5)
    assert scores["i7"] == pytest.approx(float(shop.vectors[6] @ vector) + 0.5, abs=1e-5)
    assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_a_manifest_without_it_does_not_mention_it(tmp_path: Path) -> None:
    """So that a service from before there was one reads the bundle."""
    assert "repeat" not in json.loads((Shop.make().write(tmp_path) / MANIFEST).read_text())
    path = Shop.make().write(tmp_path, "v2", repeat=RAISES)
    assert read_manifest(path).repeat == RAISES


def test_neighbours_have_none(tmp_path: Path) -> None:
    manifest = read_manifest(Shop.make().write(tmp_path, repeat=RAISES)).model_dump()
    changed = manifest | {"kind": "neighbours", "model": "vmis_knn"}
    with pytest.raises(ValidationError, match="neighbours have no vectors"):
        Manifest.model_validate(changed)
    assert Manifest.model_validate(changed | {"repeat": None}).repeat is None


@pytest.mark.parametrize(
    "table",
    [
        {"by_distance": [], "by_count": [0.0]},
        {"by_distance": [1e9], "by_count": [0.0]},
        {"by_distance": [0.1], "by_count": [0.0] * 51},
        {"by_distance": [0.1], "by_count": [0.0], "by_hour": [0.0]},
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, table: dict[str, object]) -> None:
    path = Shop.make().write(tmp_path)
    edit_manifest(path, repeat=table)
    with pytest.raises(BundleError, match=r"field 'repeat\b"):
        Bundle.load(path)


def calls_of_python(served: ServedBundle, queries: Sequence[Query]) -> int:
    counted = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal counted
        counted += event == "call"

    served.rank(queries)
    sys.setprofile(count)
    try:
        served.rank(queries)
    finally:
        sys.setprofile(None)
    return counted


@pytest.mark.parametrize("session", [[1, 2, 3], [1, 2, 1, 3, 2]], ids=["once", "again"])
@pytest.mark.parametrize("table", ["raises", "lowers"])
def test_what_it_costs(table: str, session: list[int]) -> None:
    """Counted: few calls of Python more for each session, however many items it has; one search for all."""
    with_, without = ServedBundle.of(bundle("flat", table)), bundle("flat", table)
    assert isinstance(without.ranker, NearestItems)
    plain = ServedBundle(without, NearestItems(without.ranker.encoder, without.ranker.retriever))

    def more(queries: Sequence[Query]) -> int:
        return calls_of_python(with_, queries) - calls_of_python(plain, queries)

    one = Query(session, 20, ())
    assert more([one]) <= 18
    assert more([one] * 32) - more([one] * 2) <= 30 * 2
    assert more([Query(session * 2, 20, ())]) == more([one])
