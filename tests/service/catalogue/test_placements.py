"""What a placement may say, what is wrong with one that says something else, and what is made of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from service.catalogue.attributes import KNOWN
from service.catalogue.columns import Columns
from service.catalogue.placements import Placement, PlacementError, prepare, prepare_all
from service.catalogue.rules import Session
from service.catalogue.steering import Found, Pool, steer

SALE = {"attribute": "tags", "contains": "sale"}
WHOLE: dict[str, Any] = {
    "k": 12,
    "fields": ["title", "price"],
    "filter": {"attribute": "price", "lt": 50},
    "boosts": [{"rule": SALE, "factor": 1.2, "name": "sale"}],
    "bury": [{"rule": {"attribute": "brand", "eq": "b"}}],
    "promotions": [{"rule": SALE, "percent": 25}],
    "caps": [{"attribute": "categories", "at_most": 3}],
    "mmr": 0.7,
    "pins": [{"item_id": "i1", "position": 1}],
    "exclude_seen": True,
    "stages": ["trending", "model"],
    "model": "v1",
}


def test_a_whole_one_survives_json() -> None:
    placement = Placement.model_validate(WHOLE)
    assert Placement.model_validate_json(placement.model_dump_json()) == placement
    assert placement.model_dump(mode="json", exclude_defaults=True) == WHOLE


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"k": 0}, "k"),
        ({"k": "12"}, "k"),
        ({"k": True}, "k"),
        ({"colour": "red"}, "colour"),
        ({"boosts": [{"rule": SALE, "factor": -1}]}, "boosts.0.factor"),
        ({"boosts": [{"rule": SALE, "factor": float("nan")}]}, "boosts.0.factor"),
        ({"boosts": [{"factor": 2}]}, "boosts.0.rule"),
        ({"promotions": [{"rule": SALE, "percent": 101}]}, "promotions.0.percent"),
        ({"caps": [{"attribute": "brand", "at_most": 0}]}, "caps.0.at_most"),
        ({"pins": [{"item_id": "", "position": 1}]}, "pins.0.item_id"),
        ({"pins": [{"item_id": "a\x00", "position": 1}]}, "pins.0.item_id"),
        ({"pins": [{"item_id": "a", "position": 1}, {"item_id": "a", "position": 2}]}, ""),
        ({"pins": [{"item_id": "a", "position": 1}, {"item_id": "b", "position": 1}]}, ""),
        ({"mmr": 1.5}, "mmr"),
        ({"stages": []}, "stages"),
        ({"stages": ["model", "model"]}, ""),
        ({"stages": ["magic"]}, "stages.0"),
        ({"model": "../v1"}, "model"),
        ({"filter": {"attribute": "brand", "in": ["x" * 250] * 200}}, ""),
    ],
)
def test_what_is_wrong_names_its_field(changed: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationError) as raised:
        Placement.model_validate(WHOLE | changed)
    assert ".".join(map(str, raised.value.errors()[0]["loc"])) == field


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"fields": ["title", "colour"]}, "body.fields.1"),
        ({"filter": {"all": [SALE, {"attribute": "price", "lt": "50"}]}}, "body.filter.all.1.lt"),
        ({"boosts": [{"rule": {"attribute": "colour", "eq": "red"}}]}, "body.boosts.0.rule.attribute"),
        ({"bury": [{"rule": {}}]}, "body.bury.0.rule"),
        (
            {"promotions": [{"rule": {"attribute": "title", "eq": "x"}, "percent": 1}]},
            "body.promotions.0.rule",
        ),
        ({"caps": [{"attribute": "price", "at_most": 1}]}, "body.caps.0.attribute"),
        ({"caps": [{"attribute": "colour", "at_most": 1}]}, "body.caps.0.attribute"),
    ],
)
def test_what_the_schema_forbids_names_its_field(changed: dict[str, object], field: str) -> None:
    with pytest.raises(PlacementError) as raised:
        prepare("home", Placement.model_validate(WHOLE | changed), KNOWN, "body.")
    assert raised.value.field.startswith(field)


def test_one_that_cannot_be_read_does_not_take_the_others_along() -> None:
    good = Placement.model_validate(WHOLE)
    bad = Placement.model_validate({"filter": {"attribute": "colour", "eq": "red"}})
    prepared = prepare_all({"good": good, "bad": bad}, KNOWN)
    assert prepared["good"].problem is None
    assert prepared["bad"].problem == "filter.attribute: there is no attribute 'colour'"


def test_its_rules_steer() -> None:
    columns = Columns(KNOWN)
    columns.apply(
        [
            ("i1", {"brand": "a", "categories": ["shoes"]}),
            ("i2", {"brand": "a", "categories": ["shoes", "sport"]}),
            ("i3", {"brand": "b", "tags": ["sale"], "categories": ["hats"]}),
            ("i4", {"tags": ["sale", "new"]}),
        ]
    )
    pool = Pool([Found("model", [(f"i{n}", 1 - n / 10) for n in range(1, 6)], is_cosine=True)])
    rows = np.array(columns.rows(pool.item_ids))

    def answer(k: int = 5, session: Session = Session(), **placement: object) -> list[str]:  # noqa: B008
        prepared = prepare("home", Placement.model_validate(placement), KNOWN)
        assert prepared.steers
        steered = steer(pool, prepared.steering(session, columns), k, rows)
        return [entry.item_id for entry in steered]

    assert answer(boosts=[{"rule": SALE, "factor": 2.0}]) == ["i3", "i4", "i1", "i2", "i5"]
    assert answer(bury=[{"rule": {"attribute": "brand", "exists": True}}])[:2] == ["i4", "i5"]
    assert answer(2, promotions=[{"rule": SALE, "percent": 50}]) == ["i1", "i3"]
    assert answer(3, caps=[{"attribute": "categories", "at_most": 1}]) == ["i1", "i3", "i4"]
    assert answer(3, caps=[{"attribute": "brand", "at_most": 1}]) == ["i1", "i3", "i4"]
    assert answer(2, pins=[{"item_id": "i5", "position": 1}, {"item_id": "?", "position": 2}]) == ["i5", "i1"]
    same = [{"rule": {"same": "categories"}, "factor": 3.0}]
    assert answer(boosts=same, session=Session.of(["i3"], columns))[0] == "i3"
    assert answer(boosts=same) == ["i1", "i2", "i3", "i4", "i5"], "of a session that has no such value"
