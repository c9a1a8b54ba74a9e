"""Columns against a plain dict, however items come, change and go."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.attributes import MAX_LIST_LENGTH, Values
from service.catalogue.columns import FIRST_ROWS, MAX_FIELD_SETS, Columns
from tests.service.catalogue.catalogues import KINDS, values

ids = st.sampled_from(["a", "b", "c", "d", "e"])
changes = st.lists(st.tuples(ids, st.none() | values), max_size=8)


def shown(columns: Columns, item_ids: list[str], fields: tuple[str, ...]) -> list[dict[str, Any]]:
    return [msgspec.json.decode(each) for each in columns.values(item_ids, fields)]


def expected(item: Values, fields: tuple[str, ...]) -> dict[str, Any]:
    def value(name: str) -> object:
        found = item.get(name)
        if name == "published_at" and isinstance(found, float):
            return datetime.fromtimestamp(found, UTC).isoformat().replace("+00:00", "Z")
        return found

    return {name: value(name) for name in fields}


@given(st.lists(changes, max_size=6), st.lists(st.sampled_from(sorted(KINDS)), unique=True))
def test_what_is_shown_is_what_was_put_last(batches: list[Any], asked: list[str]) -> None:
    columns, fields = Columns(KINDS), tuple(asked)
    truth: dict[str, Values] = {}
    for batch in batches:
        before = {item_id: columns.row_of.get(item_id, 0) for item_id in "abcde"}
        changed = set(columns.apply(batch).tolist())
        for item_id, item in batch:
            truth.pop(item_id, None) if item is None else truth.__setitem__(item_id, item)
        assert set(columns.row_of) == set(truth)
        assert len(columns) == len(truth)
        assert len({*columns.row_of.values(), 0}) == len(truth) + 1, "no two share a row, and none has row 0"
        assert shown(columns, list("abcde"), fields) == [
            expected(truth.get(item_id, {}), fields) for item_id in "abcde"
        ]
        touched = {item_id for item_id, _ in batch}
        assert changed >= {columns.row_of[item_id] for item_id in touched & set(truth)}
        assert changed >= {before[item_id] for item_id in touched - set(truth) if before[item_id]}
        assert all(columns.row_of.get(item_id, 0) == before[item_id] for item_id in set("abcde") - touched)


def test_the_row_of_what_is_deleted_is_taken_again() -> None:
    columns = Columns(KINDS)
    for number in range(5000):
        columns.apply([(f"i{number}", {"brand": "b"}), (f"i{number - 10}", None)])
    assert len(columns) == 10
    assert columns.n_rows < 20


def test_columns_grow() -> None:
    columns, many = Columns(KINDS), 3 * FIRST_ROWS
    columns.apply([(f"i{number}", {"price": float(number), "title": f"t{number}"}) for number in range(many)])
    longest = [f"c{number}" for number in range(MAX_LIST_LENGTH)]
    columns.apply([("i5", {"categories": longest})])
    assert shown(columns, ["i5", f"i{many - 1}", "?"], ("title", "price", "categories")) == [
        {"title": None, "price": None, "categories": longest},
        {"title": f"t{many - 1}", "price": float(many - 1), "categories": None},
        {"title": None, "price": None, "categories": None},
    ]


def test_a_ready_answer_is_the_same_object_until_its_item_changes() -> None:
    columns, fields = Columns(KINDS), ("title", "price")
    columns.apply([("a", {"price": 1.0}), ("b", {"price": 2.0})])
    asked = ["a", "b", "?"]
    first = columns.values(asked, fields)
    columns.apply([("b", {"price": 3.0})])
    again = columns.values(asked, fields)
    assert [old is new for old, new in zip(first, again, strict=True)] == [True, False, True]
    assert bytes(again[1]) == b'{"title":null,"price":3.0}'
    columns.apply([("?", {"price": 4.0}), ("a", None)])
    later = [bytes(each) for each in columns.values(asked, fields)]
    assert later == [b'{"title":null,"price":null}', bytes(again[1]), b'{"title":null,"price":4.0}']
    for name in [*KINDS][: MAX_FIELD_SETS + 1]:
        columns.values(asked, (name, "price"))
        columns.values(asked, (name, "brand"))
    assert len(columns._ready) == MAX_FIELD_SETS


@pytest.mark.parametrize("time", [0.0, -1.5, 1_700_000_000.25, 253_402_300_799.0])
def test_a_time_is_shown_in_utc(time: float) -> None:
    columns = Columns(KINDS)
    columns.apply([("a", {"published_at": time})])
    (answer,) = shown(columns, ["a"], ("published_at",))
    assert answer["published_at"].endswith("Z")
    assert datetime.fromisoformat(answer["published_at"]).timestamp() == time
