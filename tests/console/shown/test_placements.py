"""The form of a placement, to and fro, and what is wrong or changes in words."""

from __future__ import annotations

from typing import Any

import pytest

from console.shown.placements import TEXTS, Form, FormError, changes, errors_of, history_of, listed
from service.catalogue.placements import Placement

RULE = {"attribute": "tags", "contains": "sale"}
FULL: dict[str, Any] = {
    "k": 12,
    "fields": ["title", "price"],
    "filter": {"all": [{"attribute": "price", "lt": 200}, {"not": {"attribute": "brand", "in": ["Ünique"]}}]},
    "boosts": [{"name": "sale", "rule": RULE, "factor": 1.25, "addition": -0.5}, {"rule": RULE}],
    "bury": [{"rule": RULE}],
    "promotions": [{"rule": RULE, "percent": 25}],
    "caps": [{"attribute": "brand", "at_most": 3}],
    "mmr": 0.8,
    "pins": [{"item_id": "sku-88", "position": 1}],
    "exclude_seen": False,
    "stages": ["model", "popular"],
    "model": "niser-1",
}


def stored(placement: dict[str, Any]) -> dict[str, Any]:
    """As the service answers it."""
    return Placement.model_validate(placement).model_dump(mode="json")


@pytest.mark.parametrize("placement", [FULL, {}, *({name: value} for name, value in FULL.items())])
def test_the_form_of_a_placement_says_that_placement(placement: dict[str, Any]) -> None:
    told = stored(placement)
    said = Form.of(told).placement()
    assert stored(said) == told
    assert changes(told, said) == []


def test_what_is_left_empty_is_not_said_and_new_rows_are() -> None:
    form = Form()
    assert form.placement() == {}
    for part in ("boosts", "bury", "promotions", "caps", "pins"):
        form.add(part)
    assert form.placement() == {
        "boosts": [{"factor": 1.5}],
        "bury": [{}],
        "promotions": [{"percent": 20}],
        "caps": [{"at_most": 2}],
        "pins": [{"position": 1}],
    }, "a row that is there is the service's to refuse"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("k", "many", "is no whole number"),
        ("k", "2.5", "is no whole number"),
        ("mmr", "0,5", "is no number"),
        ("filter", '{"attribute": ', "is no JSON: "),
        ("filter", "[" * 100_000, "is no JSON: "),
    ],
)
def test_what_no_placement_could_be_is_told_at_its_field(name: str, text: str, message: str) -> None:
    form = Form()
    form.texts[name] = text
    with pytest.raises(FormError) as error:
        form.placement()
    assert error.value.place == (name,)
    assert error.value.message.startswith(message)


def test_and_in_rows_at_their_place() -> None:
    form = Form.of(FULL)
    form.parts["boosts"][1]["rule"] = "sale"
    with pytest.raises(FormError) as error:
        form.placement()
    assert error.value.place == ("boosts", "1", "rule")


@pytest.mark.parametrize(
    ("path", "place", "text"),
    [
        ("body.placement.k", ("k",), "wrong"),
        ("body.k", ("k",), "wrong"),
        ("body.placement.fields.0", ("fields",), "0: wrong"),
        ("body.placement.filter.all.1.lt", ("filter",), "all.1.lt: wrong"),
        ("body.boosts.0.rule.attribute", ("boosts", "0", "rule"), "attribute: wrong"),
        ("body.pins.2.item_id", ("pins", "2", "item_id"), "wrong"),
        ("body.placement.boosts", (), "boosts: wrong"),
        ("body.placement", (), "wrong"),
        ("body.session_id", (), "session_id: wrong"),
    ],
)
def test_an_error_of_the_service_belongs_to_a_field(path: str, place: tuple[str, ...], text: str) -> None:
    assert errors_of({path: "wrong"}) == {place: text}


def test_changes_are_told_in_words() -> None:
    new = {**FULL, "k": 6, "mmr": None, "boosts": [FULL["boosts"][1]], "pins": FULL["pins"] * 2}
    new["pins"] = [*FULL["pins"], {"item_id": "sku-9", "position": 2}]
    assert changes(stored(FULL), new) == [
        "k: 12 becomes 6",
        "mmr: 0.8 is taken away",
        'boosts: {"rule": {"attribute": "tags", "contains": "sale"}, "factor": 1.25, "addition": -0.5, '
        '"name": "sale"} is taken away',
        'pins: {"item_id": "sku-9", "position": 2} is new',
    ]
    assert changes({"stages": ["model"]}, {}) == ['stages: ["model"] is taken away']
    assert changes(
        {"caps": [{"attribute": "a", "at_most": 1}, {"attribute": "b", "at_most": 1}]},
        {"caps": [{"attribute": "b", "at_most": 1}, {"attribute": "a", "at_most": 1}]},
    ) == ["caps: in another order"]


def test_the_list_tells_how_each_does() -> None:
    base = {
        "name": "home",
        "number": 3,
        "at": 1_700_000_000.0,
        "by": "admin",
        "problem": None,
        "placement": {},
    }
    quality = {"judged": 1200, "hit_rate@20": 0.25, "mrr@20": None}
    one, two = listed([{**base, "live_quality": quality}, {**base, "live_quality": None, "problem": "no"}])
    assert one.version == "3, 2023-11-14 22:13:20 UTC, by admin"
    assert (one.judged, one.hit_rate, one.mrr, one.problem) == ("1,200", "25.0 %", "–", None)
    assert (two.judged, two.hit_rate, two.problem) == ("not known", "not known", "no")


def test_history_tells_what_each_version_changed() -> None:
    def version(number: int, **placement: object) -> dict[str, object]:
        return {"number": number, "at": 1_700_000_000.0, "by": "admin", "placement": placement}

    found = history_of([version(3, k=6), version(2, k=5), version(1, k=4)])
    assert [(each.number, each.changed) for each in found] == [
        (3, ["k: 5 becomes 6"]),
        (2, ["k: 4 becomes 5"]),
        (1, ["k: 4 is new"]),
    ]
    older = history_of([version(22, k=6), version(21, k=5)])
    assert older[-1].changed == [], "what was before it is not kept"
    assert history_of([]) == []


def test_every_field_of_a_placement_is_in_the_form() -> None:
    assert {*TEXTS, *Form().parts} == set(Placement.model_fields)
