"""Content where attributes tell all there is to tell: what is learned is right, and not too loud."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.base import Head
from models.sessions import Sessions
from service.catalogue.attributes import Schema, Values
from service.ranking.content import CONTENT, Content
from service.ranking.retriever import Vectors
from training.bundling.content import (
    TOP,
    Attributes,
    Cases,
    ContentError,
    fit_content,
    newest_cases,
)

BRANDS, SHELVES = 8, 10
PER_KIND = 5
N = BRANDS * SHELVES * PER_KIND
KINDS = Schema().kinds
RANDOM = np.random.default_rng(5)
BRAND, SHELF = (np.indices((BRANDS, SHELVES, PER_KIND))[axis].ravel() for axis in (0, 1))
ITEMS = [f"i{number}" for number in range(N)]


def values_of(row: int) -> Values:
    return {
        "title": f"Thing {row} of brand{BRAND[row]}",
        "brand": f"b{BRAND[row]}",
        "categories": [f"c{SHELF[row]}"],
        "price": 10.0,
        "image_url": f"https://shop/{row}",
        "available": True,
    }


SAID = Attributes(KINDS, {item_id: values_of(row) for row, item_id in enumerate(ITEMS)})


def planted(head: Head, noise: float = 0.02, *, together: bool = False) -> Vectors:
    """Item vectors that are a sum of one direction for the brand and one for the shelf, or one for both."""
    of_brand, of_shelf = RANDOM.normal(size=(BRANDS, 12)), RANDOM.normal(size=(SHELVES, 12))
    of_both = RANDOM.normal(size=(BRANDS, SHELVES, 12))
    vectors = of_both[BRAND, SHELF] if together else of_brand[BRAND] + of_shelf[SHELF]
    vectors = vectors + noise * RANDOM.normal(size=(N, 12))
    if head == "native":
        vectors /= 1.01 * np.linalg.norm(vectors, axis=1).max()
        vectors = np.column_stack([vectors, np.sqrt(1 - np.square(vectors).sum(1))])
    units: Vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


HELD_BACK_AND_OTHERS = ("items held back", "the others beside them")


def cases_of(vectors: Vectors, head: Head, n: int = 600) -> Cases:
    """Each session looks in the direction of what it clicks next."""
    targets = RANDOM.integers(0, N, n)
    queries = vectors[targets].copy()
    if head == "native":
        queries[:, -1] = 0
    queries += 0.05 * RANDOM.normal(size=queries.shape)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return Cases(queries.astype(np.float32), targets + 1)


def learned(vectors: Vectors, head: Head, said: Attributes = SAID) -> Content:
    return fit_content(vectors, head, ITEMS, np.full(N, 9), said, cases_of(vectors, head))


@pytest.mark.parametrize("head", ["niser", "native"])
@pytest.mark.parametrize("together", [False, True], ids=["each says its own", "they say it together"])
def test_a_new_item_lies_where_its_attributes_say(head: Head, together: bool, tmp_path: Path) -> None:
    vectors = planted(head, together=together)
    without_last = Attributes(KINDS, {item_id: SAID.items[item_id] for item_id in ITEMS[:-1]})
    learned(vectors, head, without_last).save(tmp_path / CONTENT)
    content = Content.load(tmp_path / CONTENT, vectors.shape[1])
    found = content.vector({"brand": f"b{BRAND[-1]}", "categories": [f"c{SHELF[-1]}"], "price": 11.0})
    assert found is not None
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    stop = -1 if head == "native" else None
    cosines = vectors[:, :stop] @ found[:stop] / np.linalg.norm(vectors[:, :stop], axis=1)
    alike = (BRAND[-1] == BRAND) & (SHELF[-1] == SHELF)
    assert set(np.argsort(-cosines)[:PER_KIND]) == set(np.flatnonzero(alike))
    assert not {"image_url", "available", "published_at", "tags"} & content.kinds.keys(), "say nothing here"


@pytest.mark.parametrize("head", ["niser", "native"])
def test_items_held_back_take_the_share_of_places_that_they_have_of_clicks(head: Head) -> None:
    measured = learned(planted(head), head, Attributes(KINDS, SAID.items, cold_share=1.0)).measured
    assert 5 < measured["share of next clicks"] < 15
    assert measured["share of places"] == pytest.approx(measured["share of next clicks"], abs=0.5)
    assert measured["recall@20 of items held back"] > 50, "they are among the right ones"
    lost = measured["recall@20 of the others without them"] - measured["recall@20 of the others beside them"]
    assert 0 <= lost < 20


def test_the_share_of_places_can_be_set() -> None:
    vectors = planted("niser")
    half = learned(vectors, "niser", Attributes(KINDS, SAID.items, cold_share=0.5)).measured
    assert half["share of places"] == pytest.approx(half["share of next clicks"] / 2, abs=0.5)


def test_without_a_share_most_of_all_clicks_are_found() -> None:
    vectors = planted("niser")

    def found(share: float | None) -> float:
        said = Attributes(KINDS, SAID.items, cold_share=share)
        measured = learned(vectors, "niser", said).measured
        cold = measured["share of next clicks"] / 100
        held_back, others = (measured[f"recall@20 of {who}"] for who in HELD_BACK_AND_OTHERS)
        return cold * held_back + (1 - cold) * others

    assert found(None) >= max(found(0.1), found(0.35), found(1.0)) - 1e-6


def test_few_attributes_are_too_few() -> None:
    vectors = planted("niser")
    few = Attributes(KINDS, {item_id: SAID.items[item_id] for item_id in ITEMS[:40]})
    with pytest.raises(ContentError, match="of 40 of the 400 items"):
        learned(vectors, "niser", few)
    alone = Attributes(KINDS, {item_id: {"brand": item_id} for item_id in ITEMS})
    with pytest.raises(ContentError, match="of 0 of the 400 items"):
        learned(vectors, "niser", alone)


def test_the_newest_cases_are_the_last_sessions() -> None:
    sessions = Sessions(np.array([1, 2, 3, 4, 5, 6], np.int32), np.array([0, 2, 3, 6]), 6)
    prefixes, targets = newest_cases(sessions)
    assert (prefixes, targets.tolist()) == ([[4], [4, 5], [1]], [5, 6, 2])
    assert TOP == 20


def test_of_very_many_items_the_most_clicked_are_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.bundling.content.MAX_ITEMS", 80)
    vectors, clicks = planted("niser"), np.where(SHELF < 2, 9, 1)
    content = fit_content(vectors, "niser", ITEMS, clicks, SAID, cases_of(vectors, "niser"))
    assert content.measured["items"] == 80
    assert content.vector({"categories": ["c1"]}) is not None
    assert content.vector({"categories": ["c2"]}) is None, "none of the most clicked"
