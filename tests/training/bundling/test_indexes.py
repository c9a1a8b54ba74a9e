"""The choice of an index: a function of what was measured; and real indexes, measured and left in place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.ranking.retriever import Retriever, Vectors, all_but
from tests.service.bundles import normalised
from training.bundling.indexes import (
    APPROXIMATE_FROM,
    CANDIDATES,
    FASTEST,
    MIN_RECALL,
    Candidate,
    IndexKind,
    MeasuredIndex,
    NoIndexFits,
    WantedIndex,
    build,
    candidates,
    choose,
    narrowest,
    nearest_scores,
    shares_found,
    write_index,
)

FLAT = MeasuredIndex(Candidate("flat"), None, None, 1.0, 400.0, 17.2)
HNSW = MeasuredIndex(Candidate("hnsw"), 32, None, 0.995, 60.0, 29.0)
FP16 = MeasuredIndex(Candidate("ivf-sq", "fp16"), 8, 512, 0.991, 25.0, 9.5)
SQ8 = MeasuredIndex(Candidate("ivf-sq", "sq8"), 24, 512, 0.9906, 50.0, 5.0)
PQ = MeasuredIndex(Candidate("ivf-pq"), 256, 512, 0.95, 90.0, 2.5)


def clustered(n_items: int, seed: int = 0, dim: int = 20) -> Vectors:
    """Items around a hundred centres, as trained item vectors lie."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(100, dim))
    vectors = centres[rng.integers(100, size=n_items)] + 0.4 * rng.normal(size=(n_items, dim))
    return normalised(vectors.astype(np.float32))


def recall_at_20(served: Retriever, vectors: Vectors, queries: Vectors) -> float:
    return float(shares_found(served, vectors, queries, nearest_scores(vectors, queries)).mean())


class TestChoose:
    def test_the_fastest_wins(self) -> None:
        assert choose([FLAT, HNSW, FP16, SQ8], FASTEST) == FP16
        assert choose([FLAT, HNSW, replace(FP16, p50_microseconds=61)], FASTEST) == HNSW

    def test_recall_comes_first(self) -> None:
        below = replace(FP16, recall=MIN_RECALL - 1e-6)
        assert choose([FLAT, HNSW, below], FASTEST) == HNSW
        assert choose([FLAT, HNSW, replace(FP16, recall=MIN_RECALL)], FASTEST).candidate == FP16.candidate

    def test_the_limit_is_kept(self) -> None:
        everything = [FLAT, HNSW, FP16, SQ8, PQ]
        assert choose(everything, WantedIndex("auto", 9.5)) == FP16
        assert choose(everything, WantedIndex("auto", 9.4)) == SQ8

    def test_of_two_equally_fast_the_smaller_wins(self) -> None:
        assert choose([replace(SQ8, p50_microseconds=25.0), FP16], FASTEST).candidate == SQ8.candidate

    def test_what_each_reached_is_told(self) -> None:
        with pytest.raises(NoIndexFits) as refusal:
            choose([SQ8, PQ], WantedIndex("auto", 3))
        assert str(refusal.value) == (
            "no index reaches recall@20 >= 0.99 within 3 MB; reached: ivf-sq sq8 0.9906 with 5.0 MB, "
            "ivf-pq 0.9500 with 2.5 MB: choose --index auto or raise --max-index-mb"
        )


class TestPlans:
    def test_a_small_catalogue_is_searched_exactly(self) -> None:
        assert candidates(FASTEST, APPROXIMATE_FROM - 1, 100) == [Candidate("flat")]
        assert len(candidates(FASTEST, APPROXIMATE_FROM, 100)) > 1

    def test_a_product_quantiser_is_no_match_where_there_is_room(self) -> None:
        assert Candidate("ivf-pq") not in candidates(FASTEST, 1_000_000, 100)
        assert candidates(WantedIndex("auto", 100), 1_000_000, 100) == [Candidate("ivf-pq")]

    @pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq", "ivf-pq"])
    def test_a_kind_that_is_named_is_the_only_one(self, kind: IndexKind) -> None:
        assert candidates(WantedIndex(kind), 100, 100) == CANDIDATES[kind]

    def test_what_exceeds_the_limit_is_not_built(self) -> None:
        fitting = candidates(WantedIndex("auto", 250), 1_000_000, 100)
        assert fitting == [Candidate("ivf-sq", "fp16"), Candidate("ivf-sq", "sq8")]

    def test_a_limit_that_nothing_keeps_is_refused(self) -> None:
        with pytest.raises(
            NoIndexFits, match=r"1,000,000 items of 100 dimensions fits into 20 MB.*flat 400\.0"
        ):
            candidates(WantedIndex("auto", 20), 1_000_000, 100)
        with pytest.raises(NoIndexFits, match=r"at least needed: flat 400\.0 MB: raise --max-index-mb"):
            candidates(WantedIndex("flat", 399), 1_000_000, 100)

    @pytest.mark.parametrize(
        "candidate", [candidate for kind in CANDIDATES.values() for candidate in kind], ids=str
    )
    def test_the_least_size_is_a_little_less_than_the_file(
        self, candidate: Candidate, tmp_path: Path
    ) -> None:
        vectors = clustered(4000)
        Retriever.build(vectors, candidate.kind, candidate.codes or "fp16").save(tmp_path / "index")
        megabytes = (tmp_path / "index").stat().st_size / 1e6
        assert 0.6 * megabytes < candidate.least_mb(4000, 20) <= megabytes


@pytest.mark.parametrize("wanted", ["auto", "hnsw", "ivf-sq"])
def test_the_manifest_says_what_was_measured(wanted: IndexKind, tmp_path: Path) -> None:
    vectors, queries = clustered(6000), clustered(100, seed=1)
    info = write_index(vectors, queries, WantedIndex(wanted), tmp_path / "index")
    assert [file.name for file in tmp_path.iterdir()] == ["index"], "the others are gone"
    served = Retriever.load(tmp_path / "index", info.kind, 20, info.breadth)
    assert recall_at_20(served, vectors, queries) == info.recall_at_20
    assert info.recall_at_20 >= MIN_RECALL
    assert info.megabytes == (tmp_path / "index").stat().st_size / 1e6
    assert info.p50_microseconds is not None
    assert wanted in ("auto", info.kind)
    assert (info.ef_search is not None) == (info.kind == "hnsw")
    assert info.n_lists == served.n_lists
    assert (info.n_probe is not None) == (info.codes is not None) == (info.kind == "ivf-sq")


def test_the_breadth_is_good_enough_for_other_sessions(tmp_path: Path) -> None:
    scattered = normalised(np.random.default_rng(0).normal(size=(6000 + 20 * 60, 32)).astype(np.float32))
    vectors, candidate = scattered[:6000], Candidate("ivf-sq", "fp16")
    build(candidate, vectors, tmp_path / "index")
    good = []
    for queries in np.split(scattered[6000:], 20):
        served, _ = narrowest(
            candidate, vectors, queries, nearest_scores(vectors, queries), tmp_path / "index"
        )
        good.append(recall_at_20(served, vectors, scattered[6000:]) >= MIN_RECALL)
        assert served.breadth is not None
        assert served.breadth <= 128, "and no wider than that takes"
    assert sum(good) >= 16


def test_a_refusal_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(NoIndexFits, match=r"reached: ivf-pq 0\.\d+ with 0\.\d MB"):
        write_index(clustered(2000), clustered(50, seed=1), WantedIndex("ivf-pq"), tmp_path / "index")
    assert not any(tmp_path.iterdir())


def test_an_index_over_other_vectors_is_refused(tmp_path: Path) -> None:
    def build_reversed(candidate: Candidate, vectors: Vectors, file: Path) -> None:
        build(candidate, vectors[::-1].copy(), file)

    vectors, queries = clustered(2000), clustered(50, seed=1)
    with pytest.raises(NoIndexFits, match=r"recall@20 >= 0\.99; reached: flat 0\.[0-8]"):
        write_index(vectors, queries, FASTEST, tmp_path / "index", build_reversed)
    assert not any(tmp_path.iterdir())


def test_recall_is_of_the_vectors_not_of_their_codes() -> None:
    vectors, queries = clustered(2000), clustered(50, seed=1)
    coarse = Retriever.build(vectors, "ivf-pq").exact()
    found, exact = coarse.search(queries, 20)[1], Retriever.build(vectors, "flat").search(queries, 20)[1]
    shared = np.mean([len(np.intersect1d(*rows)) / 20 for rows in zip(found, exact, strict=True)])
    assert recall_at_20(coarse, vectors, queries) == pytest.approx(shared)
    assert 0.3 < shared < 0.99


def test_a_tie_counts_as_found() -> None:
    vectors = normalised(np.eye(30, 8, dtype=np.float32) + 1)
    vectors[8:] = vectors[0]  # 23 items that no query can tell apart
    queries = vectors[:1]
    others = Retriever.build(vectors, "flat").only(all_but(30, range(1, 4)))
    assert recall_at_20(others, vectors, queries) == 1.0


def test_half_of_the_nearest_missed_is_half_the_recall() -> None:
    vectors, queries = clustered(200), clustered(30, seed=1)
    exact = Retriever.build(vectors, "flat")
    recalls = []
    for query in np.split(queries, len(queries)):
        missed = exact.only(all_but(200, exact.search(query, 10)[1][0].tolist()))
        recalls.append(recall_at_20(missed, vectors, query))
    assert recalls == [0.5] * len(queries)
