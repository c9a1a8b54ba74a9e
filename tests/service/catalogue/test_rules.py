"""Rules against plain Python, and every way to write one wrong."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue.attributes import Values
from service.catalogue.columns import Columns
from service.catalogue.rules import All, RuleError, Session, decode, every, read
from tests.service.catalogue.catalogues import KINDS, holds, rules, values

catalogues = st.lists(values, max_size=12)


def filled(items: list[Values]) -> Columns:
    columns = Columns(KINDS)
    columns.apply([(f"i{number}", item) for number, item in enumerate(items)])
    return columns


@given(catalogues, rules(), st.data())
def test_a_mask_is_what_plain_python_says(
    items: list[Values], tree: dict[str, Any], data: st.DataObject
) -> None:
    columns = filled(items)
    clicked = data.draw(st.lists(st.integers(0, len(items)), max_size=5, unique=True))  # one is unknown
    session = [items[number] if number < len(items) else None for number in clicked]
    rule = decode(msgspec.json.encode(tree), KINDS)
    bound = rule.bound(Session.of([f"i{number}" for number in clicked], columns), columns)
    if not rule.is_relative:
        assert bound == rule
    answers = [holds(tree, {}, session), *(holds(tree, item, session) for item in items)]
    assert not bound.is_relative
    assert bound.mask(columns).tolist() == answers
    some = np.array(data.draw(st.lists(st.integers(0, len(items)), max_size=5)), dtype=np.int64)
    assert bound.mask(columns, some).tolist() == [answers[row] for row in some.tolist()]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"attribute": "price", "lt": 5, "gte": 1}, {"attribute": "price", "gte": 1.0, "lt": 5}),
        ({"attribute": "brand", "in": ["b", "a", "b"]}, {"attribute": "brand", "in": ["a", "b"]}),
        ({"attribute": "brand", "eq": "a"}, {"any": [{"all": [{"attribute": "brand", "in": ["a"]}]}]}),
        (
            {"all": [{"same": "brand"}, {"all": [{"near": "price", "percent": 5}, {"same": "brand"}]}]},
            {"all": [{"near": "price", "percent": 5.0}, {"same": "brand"}]},
        ),
        ({"not": {"not": {"same": "brand"}}}, {"same": "brand"}),
        ({"attribute": "brand", "exists": False}, {"not": {"attribute": "brand", "exists": True}}),
        (
            {"attribute": "published_at", "lt": "1970-01-01T01:00:00+01:00"},
            {"attribute": "published_at", "lt": 0},
        ),
    ],
)
def test_what_means_the_same_is_the_same_rule(one: object, other: object) -> None:
    assert read(one, KINDS) == read(other, KINDS)
    assert hash(read(one, KINDS)) == hash(read(other, KINDS))


def test_rules_that_look_alike_are_not_the_same() -> None:
    trees: list[dict[str, Any]] = [
        {"all": []},
        {"any": []},
        {"attribute": "price", "lt": 5},
        {"attribute": "price", "lte": 5},
        {"attribute": "available", "eq": True},
        {"attribute": "price", "eq": 1},
        {"attribute": "price", "exists": True},
        {"same": "price"},
        {"near": "price", "percent": 1},
    ]
    found = [read(tree, KINDS) for tree in trees] + [read({"not": tree}, KINDS) for tree in trees]
    assert len(set(found)) == 2 * len(trees) - 2, "not true is false, not false is true"
    assert (
        every([found[2], found[4]])
        == every([found[4], found[2]])
        == All(tuple(sorted(found[2:5:2], key=repr)))
    )


def nested(depth: int) -> object:
    """So many levels, the leaf among them."""
    tree: object = {"same": "brand"}
    for level in range(depth - 1):
        tree = {"not": tree} if level % 2 else {"all": [tree]}
    return tree


LEAF = {"attribute": "brand", "eq": "a"}


@pytest.mark.parametrize(
    ("tree", "place", "message"),
    [
        ([], "filter", "an object is expected"),
        ({}, "filter", "has none of: all, any, not"),
        ({"all": {}}, "filter.all", "a list of rules"),
        ({"all": [LEAF, 5]}, "filter.all.1", "an object"),
        ({"all": [LEAF], "any": []}, "filter.any", "unknown"),
        (
            {"any": [{"not": {"attribute": "colour", "eq": 1}}]},
            "filter.any.0.not.attribute",
            "no attribute 'colour'",
        ),
        ({"attribute": ["price"], "eq": 1}, "filter.attribute", "the name of an attribute"),
        ({"attribute": "title", "eq": "x"}, "filter.attribute", "only shown"),
        ({"attribute": "price"}, "filter", "compared with nothing"),
        ({"attribute": "price", "like": 5}, "filter.like", "unknown"),
        ({"all": [LEAF, {"attribute": "price", "lt": "5"}]}, "filter.all.1.lt", "a number is expected"),
        ({"attribute": "price", "lt": True}, "filter.lt", "a number is expected"),
        ({"attribute": "price", "lt": None}, "filter.lt", "a number is expected"),
        ({"attribute": "price", "lt": 10**400}, "filter.lt", "a number is expected"),
        ({"attribute": "price", "in": 5}, "filter.in", "a list of values"),
        ({"attribute": "price", "in": [5, "6"]}, "filter.in.1", "a number is expected"),
        ({"attribute": "price", "contains": 5}, "filter.contains", "no list"),
        ({"attribute": "categories", "eq": "a"}, "filter.eq", "is a list"),
        ({"attribute": "categories", "contains": ["a"]}, "filter.contains", "a string is expected"),
        ({"attribute": "brand", "lt": "b"}, "filter.lt", "has an order"),
        ({"attribute": "brand", "eq": 5}, "filter.eq", "a string is expected"),
        ({"attribute": "brand", "eq": "x" * 257}, "filter.eq", "longer than 256"),
        ({"attribute": "available", "eq": 1}, "filter.eq", "true or false"),
        ({"attribute": "available", "exists": "yes"}, "filter.exists", "true or false"),
        ({"attribute": "published_at", "lt": "today"}, "filter.lt", "a time in ISO 8601"),
        ({"attribute": "published_at", "lt": "2026-01-01"}, "filter.lt", "its zone"),
        ({"same": "colour"}, "filter.same", "no attribute"),
        ({"same": "published_at"}, "filter.same", "is a time"),
        ({"near": "brand", "percent": 5}, "filter.near", "of kind string"),
        ({"near": "price"}, "filter.percent", "a number"),
        ({"near": "price", "percent": -1}, "filter.percent", "a number"),
        ({"near": "price", "percent": 5, "of": "all"}, "filter.of", "unknown"),
        ({"all": [LEAF] * 33}, "filter", "more than 32 leaves"),
        ({"any": [{"all": [LEAF] * 11}] * 3}, "filter", "more than 32 leaves"),
        (nested(9), "filter", "nested deeper than 8"),
        ({"attribute": "price", "in": [1] * 1001}, "filter", "more than 1000 values"),
        ({"any": [{"attribute": "price", "in": [1] * 400}] * 3}, "filter", "more than 1000 values"),
    ],
)
def test_what_is_wrong_is_named(tree: object, place: str, message: str) -> None:
    with pytest.raises(RuleError) as refused:
        read(tree, KINDS)
    assert refused.value.place == place
    assert message in refused.value.message


def test_a_rule_may_be_as_large_as_the_limits() -> None:
    assert read({"any": [{"all": [LEAF] * 16}, {"all": [LEAF] * 16}]}, KINDS) == read(LEAF, KINDS)
    assert read(nested(8), KINDS).is_relative
    assert read({"attribute": "price", "in": [1] * 1000}, KINDS) == read(
        {"attribute": "price", "eq": 1}, KINDS
    )


@pytest.mark.parametrize("text", [b"", b"{", b'{"all": [}', b"\xff", b"[" * 100_000, b'{"same": "\\ud800"}'])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(RuleError, match=r"^body\.filter: not JSON"):
        decode(text, KINDS, "body.filter")
