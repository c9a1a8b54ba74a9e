"""The bundle: what is written is what is loaded, and whatever is wrong with one is named."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from service.live.follower import load_bundle
from service.ranking.bundle import (
    ENCODER,
    INDEX,
    ITEMS,
    LOOKUP,
    MANIFEST,
    Bundle,
    BundleError,
    read_items,
    read_manifest,
    write_items,
)
from service.ranking.encoder import RUN_CLICKS, runs_of
from service.ranking.item_ids import Words, lookup_of
from service.ranking.retriever import Kind, Retriever
from service.ranking.served import Query, ServedBundle
from tests.service.bundles import BREAKAGES, Shop, edit_manifest, seal, with_row, write_encoder


def test_a_written_bundle_is_loaded(artifacts: Path) -> None:
    shop = Shop.make()
    bundle = Bundle.load(shop.write(artifacts))
    assert tuple(bundle.items) == ("", *shop.items)
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


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0], ids=str)
@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq", "ivf-pq"])
def test_an_index_of_what_is_no_direction_is_refused(artifacts: Path, kind: Kind, value: float) -> None:
    """Spoiled once it is built: an index of codes is not trained on such vectors."""
    path = Shop.make(n_items=600).write(artifacts, index=kind)
    index = faiss.read_index(str(path / INDEX))
    spoil(index, value)
    faiss.write_index(index, str(path / INDEX))
    seal(path)
    with pytest.raises(BundleError, match=r"index\.faiss: the vector of item \d+ has length"):
        load_bundle(artifacts, "v1")


def spoil(index: faiss.Index, value: float) -> None:
    """Make every vector that an index gives out `value` throughout."""
    if not isinstance(index, faiss.IndexIVF):
        flat = faiss.downcast_index(index.storage) if isinstance(index, faiss.IndexHNSW) else index
        faiss.rev_swig_ptr(flat.get_xb(), flat.ntotal * flat.d)[:] = value
        return
    centres = faiss.downcast_index(index.quantizer)
    faiss.rev_swig_ptr(centres.get_xb(), centres.ntotal * centres.d)[:] = value
    if isinstance(index, faiss.IndexIVFPQ):
        faiss.copy_array_to_vector(np.zeros(index.pq.centroids.size(), dtype=np.float32), index.pq.centroids)
    else:
        for number in range(index.nlist):
            size = index.invlists.list_size(number) * index.code_size
            if size:
                faiss.rev_swig_ptr(index.invlists.get_codes(number), size)[:] = 0  # 0.0 in half floats


def test_lists_that_name_no_items_are_refused(artifacts: Path) -> None:
    path = Shop.make(n_items=200).write(artifacts, index="ivf-sq")
    index = faiss.read_index(str(path / INDEX))
    faiss.rev_swig_ptr(index.invlists.get_ids(0), 1)[:] = -1
    faiss.write_index(index, str(path / INDEX))
    seal(path)
    with pytest.raises(BundleError, match=r"index\.faiss: list 0 holds items outside 1\.\.200"):
        load_bundle(artifacts, "v1")


def test_a_graph_that_leads_nowhere_is_refused(artifacts: Path) -> None:
    path = Shop.make(n_items=200).write(artifacts, index="hnsw")
    index = faiss.read_index(str(path / INDEX))
    index.hnsw.entry_point = -1  # every search returns -1
    faiss.write_index(index, str(path / INDEX))
    seal(path)
    with pytest.raises(BundleError, match=r"index\.faiss: its search finds nothing"):
        load_bundle(artifacts, "v1")


def test_one_item_without_a_direction_is_found_among_all(artifacts: Path) -> None:
    """At export; what a service looks at is a sample, and item 8 of 2000 is none of it."""
    shop = Shop.make(n_items=2000)
    path = shop.write(artifacts)
    Retriever.build(with_row(shop.vectors, 7, np.nan), "flat").save(path / INDEX)
    seal(path)
    bundle = load_bundle(artifacts, "v1")
    with pytest.raises(BundleError, match="the vector of item 8 has length nan"):
        bundle.prove()


def test_an_item_that_the_encoder_makes_nan_is_never_an_item_without_a_name(artifacts: Path) -> None:
    shop = Shop.make(n_items=2000)
    path = shop.write(artifacts)
    write_encoder(path / ENCODER, with_row(shop.vectors, 7, np.nan))
    seal(path)
    bundle = load_bundle(artifacts, "v1")
    with pytest.raises(BundleError, match=r"the vector of session \[8\] has length nan"):
        bundle.prove()
    assert ServedBundle.of(bundle).rank([Query([8], 20, ())]) == [[]]


def test_a_flipped_bit_of_the_manifest_is_noticed_or_changes_nothing(artifacts: Path) -> None:
    """Nothing changes where an escape or an exponent is written in another case."""
    path = Shop.make().write(artifacts)
    content, before = (path / MANIFEST).read_bytes(), read_manifest(path)
    accepted = 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        (path / MANIFEST).write_bytes(flipped)
        try:
            found = read_manifest(path)
        except BundleError:
            continue
        if found != before:  # the checksum's own name: then it is the file's that is missing
            with pytest.raises(BundleError, match=r"missing|cannot be read|out of the bundle"):
                Bundle.load(path)
        else:
            accepted += 1
    assert accepted < 10, accepted


def test_a_manifest_of_before_it_had_a_checksum_is_read(artifacts: Path) -> None:
    path = Shop.make().write(artifacts)
    raw = json.loads((path / MANIFEST).read_bytes())
    del raw["files"][MANIFEST]
    (path / MANIFEST).write_text(json.dumps(raw))
    assert load_bundle(artifacts, "v1").manifest.version == "v1"


def test_a_bundle_without_a_lookup_makes_its_own(artifacts: Path) -> None:
    shop = Shop.make()
    path = shop.write(artifacts)
    (path / LOOKUP).unlink()
    seal(path)
    bundle = load_bundle(artifacts, "v1")
    assert tuple(bundle.items) == ("", *shop.items)
    assert [bundle.index_of[item_id] for item_id in shop.items] == list(range(1, len(shop.items) + 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lookup: lookup[:3], "is not one array of uint32"),
        (lambda lookup: lookup.astype(np.int64), "is not one array of uint32"),
        (lambda lookup: lookup[:-1], "does not fit its header"),
        (lambda lookup: np.concatenate([[2], lookup[1:]]).astype(np.uint32), "its format is 2"),
        (lambda lookup: lookup_of(b"a\n"), "was made for another items.txt"),
        (lambda lookup: np.where(np.arange(len(lookup)) < len(lookup) - 60, lookup, 1), "does not find item"),
    ],
)
def test_a_lookup_of_other_items_is_refused(
    artifacts: Path, change: Callable[[Words], Words], message: str
) -> None:
    path = Shop.make().write(artifacts)
    np.save(path / LOOKUP, change(np.load(path / LOOKUP)))
    seal(path, LOOKUP)
    with pytest.raises(BundleError, match=r"items\.lookup\.npy: .*" + message):
        load_bundle(artifacts, "v1")


def test_links_within_a_bundle_and_to_a_bundle_are_followed(artifacts: Path) -> None:
    path = Shop.make().write(artifacts)
    (path / ITEMS).rename(path / "names")
    (path / ITEMS).symlink_to("names")
    (artifacts / "bundles" / "v1").rename(artifacts / "elsewhere")
    (artifacts / "bundles" / "v1").symlink_to("../elsewhere")
    assert load_bundle(artifacts, "v1").manifest.version == "v1"


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
