"""The recommender against numpy: every stage, and what is left out of each."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.live.deployment import update_deployment
from service.live.follower import DeploymentFollower
from service.live.trending import Trending
from service.process.settings import Settings
from service.ranking.served import Query
from service.recommender import (
    NoModel,
    Options,
    Recommendation,
    Recommender,
    UnknownItem,
    UnknownModel,
)
from service.state.store import Click, SessionStore
from tests.service.bundles import Shop
from tests.service.serving import PATIENT, recommender_of

pytestmark = pytest.mark.anyio

SHOP = Shop.make()


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[SessionStore]:
    store = SessionStore(Settings(redis_timeout_seconds=PATIENT), redis_url)
    yield store
    await store.close()


@pytest.fixture
def follower(artifacts: Path) -> DeploymentFollower:
    return DeploymentFollower(artifacts, poll_seconds=1)


@pytest.fixture
def trending(store: SessionStore) -> Trending:
    return Trending(store)


@pytest.fixture
def bare(store: SessionStore, follower: DeploymentFollower, trending: Trending) -> Recommender:
    """Before anything is published."""
    return recommender_of(store, follower, trending)


@pytest.fixture
async def recommender(bare: Recommender, follower: DeploymentFollower, artifacts: Path) -> Recommender:
    SHOP.write(artifacts, "v1")
    await follower.activate("v1")
    return bare


async def click(recommender: Recommender, session_id: str, *item_ids: str, type: str = "click") -> None:  # noqa: A002
    for item_id in item_ids:
        await recommender.click(session_id, Click(item_id, time.time(), type))


def items(answer: Recommendation) -> list[str]:
    return [item_id for item_id, _ in answer.items]


async def test_a_known_session_is_answered_by_the_model(recommender: Recommender) -> None:
    await click(recommender, "s", "i7", "i3", "i7")
    answer = await recommender.recommend("s", Options())
    assert (answer.stage, answer.version, answer.degraded, answer.ignored) == ("model", "v1", False, [])
    assert items(answer) == SHOP.nearest(["i7", "i3", "i7"])
    cosines = SHOP.vectors @ SHOP.session_vector(["i7", "i3", "i7"])
    assert [score for _, score in answer.items] == pytest.approx(sorted(cosines)[:-21:-1], abs=1e-5)
    assert answer.encoded == ["i7", "i3", "i7"]


async def test_unknown_items_are_skipped_and_named_once(recommender: Recommender) -> None:
    await click(recommender, "s", "new", "i1", "newer", "new", "i2")
    answer = await recommender.recommend("s", Options())
    assert items(answer) == SHOP.nearest(["i1", "i2"])
    assert answer.ignored == ["new", "newer"]


async def test_only_configured_click_types_feed_the_encoder(recommender: Recommender) -> None:
    await click(recommender, "s", "i1", "i2")
    await click(recommender, "s", "i3", type="purchase")
    answer = await recommender.recommend("s", Options())
    assert answer.encoded == ["i1", "i2"]
    assert items(answer) == SHOP.nearest(["i1", "i2"])
    await click(recommender, "p", "i3", type="purchase")
    assert (await recommender.recommend("p", Options())).reason.startswith(
        "the session has no click of a type"
    )


async def test_the_encoder_sees_the_newest_clicks(recommender: Recommender) -> None:
    session = [f"i{i}" for i in range(1, 31)]
    await click(recommender, "s", *session)
    answer = await recommender.recommend("s", Options())
    assert answer.encoded == session[-SHOP.max_length :]
    assert items(answer) == SHOP.nearest(session)


@pytest.mark.parametrize("k", [1, 20, 60, 100])
async def test_k_items_when_k_exist(recommender: Recommender, k: int) -> None:
    await click(recommender, "s", "i5")
    for session in ("s", "unknown"):
        assert len((await recommender.recommend(session, Options(k))).items) == min(k, 60)


async def test_exclusions_leave_the_next_best(recommender: Recommender) -> None:
    await click(recommender, "s", "i5", "i6")
    out = [*SHOP.nearest(["i5", "i6"])[:4], "not in the shop"]
    answer = await recommender.recommend("s", Options(exclude=out))
    assert items(answer) == SHOP.nearest(["i5", "i6"], without=out)


@pytest.mark.parametrize(
    ("deployed", "asked", "expected"),
    [(False, None, False), (True, None, True), (True, False, False), (False, True, True)],
)
async def test_seen_items(
    recommender: Recommender,
    follower: DeploymentFollower,
    artifacts: Path,
    deployed: bool,
    asked: bool | None,
    expected: bool,
) -> None:
    update_deployment(artifacts, lambda old: old.model_copy(update={"exclude_seen": deployed}))
    await follower.look()
    await click(recommender, "s", "i5")
    await click(recommender, "s", "i9", type="purchase")
    answer = await recommender.recommend("s", Options(exclude_seen=asked))
    assert items(answer) == SHOP.nearest(["i5"], without=["i5", "i9"] if expected else [])


async def test_hidden_items_are_in_no_stage(
    recommender: Recommender, follower: DeploymentFollower, trending: Trending
) -> None:
    await click(recommender, "s", "i1", "i2", "i3")
    await trending.refresh()
    for hidden in ("i1", "i4", SHOP.nearest(["i1", "i2", "i3"])[0], "not in the shop"):
        await follower.change_hidden(hide=[hidden])
    out = follower.current.hidden
    assert items(await recommender.recommend("s", Options())) == SHOP.nearest(["i1", "i2", "i3"], without=out)
    fallback = await recommender.recommend("unknown", Options(60))
    assert fallback.stage == "trending"
    assert not out & set(items(fallback))
    assert not out & {item_id for item_id, _ in recommender.trending(Options(100))[0]}
    _, similar, _ = recommender.similar("i1", Options(100))
    assert [item_id for item_id, _ in similar] == SHOP.nearest(["i1"], 60, without=out)


async def test_an_unknown_session_gets_what_is_trending_then_what_is_popular(
    recommender: Recommender, trending: Trending
) -> None:
    assert (await recommender.recommend("nobody", Options())).stage == "popular"
    assert items(await recommender.recommend("nobody", Options(5))) == SHOP.popular(5)
    for session, item_id in enumerate(["i50", "i50", "i40", "not in the shop", "i50", "i40", "i2"]):
        await click(recommender, f"s{session}", item_id)
    await trending.refresh()
    answer = await recommender.recommend("nobody", Options(6))
    assert answer.stage == "trending"
    assert items(answer) == ["i50", "i40", "i2", "i1", "i3", "i4"]
    assert [score for _, score in answer.items][3:] == [0, 0, 0]
    without = await recommender.recommend("nobody", Options(4, exclude=["i50", "i1"]))
    assert items(without) == ["i40", "i2", "i3", "i4"]


async def test_every_answer_has_its_own_id(recommender: Recommender) -> None:
    answers = [await recommender.recommend_items(["i1"], Options(1)) for _ in range(100)]
    assert len({answer.recommendation_id for answer in answers}) == 100


async def test_a_session_that_is_not_stored(recommender: Recommender) -> None:
    answer = await recommender.recommend_items(["i1", "x", "i2"], Options(exclude_seen=True))
    assert items(answer) == SHOP.nearest(["i1", "i2"], without=["i1", "i2"])
    assert answer.ignored == ["x"]


async def test_click_and_recommend_sees_the_click(recommender: Recommender) -> None:
    await click(recommender, "s", "i1")
    appended, answer = await recommender.click_and_recommend("s", Click("i2", time.time()), Options(20))
    assert appended.length == 2
    assert answer is not None
    assert items(answer) == SHOP.nearest(["i1", "i2"])


async def test_versions_and_items_that_are_not_there(recommender: Recommender) -> None:
    assert (await recommender.recommend("s", Options(model="v1"))).version == "v1"
    with pytest.raises(UnknownModel) as error:
        await recommender.recommend("s", Options(model="v2"))
    assert error.value.loaded == ["v1"]
    with pytest.raises(UnknownItem):
        recommender.similar("not in the shop", Options(5))


async def test_before_the_first_model(bare: Recommender, artifacts: Path, trending: Trending) -> None:
    with pytest.raises(NoModel):
        await bare.recommend("s", Options())
    with pytest.raises(NoModel):
        bare.similar("i1", Options(5))
    assert (await bare.click_and_recommend("s", Click("new", time.time()), Options(5)))[1] is None
    await trending.refresh()
    answer = await bare.recommend("s", Options())
    assert (answer.stage, answer.version, items(answer)) == ("trending", None, ["new"])


async def test_one_run_ranks_many_sessions(recommender: Recommender, follower: DeploymentFollower) -> None:
    assert follower.current.champion is not None
    queries = [Query([1], 20, ()), Query([2, 3], 5, {1}), Query([4, 5, 6, 4], 60, set(range(1, 50)))]
    ranked = follower.current.champion.rank(queries)
    sessions = [["i1"], ["i2", "i3"], ["i4", "i5", "i6", "i4"]]
    for query, session, found in zip(queries, sessions, ranked, strict=True):
        without = [f"i{item}" for item in query.excluded]
        assert [item_id for item_id, _ in found] == SHOP.nearest(session, query.k, without)
