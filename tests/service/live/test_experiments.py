"""Several versions at once: who answers whom, how each is judged, and that every worker follows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest
from redis import Redis

from service.live.deployment import challenge, hide, publish, rollback, shadow, withdraw
from service.live.snapshot import bucket
from service.process.settings import Settings
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, Serving, item_ids, serving
from tests.waiting import DEADLINE_SECONDS, eventually

pytestmark = pytest.mark.anyio

OLD, NEW = Shop.make(seed=1), Shop.make(seed=2)
SESSIONS = [f"s{number}" for number in range(400)]
ALL = {"quality_share": 1.0}
UNSURE = {"hit_rate_interval": None, "mrr_interval": None}


@pytest.fixture
def published(artifacts: Path) -> Path:
    """v1 is live; v2 lies beside it."""
    OLD.write(artifacts, "v1")
    NEW.write(artifacts, "v2")
    publish(artifacts, "v1")
    return artifacts


async def loaded(service: Serving, *versions: str) -> None:
    """Wait until these versions are loaded, and no other."""
    await eventually(lambda: {m.version for m in service.follower.current.bundles.values()} == set(versions))


async def live_quality(service: Serving) -> dict[str, dict[str, Any]]:
    answer = (await service.client.get("/models")).json()
    return {model["version"]: model["live_quality"] for model in answer["loaded"]}


def logged(client: Redis) -> list[tuple[str, dict[str, str]]]:
    """The entries of the click log, shard after shard."""
    shards = [client.xrange(key) for key in client.scan_iter("clicks:*")]
    return [entry for shard in shards for entry in cast("list[tuple[str, dict[str, str]]]", shard)]


def test_a_session_stays_where_it_is_and_experiments_are_independent() -> None:
    first = {session for session in SESSIONS if bucket(session, "v2") < 0.25}
    assert first == {session for session in SESSIONS if bucket(session, "v2") < 0.25}
    assert 70 < len(first) < 130, "a quarter of 400, give or take three standard deviations"
    assert first < {session for session in SESSIONS if bucket(session, "v2") < 0.5}, (
        "a larger share keeps them"
    )
    both = first & {session for session in SESSIONS if bucket(session, "v3") < 0.25}
    assert 10 < len(both) < 45, "a sixteenth of 400: another experiment draws anew"


async def test_a_challenger_answers_its_share_of_the_sessions_and_always_the_same(
    published: Path, redis_url: str
) -> None:
    challenge(published, "v2", 0.25)
    async with serving(published, redis_url) as service:
        await loaded(service, "v1", "v2")
        for session in SESSIONS:
            await service.click(session, "i5")
        versions = {}
        for session in SESSIONS:
            answer = await service.recommend(session)
            versions[session] = answer["version"]
            shop = NEW if answer["version"] == "v2" else OLD
            assert item_ids(answer) == shop.nearest(["i5"])
            assert answer["recommendation_id"].startswith(answer["version"] + "~")
        expected = {s: "v2" if bucket(s, "v2") < 0.25 else "v1" for s in SESSIONS}
        assert versions == expected
        again = {session: (await service.recommend(session))["version"] for session in SESSIONS}
        assert again == versions
        stateless = await service.client.post("/recommend", json={"items": ["i5"]})
        assert stateless.json()["version"] == "v1", "a session without an id is not experimented with"
        asked_for = await service.recommend(SESSIONS[0], model="v2")
        assert item_ids(asked_for) == NEW.nearest(["i5"])

        withdraw(published, "challenger")
        await loaded(service, "v1")
        answers = Counter([(await service.recommend(session))["version"] for session in SESSIONS])
        assert answers == {"v1": 400}


async def test_a_promoted_challenger_is_not_loaded_again_and_rollback_restores_the_answers(
    published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url) as service:
        await service.click("s", "i7", "i3")
        before = item_ids(await service.recommend("s"))
        challenge(published, "v2", 0.01)
        await loaded(service, "v1", "v2")
        bundle = service.follower.current.bundles["challenger"].bundle
        publish(published, "v2")
        await loaded(service, "v2")
        assert service.follower.current.bundles["champion"].bundle is bundle
        assert item_ids(await service.recommend("s")) == NEW.nearest(["i7", "i3"])
        rollback(published)
        await loaded(service, "v1")
        assert item_ids(await service.recommend("s")) == before == OLD.nearest(["i7", "i3"])


async def test_versions_with_other_items_live_side_by_side(artifacts: Path, redis_url: str) -> None:
    small, large = Shop.make(n_items=30, seed=1), Shop.make(n_items=90, seed=2)
    small.write(artifacts, "v1")
    large.write(artifacts, "v2")
    publish(artifacts, "v1")
    challenge(artifacts, "v2", 0.5)
    hide(artifacts, "i80")
    async with serving(artifacts, redis_url) as service:
        await loaded(service, "v1", "v2")
        by_small = next(s for s in SESSIONS if bucket(s, "v2") >= 0.5)
        by_large = next(s for s in SESSIONS if bucket(s, "v2") < 0.5)
        for session in (by_small, by_large):
            await service.click(session, "i70", "i2")
        answer = await service.recommend(by_small)
        assert (item_ids(answer), answer["ignored"]) == (small.nearest(["i2"]), ["i70"])
        answer = await service.recommend(by_large)
        assert (item_ids(answer), answer["ignored"]) == (large.nearest(["i70", "i2"], without=["i80"]), [])


async def test_a_bad_challenger_is_refused_by_name_and_the_champion_answers(
    published: Path, redis_url: str
) -> None:
    (published / "bundles" / "v2" / "items.txt").write_text("i1\n")
    challenge(published, "v2", 1.0)
    async with serving(published, redis_url) as service:
        failures = await service.metric("nextclick_bundle_failures_total")
        assert failures >= 1
        await service.click("s", "i5")
        assert item_ids(await service.recommend("s")) == OLD.nearest(["i5"])
        answer = (await service.client.get("/models")).json()
        assert list(answer["refused"]) == ["v2"]
        assert "items.txt: sha256 differs" in answer["refused"]["v2"]
        assert "items.txt: sha256 differs" in answer["error"]
        assert (answer["challenger"], answer["challenger_share"]) == ("v2", 1.0)
        assert [(m["version"], m["role"]) for m in answer["loaded"]] == [("v1", "champion")]
        assert (await service.client.get("/health/ready")).status_code == 200


async def test_the_next_click_judges_what_was_shown_once(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, **ALL) as service:
        names = ("clicks", "hits", "reciprocal_ranks")
        lines = [f'nextclick_judged_{name}_total{{version="v1"}}' for name in names]
        before = [await service.metric(line) for line in lines]
        await service.click("s", "i5")
        shown = item_ids(await service.recommend("s"))
        assert (await live_quality(service))["v1"]["judged"] == 0
        await service.click("s", shown[3], event_id="e")
        await service.click("s", shown[3], event_id="e")  # the same click, sent again
        await service.click("s", shown[0])  # nothing was shown since
        assert await live_quality(service) == {
            "v1": {"judged": 1, "hit_rate@20": 1.0, "mrr@20": 0.25, "feedback": 0, **UNSURE}
        }
        shown = item_ids(await service.recommend("s"))
        await service.click("s", next(item for item in OLD.items if item not in shown))
        await service.recommend("other")
        assert (await live_quality(service))["v1"] == {
            "judged": 2,
            "hit_rate@20": 0.5,
            "mrr@20": 0.125,
            "feedback": 0,
            **UNSURE,
        }
        after = [await service.metric(line) for line in lines]
        # Other tests of this process have counted thirds.
        assert [b - a for a, b in zip(before, after, strict=True)] == pytest.approx([2, 1, 0.25])


async def test_only_a_choice_of_another_item_judges(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, **ALL) as service:
        await service.click("s", "i5")
        shown = item_ids(await service.recommend("s"))
        await service.click("s", "i5", "i5", timestamp=1.0)  # also late
        await service.click("s", "i5", shown[0], shown[1], type="cart")
        await service.click("s", "i5")
        assert (await live_quality(service))["v1"]["judged"] == 0
        other, outside = [item for item in shown if item != "i5"][5], next(iter({*OLD.items} - {*shown}))
        await service.click("s", other, type="cart")
        await service.click("s", other)  # what was put into the cart is opened
        await service.click("s", outside)  # nothing was shown since
        assert await live_quality(service) == {
            "v1": {
                "judged": 1,
                "hit_rate@20": 1.0,
                "mrr@20": pytest.approx(1 / (1 + shown.index(other))),
                "feedback": 0,
                **UNSURE,
            }
        }


async def test_the_first_click_of_a_session_judges_what_was_shown_before(
    published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url, **ALL) as service:
        await service.click("s", "i5", type="view")
        shown = item_ids(await service.recommend("s"))
        await service.click("s", shown[0])
        assert (await live_quality(service))["v1"]["judged"] == 1


async def test_a_short_answer_is_judged_by_the_twenty_items_it_was_cut_from(
    published: Path, redis_url: str
) -> None:
    async with serving(published, redis_url, **ALL) as service:
        await service.click("s", "i5", "i5")
        answer = await service.client.post("/sessions/s/click?recommend=3", json={"item_id": "i6"})
        assert item_ids(answer.json()["recommendations"]) == OLD.nearest(["i5", "i5", "i6"], 3)
        await service.click("s", OLD.nearest(["i5", "i5", "i6"])[9])
        assert (await live_quality(service))["v1"]["mrr@20"] == pytest.approx(0.1)


async def test_only_the_sample_is_judged(published: Path, redis_url: str, redis_client: Redis) -> None:
    async with serving(published, redis_url, quality_share=0.3) as service:
        for session in SESSIONS[:100]:
            await service.click(session, "i5")
            await service.recommend(session)
        watched = {key.rpartition(":")[2] for key in redis_client.scan_iter("shown:*")}
        assert watched == {s for s in SESSIONS[:100] if bucket(s, "live quality") < 0.3}
        assert all(0 < redis_client.ttl(key) <= 600 for key in redis_client.scan_iter("shown:*"))


async def test_a_shadow_is_judged_beside_the_champion_and_never_answers(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    shadow(published, "v2", 1.0)
    async with serving(published, redis_url, quality_share=0.0) as service:
        await loaded(service, "v1", "v2")
        asked = 'nextclick_recommendations_total{stage="model",version="v2"}'
        before = await service.metric(asked)
        only_new = next(i for i in NEW.nearest(["i5"]) if i not in OLD.nearest(["i5"]))
        for session in SESSIONS[:5]:
            await service.click(session, "i5")
            assert item_ids(await service.recommend(session)) == OLD.nearest(["i5"])
            (key,) = redis_client.scan_iter(f"shown:*:{session}")
            await eventually(lambda key=key: "v2" in redis_client.hgetall(key))  # type: ignore[misc]
            await service.click(session, only_new)
        quality = await live_quality(service)
        assert (quality["v1"]["judged"], quality["v1"]["hit_rate@20"]) == (5, 0)
        assert (quality["v2"]["judged"], quality["v2"]["hit_rate@20"]) == (5, 1)
        assert quality["v2"]["mrr@20"] == pytest.approx(1 / (NEW.nearest(["i5"]).index(only_new) + 1))
        assert await service.metric(asked) == before


async def test_a_late_shadow_does_not_judge_another_click(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url, **ALL) as service:
        await service.click("s", "i5")
        answer = await service.recommend("s")
        await service.click("s", "i6")
        await service.store.remember("s", answer["recommendation_id"], "v2", ["i7"], beside=True)
        await service.click("s", "i7")
        assert (await service.store.quality(["v2"]))["v2"].judged == 0


async def test_a_recommendation_id_ties_a_click_to_the_answer(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async with serving(published, redis_url, quality_share=0.0) as service:
        line = 'nextclick_feedback_clicks_total{version="v1"}'
        before = await service.metric(line)
        await service.click("s", "i5")
        answer = await service.recommend("s")
        named = {"recommendation_id": answer["recommendation_id"]}
        for _ in range(2):
            await service.click("s", item_ids(answer)[0], event_id="e", **named)
        await service.client.post(
            "/clicks", json=[{"session_id": "s", "item_id": "i9", "type": "purchase", **named}]
        )
        await service.click("s", "i5", recommendation_id="made-up~1")
        quality = await live_quality(service)
        assert quality["v1"] == {
            "judged": 0,
            "hit_rate@20": None,
            "mrr@20": None,
            "feedback": 2,
            **UNSURE,
        }
        assert await service.metric(line) - before == 2
        told = [fields["rec"] for _, fields in logged(redis_client)]
        assert told == ["", answer["recommendation_id"], answer["recommendation_id"], "made-up~1"]
        refused = await service.click("s", "i5", recommendation_id="")
        assert refused.status_code == 422
        assert "body.recommendation_id" in refused.text


async def test_an_erased_session_is_judged_no_more(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async with serving(published, redis_url, **ALL) as service:
        await service.click("s", "i5")
        await service.recommend("s")
        await service.click("s", "i6")
        await service.recommend("s")
        kept = ("shown:*", "judged:*")
        assert all(list(redis_client.scan_iter(pattern)) for pattern in kept)
        await service.client.delete("/sessions/s")
        assert [list(redis_client.scan_iter(pattern)) for pattern in kept] == [[], []]


async def test_a_change_by_one_worker_is_followed_by_the_others(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as one, serving(published, redis_url) as other:
        for change, version in (("activate", "v2"), ("rollback", "v1")):
            answer = await one.client.post(f"/admin/{change}", json={"version": version}, headers=ADMIN)
            assert answer.status_code == 200
            await loaded(other, version)
        assert (await one.client.put("/admin/hidden/i7", headers=ADMIN)).is_success
        await eventually(lambda: other.follower.current.hidden == {"i7"})


def test_by_default_workers_follow_well_within_five_seconds() -> None:
    assert Settings().deployment_poll_seconds <= 1


async def test_the_click_log_tells_how_far_it_is_collected(
    published: Path, redis_url: str, redis_client: Redis
) -> None:
    async def uncollected_becomes(entries: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await service.metric("nextclick_click_log_uncollected") != entries:
                await asyncio.sleep(0.02)

    async with serving(published, redis_url, click_log_max_entries_per_shard=10, shards=1) as service:
        began = time.time()
        for _ in range(4):
            await service.click("s", "i5")
        entries = logged(redis_client)
        redis_client.set("collected:{0}", f"{entries[2][0]} 3")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await service.metric("nextclick_click_log_entries") != 4:
                await asyncio.sleep(0.02)
        await uncollected_becomes(1)
        assert await service.metric("nextclick_click_log_fill_ratio") == pytest.approx(0.4)
        lag_seconds = await service.metric("nextclick_click_log_lag_seconds")
        assert 0 <= lag_seconds < time.time() - began + 1, "Redis's clock has coarser ticks"
        redis_client.set("collected:{0}", f"{entries[3][0]} 4")
        await uncollected_becomes(0)
        assert await service.metric("nextclick_click_log_lag_seconds") == 0
