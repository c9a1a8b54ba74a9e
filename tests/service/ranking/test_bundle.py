"""The bundle: what is written is what is loaded, and whatever is wrong with one is named."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from service.live.follower import load_bundle
from service.ranking.bundle import INDEX, Bundle, BundleError, read_items, write_items
from service.ranking.encoder import RUN_CLICKS, runs_of
from tests.service.bundles import BREAKAGES, Shop, edit_manifest, seal


def test_a_written_bundle_is_loaded(artifacts: Path) -> None:
    shop = Shop.make()
    bundle = Bundle.load(shop.write(artifacts))
    assert bundle.items == ("", *shop.items)
    assert bundle.index_of == {item_id: i for i, item_id in enumerate(shop.items, start=1)}
    assert bundle.manifest.metrics == {"recall@20": 0.5}
    np.testing.assert_allclose(
        bundle.encoder.encode([[1, 2]])[0], shop.session_vector(["i1", "i2"]), atol=1e-6
    )


@pytest.mark.parametrize(("break_it", "message"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_bundle_is_refused(
    artifacts: Path, break_it: Callable[[Path], object], message: str
) -> None:
    break_it(Shop.make().write(artifacts))
    with pytest.raises(BundleError) as refusal:
        load_bundle(artifacts, "v1")
    assert message in str(refusal.value)


def test_a_bundle_of_before_there_were_lists_is_loaded(artifacts: Path) -> None:
    path = Shop.make().write(artifacts, index="hnsw")
    edit_manifest(path, index={"kind": "hnsw", "recall_at_20": 1.0, "ef_search": 48})
    assert load_bundle(artifacts, "v1").retriever.breadth == 48


def test_a_bundle_of_codes_answers_as_its_vectors_do(artifacts: Path) -> None:
    shop = Shop.make(n_items=200, dim=18)  # which the index pads to 24
    path = shop.write(artifacts, index="ivf-sq")
    edit_manifest(path, index={"kind": "ivf-sq", "recall_at_20": 1.0, "codes": "fp16", "n_probe": 5})
    bundle = load_bundle(artifacts, "v1")
    assert bundle.retriever.breadth == 5
    session = ["i3", "i140"]
    indices = [bundle.index_of[item_id] for item_id in session]
    _, items = bundle.ranker.rank([indices], [10], [indices])[0]
    assert [bundle.items[item] for item in items] == shop.nearest(session, 10, without=session)


def test_lists_that_end_early_are_refused(artifacts: Path) -> None:
    path = Shop.make(n_items=200).write(artifacts, index="ivf-sq")
    content = (path / INDEX).read_bytes()
    (path / INDEX).write_bytes(content[: len(content) // 2])
    seal(path)
    with pytest.raises(BundleError, match=r"index\.faiss: faiss cannot read it"):
        load_bundle(artifacts, "v1")


def test_a_bundle_that_is_a_file_is_refused(artifacts: Path) -> None:
    (artifacts / "bundles").mkdir()
    (artifacts / "bundles" / "v1").touch()
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read: Not a directory"):
        load_bundle(artifacts, "v1")


@pytest.mark.parametrize("version", ["", "../v1", "a/b", ".hidden", "a" * 129, "v1\n"])
def test_a_version_is_never_a_path(artifacts: Path, version: str) -> None:
    with pytest.raises(BundleError, match="a version is made of"):
        load_bundle(artifacts, version)


def test_any_printable_item_id_survives(tmp_path: Path) -> None:
    items = ["a b", "a/b", "ключ", "🙂", "\u2028", "#", "a,b", '"', " x ", "é" * 256]
    write_items(tmp_path / "items.txt", items)
    assert read_items(tmp_path / "items.txt") == items


class TestEncoder:
    def test_padding_and_neighbours_change_nothing(self, artifacts: Path) -> None:
        encoder = Bundle.load(Shop.make().write(artifacts)).encoder
        sessions = [[5], [7, 5, 7], *[[3]] * 9, [1, 2, 3, 4], [4, 3, 2, 1, 2, 3, 4, 5, 6]]
        together = encoder.encode(sessions)
        for session, vector in zip(sessions, together, strict=True):
            np.testing.assert_allclose(encoder.encode([session])[0], vector, atol=1e-6)

    def test_only_the_newest_clicks_are_used(self, artifacts: Path) -> None:
        shop = Shop.make()
        encoder = Bundle.load(shop.write(artifacts)).encoder
        long = [1] * 30 + list(range(2, 2 + shop.max_length))
        expected = encoder.encode([long[-shop.max_length :]])[0]
        np.testing.assert_array_equal(encoder.encode([long])[0], expected)
        np.testing.assert_allclose(encoder.encode([long, [9]])[0], expected, atol=1e-6)

    def test_a_long_session_does_not_make_short_ones_long(self) -> None:
        assert runs_of([1] * 30 + [50] + [1] * 30) == [[30], [*range(30), *range(31, 61)]]
        assert runs_of([5, 4, 5, 4]) == [[0, 2, 1, 3]], "a run of its own would spare less than it costs"
        assert runs_of([50]) == [[0]]

    @pytest.mark.parametrize("seed", range(3))
    def test_runs_hold_every_session_once_and_the_longest_first(self, seed: int) -> None:
        lengths = np.random.default_rng(seed).integers(1, 51, 64).tolist()
        runs = runs_of(lengths)
        assert sorted(itertools.chain(*runs)) == list(range(64))
        assert [lengths[session] for session in itertools.chain(*runs)] == sorted(lengths, reverse=True)
        padded = sum(lengths[run[0]] * len(run) for run in runs) + RUN_CLICKS * len(runs)
        assert padded < max(lengths) * len(lengths)
