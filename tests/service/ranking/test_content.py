"""What is said of an item becomes features, a vector, and a file that a bad copy of is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.ranking.bundle import Bundle, BundleError
from service.ranking.checksums import file_sha256
from service.ranking.content import (
    CONTENT,
    PAIR_WEIGHT,
    PAIRED_ATTRIBUTES,
    PAIRED_VALUES,
    Calibration,
    Content,
    ContentFormatError,
    digested,
    features,
    unit,
)
from service.ranking.ranker import NearestItems
from tests.service.bundles import Shop, edit_manifest

KINDS = {"title": "text", "categories": "strings", "brand": "string", "price": "number", "washable": "bool"}
SHOP = Shop.make()


def weights(values: dict[str, object], kinds: dict[str, str] | None = None) -> dict[str, float]:
    return dict(features(values, kinds or KINDS))


def test_features_are_words_names_and_bins_each_attribute_as_heavy_as_another() -> None:
    found = weights(
        {"title": "Ridge tent, RIDGE", "categories": ["Tents", "Camping"], "brand": "Piko", "washable": True}
    )
    half = math.sqrt(0.5)
    alone = {name: weight for name, weight in found.items() if "\0" not in name}
    assert alone == pytest.approx(
        {
            "title=ridge": half,
            "title=tent": half,
            "categories=Tents": half,
            "categories=Camping": half,
            "brand=Piko": 1,
            "washable=True": 1,
        }
    )


def test_what_two_attributes_say_together_is_a_feature_too() -> None:
    found = weights({"title": "Ridge", "categories": ["Tents", "Camping"], "brand": "Piko"})
    assert {name: weight for name, weight in found.items() if "\0" in name} == pytest.approx(
        {
            "categories=Tents\0brand=Piko": PAIR_WEIGHT * math.sqrt(0.5),
            "categories=Camping\0brand=Piko": PAIR_WEIGHT * math.sqrt(0.5),
        }
    )


def test_pairs_are_bounded() -> None:
    kinds = {f"a{number}": "strings" for number in range(20)}
    found = weights({name: [str(value) for value in range(20)] for name in kinds}, kinds)
    pairs = [name for name in found if "\0" in name]
    assert len(pairs) == PAIRED_ATTRIBUTES * (PAIRED_ATTRIBUTES - 1) / 2 * PAIRED_VALUES**2


def test_prices_that_are_near_share_their_bins() -> None:
    def alike(one: float, other: float) -> float:
        first, second = weights({"price": one}), weights({"price": other})
        return sum(weight * second.get(name, 0) for name, weight in first.items())

    assert alike(100, 100) == pytest.approx(1)
    assert 0.99 > alike(100, 110) > 0.8
    assert alike(100, 400) == 0
    assert alike(100, -100) == 0
    assert len(weights({"price": 3.0})) == 1, "on the edge of two bins it is in one"


@pytest.mark.parametrize(
    "values",
    [
        {"title": 5, "categories": "Tents", "brand": ["x"], "price": "cheap", "washable": 1},
        {"price": math.nan},
        {"price": math.inf},
        {"price": True, "title": "", "categories": []},
        {"brand": None},
    ],
)
def test_what_is_not_of_its_kind_says_nothing(values: dict[str, object]) -> None:
    assert weights(values) == {}


def test_digests_stay_the_same_for_ever() -> None:
    """They stand in bundles: of another hash, none of its features would be found."""
    assert list(digested({"brand": "Piko"}, KINDS)) == [(18308738525663238590, 1.0)]


def test_a_native_vector_keeps_what_scores_depend_on() -> None:
    predicted = np.array([[0.3, -0.2, 0.1], [0.0, 0.0, 0.9], [3.0, 4.0, 0.0]], np.float32)
    units = unit(predicted, "native")
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(units[:2, :2], predicted[:2, :2], atol=1e-6)
    np.testing.assert_allclose(units[2], [0.6, 0.8, 0], atol=1e-6)
    np.testing.assert_allclose(unit(predicted, "niser")[2], [0.6, 0.8, 0], atol=1e-6)


def test_a_vector_is_the_sum_of_what_is_known() -> None:
    content = SHOP.content()
    vector = content.vector({"brand": "i7", "title": "not read"})
    assert vector is not None
    np.testing.assert_allclose(vector, SHOP.vectors[6], atol=1e-3)
    assert content.vector({"brand": "never seen"}) is None
    assert content.vector({}) is None


def test_an_embedding_counts_with_its_direction() -> None:
    content = SHOP.content()
    own = np.eye(2, 16, dtype=np.float16)
    with_two = replace(content, weights=np.vstack([content.weights, own]))
    vector = with_two.vector({"embedding": [0.0, 5.0]})
    assert vector is not None
    np.testing.assert_allclose(vector, np.eye(16)[1], atol=1e-3)
    for embedding in ([1.0], [0.0, 0.0], "ab", None):
        assert with_two.vector({"embedding": embedding}) is None


def test_what_is_written_is_read(tmp_path: Path) -> None:
    content = replace(SHOP.content(), calibration=Calibration(2.0, -0.5), measured={"items": 60.0})
    content.save(tmp_path / CONTENT)
    loaded = Content.load(tmp_path / CONTENT, 16)
    assert (loaded.kinds, loaded.head, loaded.calibration, loaded.measured) == (
        content.kinds,
        content.head,
        content.calibration,
        content.measured,
    )
    for item_id in ("i1", "i60"):
        expected, found = content.vector({"brand": item_id}), loaded.vector({"brand": item_id})
        assert expected is not None
        assert found is not None
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("written", "is_read"), [(1, True), (3, False)])
def test_older_formats_are_read_and_newer_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, is_read: bool
) -> None:
    monkeypatch.setattr("service.ranking.content.FORMAT", written)
    SHOP.content().save(tmp_path / CONTENT)
    monkeypatch.undo()
    if is_read:
        assert Content.load(tmp_path / CONTENT, 16).vector({"brand": "i1"}) is not None
    else:
        with pytest.raises(ContentFormatError, match="its format is 3, not 2"):
            Content.load(tmp_path / CONTENT, 16)


def test_a_bundle_has_content_or_has_none(tmp_path: Path) -> None:
    without, with_ = SHOP.write(tmp_path, "v1"), SHOP.write(tmp_path, "v2", content=SHOP.content())
    old, new = Bundle.load(without), Bundle.load(with_)
    assert old.content is None
    assert new.content is not None
    for bundle, has_cold in ((old, False), (new, True)):
        assert isinstance(bundle.ranker, NearestItems)
        assert (bundle.ranker.cold is not None) == has_cold


def spoiled(change: Callable[[Content], Content]) -> Callable[[Path], None]:
    return lambda file: change(SHOP.content()).save(file)


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda file: file.write_bytes(b"garbage"), "cannot be read"),
        (lambda file: file.write_bytes(file.read_bytes()[:3000]), "cannot be read"),
        (spoiled(lambda c: replace(c, mean=np.zeros(8, np.float32))), "not of 16 dimensions"),
        (spoiled(lambda c: replace(c, weights=c.weights[:9])), "not of 16 dimensions"),
        (spoiled(lambda c: replace(c, weights=c.weights * np.float16(np.nan))), "not finite"),
        (spoiled(lambda c: replace(c, calibration=Calibration(1.0, math.inf))), "not finite"),
        (spoiled(lambda c: replace(c, digests=c.digests[::-1].copy())), "not in order"),
        (spoiled(lambda c: replace(c, mean=c.mean.astype(np.float64))), "other types"),
        (spoiled(lambda c: replace(c, head="round")), "head is unknown"),  # type: ignore[arg-type]
    ],
)
def test_a_bundle_with_bad_content_is_refused(
    tmp_path: Path, spoil: Callable[[Path], object], problem: str
) -> None:
    path = SHOP.write(tmp_path, content=SHOP.content())
    spoil(path / CONTENT)
    files = {file.name: file_sha256(file) for file in path.iterdir() if file.name != "manifest.json"}
    edit_manifest(path, files=files)
    with pytest.raises(BundleError, match=rf"content\.npz: .*{problem}"):
        Bundle.load(path)
