"""Items that no bundle knows: answered from live clicks, once there are enough of them, and within bounds."""

from __future__ import annotations

import time
from pathlib import Path
from typing import cast

import pytest
from redis import Redis

from service.live.deployment import challenge, hide, publish
from service.process.settings import Settings
from service.state.store import Arrival, Click, SessionStore
from tests.service.bundles import Shop
from tests.service.serving import PATIENT, Serving, item_ids, serving
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

SHOP = Shop.make()


@pytest.fixture
def published(artifacts: Path) -> Path:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


async def visits(service: Serving, *sessions: tuple[str, ...]) -> None:
    """Each a session of its own; then the worker reads what is trending."""
    for number, items in enumerate(sessions):
        await service.click(f"visit {number} {time.monotonic_ns()}", *items)
    await service.trending.refresh()


async def test_a_new_item_trends_once_enough_sessions_clicked_it(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, cold_min_sessions=3) as service:
        await visits(service, ("new",), ("new",) * 30, ("i50",))
        assert item_ids((await service.client.get("/trending")).json()) == ["i50"]
        assert item_ids(await service.recommend("nobody"))[:2] == ["i50", "i1"]
        await visits(service, ("new",))
        assert item_ids((await service.client.get("/trending")).json()) == ["new", "i50"]
        answer = await service.recommend("nobody")
        assert (answer["stage"], item_ids(answer)[:3]) == ("trending", ["new", "i50", "i1"])
        hide(published, "new")
        await service.follower.reload()
        assert item_ids((await service.client.get("/trending")).json()) == ["i50"]


async def test_a_click_on_a_new_item_is_answered_by_what_other_sessions_with_it_clicked(
    published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url) as service:
        await visits(service, ("i9", "new", "i4"), ("new", "i4"), ("i4", "i7"))
        await service.click("s", "i20", "new")
        answer = await service.recommend("s", explain=True)
        assert (answer["stage"], answer["ignored"]) == ("neighbours", ["new"])
        assert item_ids(answer)[:2] == ["i4", "i9"]
        assert [item["score"] for item in answer["items"][:2]] == [2, 1]
        rest = [item for item in SHOP.nearest(["i20"], 40) if item not in ("i4", "i9")]
        assert item_ids(answer)[2:] == rest[:18], "filled up by the model, from what it knows of the session"
        assert "no bundle knows the newest item" in answer["explanation"]["reason"]
        assert answer["explanation"]["encoded"] == ["i20"]

        excluded = await service.recommend("s", exclude=["i4"], k=1)
        assert item_ids(excluded) == ["i9"]
        stateless = await service.client.post("/recommend", json={"items": ["new"], "k": 2})
        assert stateless.json()["stage"] == "neighbours"
        assert item_ids(stateless.json())[0] == "i4"

        await service.click("s", "i21")  # the newest item is known again
        answer = await service.recommend("s")
        assert (answer["stage"], item_ids(answer)) == ("model", SHOP.nearest(["i20", "i21"]))


async def test_a_session_is_not_its_own_neighbour(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i7", "i3", "new")
        answer = await service.recommend("s")
        assert (answer["stage"], item_ids(answer)) == ("model", SHOP.nearest(["i7", "i3"]))


async def test_a_neighbour_that_is_new_itself_needs_its_sessions(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, cold_min_sessions=3) as service:
        await visits(service, ("new", "newer"), ("new", "newer"))
        await service.click("s", "new")
        assert "newer" not in item_ids(await service.recommend("s"))
        await visits(service, ("newer",))
        assert item_ids(await service.recommend("s"))[0] == "newer"


async def test_neighbours_answer_before_the_first_model(artifacts: Path, redis_url: str) -> None:
    async with serving(artifacts, redis_url) as service:
        await visits(service, ("a", "b"), ("a", "b"), ("a", "c"))
        await service.click("s", "a")
        answer = await service.recommend("s", k=2)
        assert (answer["stage"], answer["version"], item_ids(answer)) == ("neighbours", None, ["b", "c"])


async def test_a_pair_counts_once_a_session_in_both_orders_and_for_known_items_not_at_all(
    redis_url: str, redis_client: Redis
) -> None:
    store = SessionStore(Settings(redis_timeout_seconds=PATIENT, shards=1), redis_url)
    cold = {"x", "y"}
    for session, items in (("s1", "axbxa"), ("s2", "xy"), ("s3", "ab")):
        for item in items:
            await store.append_arrival(Arrival(session, Click(item, time.time()), is_cold=item in cold))
    assert await store.co_clicks("x", 9) == [("a", 1), ("b", 1), ("y", 1)]
    assert await store.co_clicks("y", 9) == [("x", 1)]
    assert await store.co_clicks("a", 9) == []
    assert 0 < redis_client.ttl("co:{0}:x") <= 7 * 86400
    await store.close()


async def test_counts_are_merged_over_the_shards(redis_url: str, redis_client: Redis) -> None:
    store = SessionStore(Settings(redis_timeout_seconds=PATIENT, shards=8), redis_url)
    for number in range(60):
        for item in ("new", "b" if number % 3 else "c"):
            await store.append_arrival(Arrival(f"s{number}", Click(item, time.time()), is_cold=item == "new"))
    assert await store.co_clicks("new", 9) == [("b", 40), ("c", 20)]
    assert len(list(redis_client.scan_iter("co:*"))) == 8
    await store.close()


async def test_what_is_kept_of_new_items_is_bounded(redis_url: str, redis_client: Redis) -> None:
    bounds = {"shards": 1, "cold_max_items": 5, "cold_max_neighbours": 3}
    settings = Settings.model_validate({"redis_timeout_seconds": PATIENT, **bounds})
    store = SessionStore(settings, redis_url)
    for number in range(40):
        session = f"s{number}"
        await store.append_arrival(Arrival(session, Click(f"new {number}", time.time()), is_cold=True))
        for item in range(10):
            await store.append(session, Click(f"item {item} of {number}", time.time()))
    kept = [f"new {number}" for number in range(35, 40)]
    assert redis_client.zrange("cold:{0}", 0, -1) == kept
    assert sorted(redis_client.scan_iter("co:*")) == [f"co:{{0}}:{item}" for item in kept]
    assert all(3 <= redis_client.zcard(f"co:{{0}}:{item}") <= 6 for item in kept)
    await store.close()

    none = SessionStore(settings.model_copy(update={"cold_max_items": 0}), redis_url)
    redis_client.delete("cold:{0}")
    await none.append_arrival(Arrival("t", Click("newest", time.time()), is_cold=True))
    assert redis_client.exists("cold:{0}") == 0
    await none.close()


EVIL = "http://evil.example/FREE"


async def test_one_visitor_makes_nothing_known_to_others(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as service:
        await service.click("visitor", *([EVIL] * 30), "i50")
        await service.click("visitor", *([EVIL] * 5), type="purchase")
        await service.trending.refresh()
        assert item_ids((await service.client.get("/trending")).json()) == ["i50"]
        assert EVIL not in item_ids(await service.recommend("nobody"))


async def test_an_item_is_not_answered_below_its_sessions_however_they_fade(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async with serving(published, redis_url, shards=1, trending_half_life_seconds=1e9) as service:
        await visits(service, ("new",), ("new",), ("new",))
        for score, answered in ((2.0001, ["new"]), (2.0, []), (0.5, [])):
            redis_client.zadd("trending:{0}", {"new": score})
            await service.trending.refresh()
            assert item_ids((await service.client.get("/trending")).json()) == answered


async def test_ignored_items_are_stored_and_logged_and_never_answered(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async with serving(published, redis_url, unknown_items="ignore", shards=1) as service:
        await visits(service, *[("i9", "new", "i4")] * 5)
        assert set(item_ids((await service.client.get("/trending")).json())) == {"i4", "i9"}
        assert redis_client.zscore("trending:{0}", "new") is None
        assert redis_client.keys("co*") == []
        assert (await service.click("s", "i20", "new")).status_code == 200
        answer = await service.recommend("s")
        assert (answer["stage"], answer["ignored"]) == ("model", ["new"])
        assert [click.item_id for click in await service.store.read("s")] == ["i20", "new"]
        logged = cast("list[tuple[str, dict[str, str]]]", redis_client.xrange("clicks:{0}"))
        assert [fields["item"] for _, fields in logged].count("new") == 6


async def test_what_trended_before_is_not_answered_once_it_is_ignored(
    published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url) as service:
        await visits(service, *[("new",)] * 5)
        assert item_ids((await service.client.get("/trending")).json()) == ["new"]
    async with serving(published, redis_url, unknown_items="ignore") as service:
        await service.trending.refresh()
        assert item_ids((await service.client.get("/trending")).json()) == []


async def test_refused_items_name_the_field(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, unknown_items="refuse") as service:
        refused = await service.click("s", "new")
        assert refused.status_code == 422
        [error] = refused.json()["errors"]
        assert error == {"field": "body.item_id", "message": "no deployed bundle knows this item"}
        batch = [{"session_id": "s", "item_id": item} for item in ("i1", "new", "i2")]
        events = (await service.client.post("/clicks", json=batch)).json()["events"]
        assert [event["status"] for event in events] == [200, 422, 200]
        assert events[1]["detail"] == "body.1.item_id: no deployed bundle knows this item"
        assert [click.item_id for click in await service.store.read("s")] == ["i1", "i2"]


@pytest.mark.parametrize("unknown_items", ["ignore", "refuse"])
async def test_before_the_first_bundle_everything_is_allowed(
    artifacts: Path, redis_url: str, unknown_items: str
) -> None:
    async with serving(artifacts, redis_url, unknown_items=unknown_items) as service:
        await visits(service, ("a",))
        assert item_ids((await service.client.get("/trending")).json()) == ["a"]


@pytest.mark.parametrize("unknown_items", ["ignore", "refuse"])
async def test_what_only_a_challenger_knows_is_known(
    published: Path, redis_url: str, unknown_items: str
) -> None:
    Shop.make(n_items=80).write(published, "v2")
    challenge(published, "v2", 0.5)
    async with serving(published, redis_url, unknown_items=unknown_items) as service:
        await eventually(lambda: service.follower.current.challenger is not None)
        await visits(service, ("i70",), ("i70",), ("i70",))
        assert item_ids((await service.client.get("/trending")).json()) == ["i70"]
        assert (await service.click("s", "i81")).status_code == (422 if unknown_items == "refuse" else 200)


async def test_a_session_beyond_its_share_is_told_so(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, session_max_logged=2) as service:
        limited = 'nextclick_clicks_total{outcome="limited"}'
        before = await service.metric(limited)
        await service.click("s", "i1", "i2")
        answer = await service.click("s", "i3")
        assert (answer.status_code, answer.json()["type"]) == (429, "urn:nextclick:problem:session-full")
        assert "this session has sent as many clicks as one may" in answer.json()["detail"]
        batch = [{"session_id": session, "item_id": "i1"} for session in ("s", "t")]
        events = (await service.client.post("/clicks", json=batch)).json()["events"]
        assert [event["status"] for event in events] == [429, 200]
        assert "this session has sent as many clicks as one may" in events[0]["detail"]
        assert await service.metric(limited) - before == 2
        assert len((await service.recommend("s"))["items"]) == 20
