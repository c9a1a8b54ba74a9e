"""Neighbours against plain loops over sessions, and as a bundle that the recommender answers from."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from service.live.deployment import bundle_path
from service.live.follower import DeploymentFollower
from service.live.trending import Trending
from service.process.settings import Settings
from service.ranking.bundle import (
    ITEMS,
    MANIFEST,
    SCHEMA_VERSION,
    Bundle,
    BundleError,
    Manifest,
    write_items,
    write_manifest,
)
from service.ranking.checksums import file_sha256
from service.ranking.neighbours import (
    COMPARED,
    ItemNeighbours,
    Neighbours,
    SessionNeighbours,
    distinct_clicks,
)
from service.ranking.retriever import all_but
from service.recommender import Options
from service.state.store import Click, SessionStore
from tests.service.bundles import edit_manifest
from tests.service.serving import PATIENT, recommender_of

N_ITEMS = 12
LONGEST = 6
Session = list[int]
HISTORY = [[1, 2, 3], [2, 3, 4], [5, 1], [3, 3, 6, 2], [7, 8], [2, 9], [4, 1, 2], [10, 3, 11, 2]]

sessions_strategy = st.lists(
    st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=8), min_size=1, max_size=6
)


def counted(history: Sequence[Session], m: int, k: int) -> SessionNeighbours:
    """VMIS-kNN's arrays, by plain loops."""
    of_item: dict[int, list[int]] = defaultdict(list)
    for number, session in enumerate(history):
        for item in sorted(set(session)):
            of_item[item].append(number)
    held = [sorted(set(session)) for session in history]
    return SessionNeighbours(
        sessions_of=np.array([s for i in range(N_ITEMS + 1) for s in of_item[i]], np.int32),
        sessions_offsets=np.cumsum([0, *(len(of_item[i]) for i in range(N_ITEMS + 1))]),
        items_of=np.array([i for session in held for i in session], np.int32),
        items_offsets=np.cumsum([0, *map(len, held)]),
        place_weight=np.array(
            [[place / max(length, 1) for place in range(LONGEST + 1)] for length in range(LONGEST + 1)],
            np.float32,
        ),
        step_weight=np.array([max(0, 1 - 0.1 * step) for step in range(LONGEST + 1)], np.float32),
        item_weight=np.array(
            [math.log(len(history) / max(1, len(of_item[i]))) + 0.01 for i in range(N_ITEMS + 1)], np.float32
        ),
        limits=np.array([m, k]),
    )


def similarities(history: Sequence[Session], session: Session) -> dict[int, float]:
    """How similar each session of the history is that shares an item with this one."""
    weights = counted(history, 1, 1)
    session = session[-LONGEST:]
    place_of = {item: place for place, item in enumerate(session, start=1)}
    return {
        number: sum(
            float(weights.place_weight[len(session), place_of[item]]) for item in set(past) & set(session)
        )
        for number, past in enumerate(history)
        if set(past) & set(session)
    }


def decided(history: Sequence[Session], session: Session, m: int, k: int) -> bool:
    """Whether no rounding of float32 decides who is among the k: sums of other terms may round otherwise."""
    similar = similarities(history, session)
    newest = sorted(similar, reverse=True)[:m]
    ranked = sorted(newest, key=lambda number: similar[number], reverse=True)
    if len(ranked) <= k:
        return True
    last = similar[ranked[k - 1]]
    if last - similar[ranked[k]] > 1e-5:
        return True
    close = [number for number in ranked if abs(similar[number] - last) <= 1e-5]
    return len({frozenset(history[number]) & frozenset(session[-LONGEST:]) for number in close}) == 1


def obvious(history: Sequence[Session], session: Session, m: int, k: int) -> dict[int, float]:
    """Scores by the paper's equations, session by session."""
    weights = counted(history, m, k)
    similar = similarities(history, session)
    session = session[-LONGEST:]
    place_of = {item: place for place, item in enumerate(session, start=1)}
    newest = sorted(similar, reverse=True)[:m]
    nearest = sorted(newest, key=lambda number: (round(similar[number], 6), number), reverse=True)[:k]
    scores: dict[int, float] = defaultdict(float)
    for number in nearest:
        shared = max(place_of[item] for item in set(history[number]) & set(session))
        step = len(session) - shared + 1
        for item in set(history[number]):
            scores[item] += (
                similar[number] * float(weights.step_weight[step]) * float(weights.item_weight[item])
            )
    return scores


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(1, N_ITEMS), min_size=1, max_size=6), min_size=1, max_size=25),
    sessions_strategy,
    st.integers(1, 12),
    st.integers(1, 6),
)
def test_session_neighbours_score_as_the_paper_says(
    history: list[Session], asked: list[Session], m: int, k: int
) -> None:
    assume(all(decided(history, session, m, k) for session in asked))
    ranker = counted(history, m, k)
    found = ranker.rank(asked, [N_ITEMS] * len(asked), [()] * len(asked))
    for session, (scores, items) in zip(asked, found, strict=True):
        expected = obvious(history, session, m, k)
        assert sorted(items.tolist()) == sorted(expected)
        assert scores.tolist() == pytest.approx([expected[item] for item in items.tolist()], rel=1e-5)
        assert (np.diff(scores) <= 0).all()


@settings(deadline=None, max_examples=40)
@given(sessions_strategy, st.integers(1, N_ITEMS + 3), st.sets(st.integers(1, N_ITEMS)))
def test_sessions_answered_together_or_alone(asked: list[Session], k: int, out: set[int]) -> None:
    ranker = counted(HISTORY, 5, 3)
    together = ranker.rank(asked, [k] * len(asked), [out] * len(asked))
    for session, (scores, items) in zip(asked, together, strict=True):
        ((alone_scores, alone_items),) = ranker.rank([session], [N_ITEMS], [()])
        left = [i for i in alone_items.tolist() if i not in out][:k]
        assert items.tolist() == left
        pairs = zip(alone_scores.tolist(), alone_items.tolist(), strict=True)
        # The sums of float32 are rounded otherwise in other company.
        assert scores.tolist() == pytest.approx([s for s, i in pairs if i not in out][:k], rel=1e-6)
        padded = np.zeros((1, 9), np.int64)
        padded[0, : len(session)] = session
        searched = ranker.search(padded, k)[1][0]
        assert searched[searched > 0].tolist() == alone_items[:k].tolist()


@pytest.mark.parametrize("length", [2, COMPARED, COMPARED + 1, 200])
def test_an_item_counts_at_its_newest_place_in_a_session_of_any_length(length: int) -> None:
    """Long sessions are sorted, short ones compared: by row, then by place, all the same."""
    rng = np.random.default_rng(length)
    sessions = rng.integers(1, 1 + length, (5, length))
    for row, end in enumerate([length, 1, length // 2, length, length]):
        sessions[row, end:] = 0
    newest = [
        (row, item, place, int((session > 0).sum()))
        for row, session in enumerate(sessions)
        for place, item in enumerate(session.tolist(), start=1)
        if item and item not in session[place:]
    ]
    found = distinct_clicks(sessions)
    assert list(zip(*(each.tolist() for each in found), strict=True)) == newest


def test_item_neighbours_are_those_of_the_newest_click() -> None:
    items = np.zeros((N_ITEMS + 1, 3), np.int32)
    scores = np.zeros((N_ITEMS + 1, 3), np.float32)
    items[4], scores[4] = [9, 2, 7], [0.9, 0.5, 0.1]
    items[5, :1], scores[5, :1] = [1], [0.3]
    ranker = ItemNeighbours(items, scores)
    found = ranker.rank([[5, 4], [4, 5], [4]], [2, 2, 3], [(), (), (2,)])
    assert [i.tolist() for _, i in found] == [[9, 2], [1], [9, 7]]
    assert found[0][0].tolist() == pytest.approx([0.9, 0.5])
    assert ranker.similar(4, 5)[1].tolist() == [9, 2, 7]
    assert ranker.only(all_but(N_ITEMS, [9])).rank([[4]], [2], [()])[0][1].tolist() == [2, 7]
    assert ranker.only(all_but(N_ITEMS, [9])).visible().tolist() == [
        i for i in range(1, N_ITEMS + 1) if i != 9
    ]


def write(artifacts: Path, neighbours: Neighbours, model: str, version: str = "v1") -> Path:
    path = bundle_path(artifacts, version)
    path.mkdir(parents=True)
    neighbours.save(path)
    write_items(path / ITEMS, [f"i{i}" for i in range(1, N_ITEMS + 1)])
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        version=version,
        kind="neighbours",
        model=model,
        hyperparameters={},
        source_commit="test",
        data_fingerprint="test",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        n_items=N_ITEMS,
        max_length=neighbours.max_length,
        metrics={},
        files={file.name: file_sha256(file) for file in path.iterdir()},
    )
    write_manifest(path, manifest)
    return path


def test_a_written_bundle_answers_as_before_and_maps_its_arrays(artifacts: Path) -> None:
    before = counted(HISTORY, 5, 3)
    bundle = Bundle.load(write(artifacts, before, "vmis_knn"))
    asked = [[2], [1, 3], [7, 2, 9]]
    for (scores, items), (same_scores, same_items) in zip(
        before.rank(asked, [9] * 3, [()] * 3), bundle.ranker.rank(asked, [9] * 3, [()] * 3), strict=True
    ):
        assert (items.tolist(), scores.tolist()) == (same_items.tolist(), same_scores.tolist())
    assert isinstance(bundle.ranker, SessionNeighbours)
    assert isinstance(bundle.ranker.items_of.base, np.memmap), "workers share its pages"
    with pytest.raises(BundleError, match="ranks by neighbours: it has no vectors"):
        _ = bundle.encoder


def _sealed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    """A broken array that its manifest vouches for."""

    def apply(path: Path) -> None:
        change(path)
        edit_manifest(
            path, files={file.name: file_sha256(file) for file in path.iterdir() if file.name != MANIFEST}
        )

    return apply


def _array(name: str, change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Path], None]:
    file = f"{name}.npy"
    return _sealed(lambda path: np.save(path / file, change(np.load(path / file))))


def _filled(name: str, value: float) -> Callable[[Path], None]:
    return _array(name, lambda array: np.full_like(array, value))


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "an array missing": (lambda path: (path / "items_of.npy").unlink(), "items_of.npy: missing"),
    "an array altered": (
        lambda path: (path / "items_of.npy").write_bytes(b"x"),
        "items_of.npy: sha256 differs",
    ),
    "an array not vouched for": (lambda path: edit_manifest(path, files={}), "no sha256 for"),
    "no array": (
        _sealed(lambda path: (path / "items_of.npy").write_bytes(b"x")),
        "items_of.npy: numpy cannot map it",
    ),
    "pickled": (
        _sealed(lambda path: np.save(path / "limits.npy", np.array([{}]), allow_pickle=True)),
        "limits.npy: numpy cannot map it",
    ),
    "another type": (_array("step_weight", lambda a: a.astype(np.float64)), "step_weight.npy: holds float64"),
    "sessions outside": (_array("sessions_of", lambda a: a + 100), "the values of sessions_offsets.npy"),
    "items outside": (_array("items_of", lambda a: a - 100), "the values of items_offsets.npy"),
    "offsets that fall": (_array("items_offsets", lambda a: a[::-1]), "items_offsets.npy: does not cut"),
    "weights of another length": (_array("place_weight", lambda a: a[1:]), "place_weight.npy and limits.npy"),
    **{
        f"{name} of {value}": (
            _filled(name, value),
            f"{name}.npy: holds what is not finite",
        )
        for name in ("place_weight", "step_weight", "item_weight")
        for value in (np.nan, np.inf)
    },
    "no sessions": (_array("limits", lambda a: a * 0), "limits.npy: [0, 0] is fewer than one session"),
    "fewer items": (lambda path: edit_manifest(path, n_items=11), "items.txt: items: 12"),
    "another length": (lambda path: edit_manifest(path, max_length=9), "longest session: 6"),
    "no such neighbours": (lambda path: edit_manifest(path, model="stan"), "stan is none of the neighbours"),
    "no encoder": (lambda path: edit_manifest(path, kind="encoder"), "an encoder has a head"),
}


@pytest.mark.parametrize(("break_it", "message"), BREAKAGES.values(), ids=BREAKAGES)
def test_a_broken_bundle_is_refused(
    artifacts: Path, break_it: Callable[[Path], object], message: str
) -> None:
    path = write(artifacts, counted(HISTORY, 5, 3), "vmis_knn")
    break_it(path)
    with pytest.raises(BundleError) as refusal:
        Bundle.load(path)
    assert message in str(refusal.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(artifacts: Path, value: float) -> None:
    items, scores = np.zeros((N_ITEMS + 1, 2), np.int32), np.zeros((N_ITEMS + 1, 2), np.float32)
    items[4], scores[4] = [9, 7], [0.9, value]
    with pytest.raises(BundleError, match=r"scores\.npy: holds what is not finite"):
        Bundle.load(write(artifacts, ItemNeighbours(items, scores), "item_knn"))


@pytest.mark.anyio
async def test_the_recommender_fills_up_what_neighbours_leave_open(artifacts: Path, redis_url: str) -> None:
    items = np.zeros((N_ITEMS + 1, 2), np.int32)
    scores = np.zeros((N_ITEMS + 1, 2), np.float32)
    items[4], scores[4] = [9, 7], [0.9, 0.5]
    write(artifacts, ItemNeighbours(items, scores), "item_knn")
    store = SessionStore(Settings(redis_timeout_seconds=PATIENT), redis_url)
    follower = DeploymentFollower(artifacts, poll_seconds=1)
    trending = Trending(store)
    recommender = recommender_of(store, follower, trending)
    await follower.activate("v1")
    try:
        for session, item in (("other", "i11"), ("s", "i5"), ("s", "i4")):
            await recommender.click(session, Click(item, time.time()))
        answer = await recommender.recommend("s", Options(k=5))
        assert [item for item, _ in answer.items] == ["i9", "i7", "i1", "i2", "i3"], "popular fills up"
        assert (answer.stage, answer.encoded) == ("model", ["i4"])
        await trending.refresh()
        answer = await recommender.recommend("s", Options(k=6, exclude=["i11"], exclude_seen=True))
        assert [item for item, _ in answer.items] == ["i9", "i7", "i1", "i2", "i3", "i6"]
        hot = {item for item, _ in (await recommender.recommend("s", Options(k=5))).items[2:]}
        assert hot == {"i11", "i5", "i4"}, "what is trending comes before what was popular"
        await follower.change_hidden(hide=["i9"])
        assert [item for item, _ in recommender.similar("i4", Options(5))[1]] == ["i7"]
        lonely = await recommender.recommend_items(["i8"], Options(k=4, exclude=["i4", "i5", "i11"]))
        assert (lonely.stage, [item for item, _ in lonely.items]) == ("popular", ["i1", "i2", "i3", "i6"])
        assert lonely.reason.endswith("and found nothing")
    finally:
        await store.close()
