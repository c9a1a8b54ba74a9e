"""Filters against plain Python, while items, what is hidden, bundles and the whole catalogue change."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.catalogue import filters as module
from service.catalogue.attributes import Values
from service.catalogue.columns import Columns
from service.catalogue.filters import Alignment, Filters
from service.catalogue.rules import read
from service.ranking.bundle import Bundle
from service.ranking.served import ServedBundle
from tests.service.bundles import Shop
from tests.service.catalogue.catalogues import KINDS, holds, rules, values

pytestmark = pytest.mark.anyio

SHOP = Shop.make(n_items=8)
OUTSIDE = ["new", "i9", "i10"]  # items of no bundle, or of the other one
ids = st.sampled_from([*SHOP.items, *OUTSIDE])
changes = st.lists(st.tuples(ids, st.none() | values), max_size=5)
steps = st.lists(
    st.tuples(st.just("apply"), changes)
    | st.tuples(st.just("ask"), st.integers(0, 2))
    | st.tuples(st.just("hide"), st.frozensets(ids, max_size=3))
    | st.tuples(st.just("swap"), st.integers(0, 1)),
    max_size=12,
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    """Two of the same shop, the second with two items more."""
    path = tmp_path_factory.mktemp("artifacts")
    return [Bundle.load(Shop.make(n_items=n).write(path, f"v{n}")) for n in (8, 10)]


def may_answer(rule: dict[str, Any] | None, item: Values) -> bool:
    return item.get("available") is not False and (rule is None or holds(rule, item))


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps=steps, trees=st.lists(rules(relative=False), min_size=3, max_size=3))
def test_filters_let_through_what_plain_python_does(
    bundles: list[Bundle], steps: list[tuple[str, Any]], trees: list[dict[str, Any]]
) -> None:
    filters, truth = Filters(KINDS), dict[str, Values]()
    served, hidden = ServedBundle.of(bundles[0]), frozenset[str]()

    def switch(bundle: Bundle) -> ServedBundle:
        new = ServedBundle.of(bundle, hidden)
        alignments = filters.aligning([bundle])
        for each in alignments:
            each.fill()
        filters.keep([new], alignments)
        return new

    for step, what in [*steps, ("ask", 0), ("ask", 1), ("ask", 2)]:
        if step == "apply":
            filters.apply(what)
            truth.update(what)
            truth = {item_id: item for item_id, item in truth.items() if item is not None}
        elif step == "hide":
            hidden = what
            served = switch(served.bundle)
        elif step == "swap":
            served = switch(bundles[what])
        for tree in (None, trees[what]) if step == "ask" else (None,):
            rule = None if tree is None else read(tree, KINDS)
            allows = filters.allows(rule)
            for item_id in (*SHOP.items, *OUTSIDE, "unheard of"):
                assert allows(item_id) is may_answer(tree, truth.get(item_id, {}))
            assert [served.bundle.items[item] for item in filters.served(served, rule).visible] == [
                item_id
                for item_id in served.bundle.items[1:]
                if item_id not in hidden and may_answer(tree, truth.get(item_id, {}))
            ]


def of(*item_ids: str, **item: Any) -> list[tuple[str, Values | None]]:
    return [(item_id, item) for item_id in item_ids]


def test_nothing_is_restricted_while_all_is_available(bundles: list[Bundle]) -> None:
    filters, served = Filters(KINDS), ServedBundle.of(bundles[0])
    filters.apply(of("i1", "i2", available=True))
    assert filters.served(served) is served
    filters.apply(of("i1", available=False))
    assert filters.served(served).visible.tolist() == [2, 3, 4, 5, 6, 7, 8]
    filters.apply(of("i1", available=True))
    assert filters.served(served) is served


def test_a_restricted_bundle_stays_until_an_item_comes_in_or_out(bundles: list[Bundle]) -> None:
    filters, served = Filters(KINDS), ServedBundle.of(bundles[0])
    filters.apply([*of("i1", "i2", price=5.0, brand="b"), *of("i3", price=15.0)])
    rule = read({"attribute": "price", "lt": 10}, KINDS)
    first = filters.served(served, rule)
    filters.apply([*of("i1", price=6.0), *of("i3", price=20.0), *of("not in it", price=1.0)])
    same = read({"all": [{"attribute": "price", "lt": 10.0}]}, KINDS)
    assert filters.served(served, same) is first, "another price on the same side"
    filters.apply(of("i3", price=9.0))
    assert filters.served(served, rule).visible.tolist() == [1, 2, 3]
    # One goes, another takes its row, and what the row says does not change.
    filters.apply([("i1", None)])
    filters.apply(of("i5", price=5.0))
    assert filters.served(served, rule).visible.tolist() == [2, 3, 5]


def test_of_many_rules_those_asked_last_stay_compiled(
    bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    filters, served = Filters(KINDS), ServedBundle.of(bundles[0])
    filters.apply([*of("i1", "i2", price=5.0)])
    asked = [read({"attribute": "price", "gt": -n}, KINDS) for n in range(module.MAX_RULES + 1)]
    first, second = (filters.served(served, rule) for rule in asked[:2])
    for rule in asked[2:]:
        assert filters.served(served, asked[0]) is first
        filters.served(served, rule)
    assert filters.served(served, asked[0]) is first
    assert filters.served(served, asked[1]) is not second


def test_a_mask_that_nobody_asked_for_in_long_is_right_again() -> None:
    filters, rule = Filters(KINDS), read({"attribute": "price", "lt": 10}, KINDS)
    assert not filters.allows(rule)("i1")
    for number in range(module.MAX_BEHIND + 2):
        filters.apply(of(f"n{number}", price=float(number)))
    filters.apply(of("i1", price=5.0))
    assert [filters.allows(rule)(item_id) for item_id in ("i1", "n9", "n10", "?")] == [
        True,
        True,
        False,
        False,
    ]


def test_rules_of_a_session_are_bound_to_it(bundles: list[Bundle]) -> None:
    filters, served = Filters(KINDS), ServedBundle.of(bundles[0])
    filters.apply([*of("i1", "i2", categories=["a", "b"]), *of("i3", categories=["b"]), *of("i4", price=1.0)])
    rule = read({"same": "categories"}, KINDS)

    def visible(*session: str) -> list[int] | None:
        found = filters.asked(rule, session)
        return None if found is None else found.served(served).visible.tolist()

    assert visible("i4", "i1") == [1, 2, 3]
    assert visible("i1", "i3") == [1, 2, 3]
    assert visible("i1", "i4") is visible("?") is visible() is None


async def test_a_whole_new_catalogue_takes_the_place_of_the_old_one(bundles: list[Bundle]) -> None:
    filters, served = Filters(KINDS), ServedBundle.of(bundles[0])
    filters.apply(of("i1", "i2", "i3", brand="old"))
    rule = read({"attribute": "brand", "eq": "old"}, KINDS)
    assert filters.served(served, rule).visible.tolist() == [1, 2, 3]
    pending = filters.aligning([bundles[1]])  # a bundle that loads at this very moment
    new = Columns(KINDS)
    new.apply([*of("i4", brand="old"), *of("i1", brand="new"), *of("i10", brand="old", available=False)])
    assert filters.served(served, rule).visible.tolist() == [1, 2, 3], "nobody sees it half"
    await filters.replace(new)
    assert filters.served(served, rule).visible.tolist() == [4]
    for each in pending:
        each.fill()
    other = ServedBundle.of(bundles[1])
    filters.keep([other], pending)
    assert filters.served(other, rule).visible.tolist() == [4]
    assert filters.served(other).visible.tolist() == list(range(1, 10))
    filters.apply(of("i5", brand="old"))
    assert filters.served(other, rule).visible.tolist() == [4, 5]


def test_what_changes_while_a_bundle_is_aligned_is_not_lost(
    bundles: list[Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another thread, item by item, with changes between any two of them."""
    monkeypatch.setattr(module, "CAUGHT_UP", 2)
    columns = Columns(KINDS)
    columns.apply(of(*(f"i{n}" for n in range(1, 9)), brand="b"))
    alignment = Alignment(bundles[1], columns)
    fills = threading.Thread(target=alignment.fill)
    fills.start()
    for number in range(3000):
        batch = [(f"i{1 + number % 10}", None), (f"i{1 + (number + 5) % 10}", {"brand": "c"})]
        columns.apply(batch)
        alignment.update([item_id for item_id, _ in batch])
        if number == 1500:
            fills.join()
    alignment.finish()
    assert alignment.rows.tolist() == [columns.row_of.get(item_id, 0) for item_id in bundles[1].items]
