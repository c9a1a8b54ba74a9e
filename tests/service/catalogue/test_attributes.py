"""What an item may have, and what each wrong one is told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from service.catalogue import attributes
from service.catalogue.attributes import (
    CatalogueFileError,
    InvalidItem,
    Schema,
    Values,
)
from service.process.settings import Caller, Settings
from service.ranking import bundle, item_ids
from service.state.documents import MAX_ITEM_BYTES

SCHEMA = Schema({"colour": "string", "sizes": "numbers", "class": "text", "sold_at": "time"})


def test_ids_are_those_of_bundles() -> None:
    assert attributes.MAX_ITEM_ID_LENGTH == item_ids.MAX_ITEM_ID_LENGTH
    assert attributes.NO_CONTROL_CHARACTERS == bundle.NO_CONTROL_CHARACTERS


def test_an_item_with_everything() -> None:
    given = {
        "item_id": "a/b",
        "title": "A tent",
        "url": "https://shop/a",
        "image_url": "https://shop/a.jpg",
        "categories": ["Tents", "Sale"],
        "price": 19,
        "currency": "EUR",
        "available": False,
        "brand": "Piko",
        "tags": ["new"],
        "published_at": "2026-01-01T01:00:00+01:00",
        "colour": "red",
        "sizes": [1, 2.5],
        "class": "a word of Python",
        "sold_at": 1.5,
    }
    item_id, values = SCHEMA.read_item(msgspec.json.encode(given), "body.0")
    assert item_id == "a/b"
    assert values == {
        **{name: value for name, value in given.items() if name != "item_id"},
        "published_at": 1767225600.0,
    }
    assert isinstance(values["price"], float)
    assert SCHEMA.checked({k: v for k, v in given.items() if k != "item_id"}, "x") == values


def test_what_is_as_good_as_absent_is_absent() -> None:
    given = {"title": "", "brand": None, "tags": [], "price": 0, "categories": ["a", "a", "b", "a"]}
    assert SCHEMA.checked(given, "x") == {"price": 0.0, "categories": ["a", "b"]}
    changes = SCHEMA.read_changes(msgspec.json.encode(given), "body")
    assert changes == {"title": None, "brand": None, "tags": None, "price": 0.0, "categories": ["a", "b"]}


@pytest.mark.parametrize(
    ("attributes", "field", "said"),
    [
        ({"color": "red"}, "p.color", "unknown field"),
        ({"price": "19"}, "p.price", "Expected float | null, got str"),
        ({"price": True}, "p.price", "Expected float | null, got bool"),
        ({"price": math.nan}, "p.price", ""),
        ({"price": math.inf}, "p.price", ""),
        ({"price": -math.inf}, "p.price", ""),
        ({"sizes": [1, math.nan]}, "p.sizes", ""),
        ({"sizes": [1, "2"]}, "p.sizes.1", "Expected float, got str"),
        ({"available": 1}, "p.available", "Expected bool | null, got int"),
        ({"available": "true"}, "p.available", "Expected bool | null, got str"),
        ({"brand": "a\nb"}, "p.brand", "without control characters"),
        ({"title": "a\x85b"}, "p.title", "without control characters"),
        ({"brand": "x" * 257}, "p.brand", "<= 256"),
        ({"title": "x" * 4097}, "p.title", "<= 4096"),
        ({"tags": "new"}, "p.tags", "Expected array | null, got str"),
        ({"tags": [""]}, "p.tags.0", ">= 1"),
        ({"tags": ["x"] * 33}, "p.tags", "<= 32"),
        ({"published_at": "2026-01-01T00:00:00"}, "p.published_at", "timezone"),
        ({"published_at": "yesterday"}, "p.published_at", "Invalid RFC3339"),
        ({"published_at": "0001-01-01T00:00:00+01:00"}, "p.published_at", "years 1 to 9999"),
        ({"published_at": 1e13}, "p.published_at", "<="),
        ({"published_at": math.nan}, "p.published_at", ""),
        (["title"], "p", "Expected object, got array"),
    ],
)
def test_what_is_wrong_is_named(attributes: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidItem) as caught:
        SCHEMA.checked(attributes, "p", "sku-1")
    assert (caught.value.field if field[-1].isdigit() else caught.value.field.rstrip(".01")) == field
    assert said in caught.value.message
    assert caught.value.item_id == "sku-1"
    assert str(caught.value).endswith("(item sku-1)")


@pytest.mark.parametrize(
    ("content", "field", "item_id"),
    [
        (b'{"title": "x"}', "body.3.item_id", None),
        (b'{"item_id": ""}', "body.3.item_id", None),
        (b'{"item_id": "a\\u0000"}', "body.3.item_id", None),
        (b'{"item_id": "%s"}' % (b"x" * 257), "body.3.item_id", None),
        (b'{"item_id": "a", "price": "1"}', "body.3.price", "a"),
        (b'{"item_id": "a", "price": 1e999}', "body.3.price", "a"),
        (b'{"item_id": "a", "title": "\\ud800"}', "body.3", None),
        (b'{"item_id": "a", ', "body.3", None),
        (b"\xff", "body.3", None),
        (b"[" * 100_000, "body.3", None),
        (b'{"item_id": "a", "tags": ' + b"[" * 100_000, "body.3.tags.0", None),
    ],
)
def test_an_item_that_cannot_be_read_is_named_as_far_as_possible(
    content: bytes, field: str, item_id: str | None
) -> None:
    with pytest.raises(InvalidItem) as caught:
        SCHEMA.read_item(content, "body.3")
    assert caught.value.field == field
    assert caught.value.item_id == item_id


def test_an_item_has_its_bounds() -> None:
    tags = [f"{number:02}" + "x" * 240 for number in range(32)]
    with pytest.raises(InvalidItem, match=f"at most {MAX_ITEM_BYTES}"):
        SCHEMA.checked({"tags": tags, "categories": tags, "title": "x" * 4000}, "p")
    assert SCHEMA.checked({"tags": tags, "categories": tags}, "p")


def test_a_file_declares_more(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text('[attributes]\ncolour = "string"\n"sizes" = "strings"\n')
    schema = Schema.read(file)
    assert schema.kinds["colour"] == "string"
    assert schema.checked({"sizes": ["S"], "price": 1}, "p") == {"sizes": ["S"], "price": 1}
    assert "colour" not in Schema.read(None).kinds


def test_what_is_private_is_not_there_for_pages(tmp_path: Path) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text('private = ["margin", "price"]\n[attributes]\nmargin = "number"\n')
    schema = Schema.read(file)
    values: Values = {"title": "x", "price": 1.0, "margin": 0.5}
    assert schema.kinds_for("public").keys() == schema.kinds.keys() - {"margin", "price"}
    assert schema.shown_to("public", values) == {"title": "x"}
    callers: tuple[Caller, ...] = ("server", "admin")
    for caller in callers:
        assert schema.kinds_for(caller) == schema.kinds
        assert schema.shown_to(caller, values) == values
    assert Schema().shown_to("public", values) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[attributes]\ncolour = "colour"\n', "catalogue.toml:2: colour: must be one of text, string"),
        ("[attributes]\ncolour = 3\n", "catalogue.toml:2: colour: must be one of"),
        ('[attributes]\n\nprice = "string"\n', "catalogue.toml:3: price: is known already, as number"),
        ('[attributes]\nscore = "number"\n', "catalogue.toml:2: score: this name is taken"),
        ('[attributes]\n"Größe" = "string"\n', "catalogue.toml:2: Größe: a name is of a-z"),
        ('[attribute]\ncolour = "string"\n', "catalogue.toml:1: attribute: unknown"),
        ("attributes = 3\n", "catalogue.toml:1: attributes: must be a table"),
        ('[attributes]\nprivate = ["price"]\n', "catalogue.toml:2: private: must be one of"),
        ('private = "price"\n', "catalogue.toml:1: private: must be a list of names"),
        ('\nprivate = ["price", "margin"]\n', "catalogue.toml:2: private: there is no attribute 'margin'"),
        ("private = [[3]]\n", "catalogue.toml:1: private: there is no attribute [3]"),
        ("[attributes\n", "line 1"),
        ("[attributes]\n" + "".join(f'a{n} = "bool"\n' for n in range(65)), "at most 64"),
    ],
)
def test_a_wrong_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "catalogue.toml"
    file.write_text(text)
    with pytest.raises(CatalogueFileError) as caught:
        Schema.read(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)


def test_the_settings_name_the_file_and_the_working_directory_may_hold_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Schema.of(Settings()).kinds == Schema().kinds
    (tmp_path / "catalogue.toml").write_text('[attributes]\ncolour = "string"\n')
    (tmp_path / "other.toml").write_text('[attributes]\nsize = "string"\n')
    assert "colour" in Schema.of(Settings()).kinds
    assert "size" in Schema.of(Settings(catalogue_file=tmp_path / "other.toml")).kinds
    with pytest.raises(CatalogueFileError, match="missing"):
        Schema.of(Settings(catalogue_file=tmp_path / "missing.toml"))


def test_numbers_keep_their_places_and_names_stand_once() -> None:
    schema = Schema({"embedding": "numbers"})
    checked = schema.checked({"embedding": [0.5, 0, 0, 0.5], "tags": ["a", "b", "a"]}, "item")
    assert checked == {"embedding": [0.5, 0.0, 0.0, 0.5], "tags": ["a", "b"]}
