"""Placements, as shops and their operators meet them: the real app on a real Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from service.catalogue.attributes import Values
from service.catalogue.placements import Placement
from service.live.deployment import hide, publish, read_deployment, set_placement, shadow
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, Serving, item_ids, serving
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

SHOP, OTHER = Shop.make(seed=1), Shop.make(seed=2)
UNSURE = {"hit_rate_interval": None, "mrr_interval": None}
EVEN = {"attribute": "tags", "contains": "even"}


@pytest.fixture
def published(artifacts: Path) -> Path:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


@pytest.fixture
async def shop(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    """A shop whose items with even numbers are tagged so; each brand has ten items, and three categories."""
    async with serving(published, redis_url, quality_share=1.0) as service:
        service.follower.filters.apply([(f"i{number}", values_of(number)) for number in range(1, 61)])
        yield service


def values_of(number: int) -> Values:
    return {
        "tags": ["even"] if number % 2 == 0 else ["odd"],
        "brand": f"b{number % 6}",
        "categories": [f"c{number % 3}"],
        "price": float(number),
    }


async def put(shop: Serving, name: str, **placement: object) -> dict[str, Any]:
    answer = await shop.client.put(f"/admin/placements/{name}", json=placement, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def is_even(item_id: str) -> bool:
    return int(item_id[1:]) % 2 == 0


async def test_a_placement_says_what_a_request_does_not(shop: Serving) -> None:
    await shop.click("s", "i5")
    await put(shop, "home", k=7, exclude_seen=True, filter=EVEN)
    nearest = [item_id for item_id in SHOP.nearest(["i5"], 60) if item_id != "i5"]
    even = [item_id for item_id in nearest if is_even(item_id)]
    assert item_ids(await shop.recommend("s", placement="home")) == even[:7]
    assert item_ids(await shop.recommend("s", placement="home", k=3)) == even[:3]
    assert item_ids(await shop.recommend("s")) == SHOP.nearest(["i5"]), "as ever"
    body: dict[str, object] = {"items": ["i5"], "placement": "home"}
    assert item_ids((await shop.client.post("/recommend", json=body)).json()) == even[:7]
    seen = [item_id for item_id in SHOP.nearest(["i6"], 60) if is_even(item_id)][:7]
    body = {"items": ["i6"], "placement": "home", "exclude_seen": False}
    assert item_ids((await shop.client.post("/recommend", json=body)).json()) == seen
    clicked = await shop.client.post("/sessions/t/click?placement=home", json={"item_id": "i5"})
    assert item_ids(clicked.json()["recommendations"]) == even[:7]
    clicked = await shop.client.post("/sessions/u/click?recommend=2&placement=home", json={"item_id": "i5"})
    assert item_ids(clicked.json()["recommendations"]) == even[:2]


async def test_steering_acts_on_what_is_allowed_and_explains_itself(shop: Serving) -> None:
    await shop.click("s", "i5")
    await put(
        shop,
        "cart",
        k=6,
        filter={"attribute": "price", "lte": 30},
        boosts=[{"rule": EVEN, "factor": 10.0, "name": "even first"}],
        caps=[{"attribute": "categories", "at_most": 2}],
        pins=[{"item_id": "i29", "position": 2}, {"item_id": "i50", "position": 1}],
    )
    allowed = [item_id for item_id in SHOP.nearest(["i5"], 60) if int(item_id[1:]) <= 30]
    ranked = [i for i in allowed if is_even(i)] + [i for i in allowed if not is_even(i)]
    count = {29 % 3: 1}
    expected: list[str] = []
    for item_id in ranked:
        category = int(item_id[1:]) % 3
        if item_id != "i29" and count.get(category, 0) < 2 and len(expected) < 5:
            expected.append(item_id)
            count[category] = count.get(category, 0) + 1
    expected.insert(1, "i29")

    answer = await shop.recommend("s", placement="cart", explain=True)
    assert item_ids(answer) == expected, "i50 is pinned, but costs too much"
    told = answer["explanation"]["items"]
    assert [each["item_id"] for each in told] == expected
    assert told[0]["moved_by"] == ["even first"]
    assert told[1]["moved_by"] == ["pin 2"]
    assert {each["stage"] for each in told} == {"model"}
    assert [each["score"] for each in told] == [each["score"] for each in answer["items"]]


async def test_a_promotion_brings_in_what_no_pool_holds(artifacts: Path, redis_url: str) -> None:
    large = Shop.make(n_items=400, seed=3)
    large.write(artifacts, "v1")
    publish(artifacts, "v1")
    far = large.nearest(["i5"], 400)[-3:]
    async with serving(artifacts, redis_url, trending_refresh_seconds=3600) as shop:
        shop.follower.filters.apply([(item_id, {"tags": ["own"]}) for item_id in far])
        own = {"attribute": "tags", "contains": "own"}
        await put(shop, "home", k=4, promotions=[{"rule": own, "percent": 50, "name": "ours"}])
        await shop.click("s", "i5")
        answer = await shop.recommend("s", placement="home", explain=True)
        assert item_ids(answer) == [*large.nearest(["i5"], 2), *far[:2]]
        assert [each["moved_by"] for each in answer["explanation"]["items"]] == [[], [], ["ours"], ["ours"]]
        hide(artifacts, far[0])
        await eventually(lambda: far[0] in shop.follower.current.hidden)
        assert item_ids(await shop.recommend("s", placement="home"))[2:] == far[1:]
        excluded = await shop.recommend("s", placement="home", exclude=far[1:])
        assert item_ids(excluded) == large.nearest(["i5"], 4)
        unknown = await shop.recommend("nobody", placement="home", explain=True)
        assert item_ids(unknown) == ["i1", "i2", *sorted(far[1:], key=lambda item_id: int(item_id[1:]))]


async def test_diversity_is_of_the_bundles_vectors(shop: Serving) -> None:
    await put(shop, "home", k=5, mmr=0.5)
    vector = SHOP.session_vector(["i5"])
    relevance = {
        item_id: (1 + float(SHOP.vectors[row] @ vector)) / 2 for row, item_id in enumerate(SHOP.items)
    }
    likeness = SHOP.vectors @ SHOP.vectors.T
    chosen: list[int] = []
    while len(chosen) < 5:
        left = [row for row in range(60) if row not in chosen]
        chosen.append(
            max(
                left,
                key=lambda row: (
                    0.5 * relevance[SHOP.items[row]]
                    - 0.5 * max([0.0, *(float(likeness[row, other]) for other in chosen)])
                ),
            )
        )
    answer = await shop.client.post("/recommend", json={"items": ["i5"], "placement": "home"})
    assert item_ids(answer.json()) == [SHOP.items[row] for row in chosen]


async def test_stages_are_those_that_are_named_in_their_order(shop: Serving) -> None:
    for session in range(3):
        await shop.click(f"s{session}", "i9", "i8")
    await shop.trending.refresh()
    await put(shop, "home", k=4, stages=["trending", "model"])
    await put(shop, "new", stages=["trending"])
    answer = await shop.recommend("s0", placement="home", explain=True)
    assert answer["stage"] == "trending"
    nearest = [item_id for item_id in SHOP.nearest(["i9", "i8"], 6) if item_id not in ("i8", "i9")]
    assert sorted(item_ids(answer)[:2]) == ["i8", "i9"]
    assert item_ids(answer)[2:] == nearest[:2]
    assert [each["stage"] for each in answer["explanation"]["items"]] == ["trending"] * 2 + ["model"] * 2
    assert sorted(item_ids(await shop.recommend("s0", placement="new"))) == ["i8", "i9"]


async def test_a_rule_about_the_session(shop: Serving) -> None:
    await put(shop, "home", k=60, boosts=[{"rule": {"same": "brand"}, "factor": 10.0}])
    for item_id in ("i5", "i8"):
        await shop.click(f"s-{item_id}", item_id)
        brand = int(item_id[1:]) % 6
        answer = item_ids(await shop.recommend(f"s-{item_id}", placement="home"))
        assert {int(each[1:]) % 6 for each in answer[:10]} == {brand}
        assert len(answer) == 60


async def test_an_unknown_placement_names_those_that_there_are_and_no_click_is_stored(shop: Serving) -> None:
    await put(shop, "home")
    for asked in (
        shop.client.get("/recommend", params={"session_id": "s", "placement": "cart"}),
        shop.client.post("/recommend", json={"items": [], "placement": "cart"}),
        shop.client.post("/sessions/s/click?placement=cart", json={"item_id": "i1"}),
    ):
        answer = await asked
        assert answer.status_code == 404, answer.text
        assert answer.json()["type"] == "urn:nextclick:problem:unknown-placement"
        assert answer.json()["known"] == ["home"]
        assert "there is no placement cart; there are: home" in answer.json()["detail"]
    assert await shop.store.read("s") == ()
    answer = await shop.client.get("/recommend", params={"session_id": "s", "placement": "Home!"})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "query.placement")


class TestAdmin:
    async def test_a_life(self, shop: Serving, published: Path) -> None:
        first = await put(shop, "home", k=5)
        assert first | {"at": 0} == {
            "name": "home",
            "number": 1,
            "at": 0,
            "by": "admin",
            "placement": Placement(k=5).model_dump(mode="json"),
            "problem": None,
            "live_quality": {"judged": 0, "hit_rate@20": None, "mrr@20": None, **UNSURE},
        }
        assert await put(shop, "home", k=5) == first, "the same again is no version"
        second = await put(shop, "home", k=6)
        one = await shop.client.get("/admin/placements/home", headers=ADMIN)
        every = await shop.client.get("/admin/placements", headers=ADMIN)
        assert every.json() == {"placements": [one.json()]}
        assert one.json() == second
        history = (await shop.client.get("/admin/placements/home/history", headers=ADMIN)).json()
        assert [(each["number"], each["placement"]["k"]) for each in history["versions"]] == [(2, 6), (1, 5)]
        back = await shop.client.post("/admin/placements/home/rollback", headers=ADMIN)
        assert (back.json()["number"], back.json()["placement"]["k"]) == (3, 5)
        assert len(item_ids(await shop.recommend("s", placement="home"))) == 5
        again = await shop.client.post("/admin/placements/home/rollback?version=2", headers=ADMIN)
        assert again.json()["placement"]["k"] == 6
        none = await shop.client.post("/admin/placements/home/rollback?version=9", headers=ADMIN)
        assert (none.status_code, "has no version 9" in none.json()["detail"]) == (409, True)
        gone = await shop.client.delete("/admin/placements/home", headers=ADMIN)
        assert gone.json() == {"placements": []}
        assert read_deployment(published).placements == {}
        for path in ("home", "home/history"):
            assert (await shop.client.get(f"/admin/placements/{path}", headers=ADMIN)).status_code == 404
        assert (await shop.client.delete("/admin/placements/home", headers=ADMIN)).status_code == 404

    @pytest.mark.parametrize(
        ("placement", "field"),
        [
            ({"k": 0}, "body.k"),
            ({"colour": "red"}, "body.colour"),
            ({"filter": {"all": [{"attribute": "price", "lt": "50"}]}}, "body.filter.all.0.lt"),
            ({"boosts": [{"rule": {"attribute": "nothing", "eq": 1}}]}, "body.boosts.0.rule.attribute"),
            ({"caps": [{"attribute": "price", "at_most": 1}]}, "body.caps.0.attribute"),
            ({"fields": ["nothing"]}, "body.fields.0"),
            ({"pins": [{"item_id": "a", "position": 1}, {"item_id": "a", "position": 2}]}, "body"),
        ],
    )
    async def test_what_is_wrong_is_named_and_changes_nothing(
        self, shop: Serving, placement: dict[str, object], field: str
    ) -> None:
        answer = await shop.client.put("/admin/placements/home", json=placement, headers=ADMIN)
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["field"] == field
        body = {"placement": placement, "items": []}
        answer = await shop.client.post("/admin/placements/preview", json=body, headers=ADMIN)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] == field.replace("body", "body.placement")
        assert shop.follower.current.deployment.placements == {}

    @pytest.mark.parametrize(
        "content",
        [
            '{"filter": ' + '{"not": ' * depth + "{}" + "}" * depth + "}"
            for depth in (20, 300, 5000)  # for a rule, for Python, for a reader of JSON
        ]
        + [
            r'{"filter": {"attribute": "brand", "eq": "\ud800"}}',
            r'{"boosts": [{"rule": {}, "name": "\ud800"}]}',
        ],
        ids=["deep", "deeper", "deepest", "half a pair", "half a pair as name"],
    )
    async def test_what_no_file_could_hold_is_refused(self, shop: Serving, content: str) -> None:
        headers = {**ADMIN, "content-type": "application/json"}
        answer = await shop.client.put("/admin/placements/home", content=content, headers=headers)
        assert answer.status_code == 422, answer.text
        assert shop.follower.current.deployment.placements == {}

    async def test_only_with_the_key(self, shop: Serving) -> None:
        for method, path in (
            ("GET", ""),
            ("GET", "/home"),
            ("PUT", "/home"),
            ("DELETE", "/home"),
            ("GET", "/home/history"),
            ("POST", "/home/rollback"),
            ("POST", "/preview"),
        ):
            answer = await shop.client.request(method, f"/admin/placements{path}", json={})
            assert answer.status_code == 401, (method, path)

    async def test_a_preview_shows_both_and_leaves_no_trace(self, shop: Serving, redis_client: Redis) -> None:
        await shop.click("s", "i5")
        await put(shop, "home", k=4)
        before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
        counted = 'nextclick_recommendations_total{stage="model",version="v1"}'
        so_far = await shop.metric(counted)
        draft = {"k": 3, "filter": EVEN, "boosts": [{"rule": EVEN}]}

        async def preview(**session: object) -> dict[str, Any]:
            body = {"placement": draft, **session}
            answer = await shop.client.post("/admin/placements/preview", json=body, headers=ADMIN)
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

        even = [item_id for item_id in SHOP.nearest(["i5"], 60) if is_even(item_id)]
        for session in ({"session_id": "s"}, {"items": ["i5"]}):
            told = await preview(beside="home", **session)
            assert item_ids(told["draft"]) == even[:3]
            assert told["draft"]["items"][0]["moved_by"] == ["boost 1"]
            assert item_ids(told["live"]) == SHOP.nearest(["i5"], 4)
            assert told["live"]["version"] == "v1"
        assert len((await preview(items=[]))["live"]["items"]) == 20, "without a placement"
        assert {key: redis_client.dump(key) for key in redis_client.scan_iter()} == before
        assert await shop.metric(counted) == so_far
        assert list(shop.follower.current.placements) == ["home"]
        unknown = {"placement": draft, "beside": "cart", "items": []}
        answer = await shop.client.post("/admin/placements/preview", json=unknown, headers=ADMIN)
        assert answer.status_code == 404
        for both in ({}, {"session_id": "s", "items": []}):
            answer = await shop.client.post(
                "/admin/placements/preview", json={"placement": draft, **both}, headers=ADMIN
            )
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "body")

    async def test_models_does_not_tell_of_them(self, shop: Serving) -> None:
        await put(shop, "home", k=4)
        assert "placements" not in (await shop.client.get("/models")).json()


async def test_every_worker_follows_and_publishing_leaves_them(published: Path, redis_url: str) -> None:
    async with serving(published, redis_url) as one, serving(published, redis_url) as other:
        await put(one, "home", k=3)
        await eventually(lambda: "home" in other.follower.current.placements)
        assert len(item_ids(await other.recommend("s", placement="home"))) == 3
        OTHER.write(published, "v2")
        publish(published, "v2")
        await eventually(lambda: {m.version for m in one.follower.current.bundles.values()} == {"v2"})
        assert len(item_ids(await one.recommend("s", placement="home"))) == 3


async def test_one_whose_attribute_is_declared_no_more_takes_nobody_along(
    published: Path, redis_url: str
) -> None:
    set_placement(published, "old", Placement(filter={"attribute": "colour", "eq": "red"}), "admin")
    set_placement(published, "home", Placement(k=3), "admin")
    async with serving(published, redis_url) as shop:
        answer = await shop.client.get("/recommend", params={"session_id": "s", "placement": "old"})
        assert answer.status_code == 404
        assert "there is no attribute 'colour'" in answer.json()["detail"]
        assert len(item_ids(await shop.recommend("s", placement="home"))) == 3
        told = (await shop.client.get("/admin/placements", headers=ADMIN)).json()["placements"]
        assert [(each["name"], each["problem"] is None) for each in told] == [("old", False), ("home", True)]
        assert "placement old: filter.attribute" in (await shop.client.get("/models")).json()["error"]


STEERING: dict[str, Any] = {
    "boosts": [{"rule": EVEN, "factor": 10.0, "name": "even first"}],
    "bury": [{"rule": {"attribute": "price", "lt": 10}}],
    "promotions": [{"rule": {"attribute": "price", "gte": 55}, "percent": 50}],
    "caps": [{"attribute": "brand", "at_most": 2}],
    "mmr": 0.5,
    "pins": [{"item_id": "i29", "position": 2}],
}


class TestSteeringOfARequest:
    """What a placement steers by, in a request of the shop's own server."""

    @pytest.mark.parametrize("parts", [[name] for name in STEERING] + [list(STEERING)], ids=",".join)
    async def test_is_what_it_is_in_a_placement(self, shop: Serving, parts: list[str]) -> None:
        steering = {name: STEERING[name] for name in parts}
        await put(shop, "home", k=10, **steering)
        asked = {"items": ["i5"], "explain": True}
        placed = (await shop.client.post("/recommend", json={**asked, "placement": "home"})).json()
        answer = await shop.client.post("/recommend", json={**asked, "k": 10, **steering})
        assert answer.status_code == 200, answer.text
        assert answer.json() | {"recommendation_id": ""} == placed | {"recommendation_id": ""}
        assert item_ids(placed) != SHOP.nearest(["i5"], 10)

    async def test_goes_before_what_the_placement_says_of_the_same(self, shop: Serving) -> None:
        pins = [{"item_id": "i29", "position": 1}]
        await put(shop, "home", k=4, filter=EVEN, boosts=[{"rule": EVEN, "name": "its own"}], pins=pins)

        async def ask(**body: object) -> tuple[list[str], list[str]]:
            asked = {"items": ["i5"], "placement": "home", "explain": True, **body}
            told = (await shop.client.post("/recommend", json=asked)).json()
            return item_ids(told), told["explanation"]["items"][0]["moved_by"]

        even = [item_id for item_id in SHOP.nearest(["i5"], 60) if is_even(item_id)]
        assert await ask() == (even[:4], ["its own"]), "what is pinned is not even"
        pinned = [{"item_id": "i60", "position": 1}]
        rest = [item_id for item_id in even if item_id != "i60"]
        assert await ask(pins=pinned) == (["i60", *rest[:3]], ["its own", "pin 1"])
        assert await ask(pins=pinned, boosts=[]) == (["i60", *rest[:3]], ["pin 1"])

    async def test_is_counted_for_no_placement(self, shop: Serving) -> None:
        counted = 'nextclick_recommendations_total{stage="model",version="v1"}'
        before = await shop.metric(counted)
        await shop.client.post("/recommend", json={"items": ["i5"], "mmr": 0.5})
        assert await shop.metric(counted) == before + 1
        assert await shop.metric('nextclick_placement_recommendations_total{placement="",stage="model"}') == 0

    @pytest.mark.parametrize(
        ("steering", "field"),
        [
            ({"boosts": [{"rule": {"attribute": "price", "lt": "5"}}]}, "body.boosts.0.rule.lt"),
            ({"boosts": [{"rule": EVEN, "factor": -1}]}, "body.boosts.0.factor"),
            ({"bury": None}, "body.bury"),
            ({"bury": [{"rule": EVEN}] * 17}, "body.bury"),
            ({"promotions": [{"rule": EVEN}]}, "body.promotions.0.percent"),
            ({"caps": [{"attribute": "price", "at_most": 1}]}, "body.caps.0.attribute"),
            ({"caps": [{"attribute": "brand", "at_most": 1, "x": 1}]}, "body.caps.0.x"),
            ({"mmr": "0.5"}, "body.mmr"),
            ({"pins": [{"item_id": "a", "position": 1}, {"item_id": "a", "position": 2}]}, "body"),
            ({"pins": [{"item_id": "a\n", "position": 1}]}, "body.pins.0.item_id"),
        ],
    )
    async def test_what_is_wrong_is_named(self, shop: Serving, steering: dict[str, Any], field: str) -> None:
        answer = await shop.client.post("/recommend", json={"items": [], **steering})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field), answer.text

    @pytest.mark.parametrize("depth", [20, 150, 5000])
    async def test_nothing_too_deep_is_read(self, shop: Serving, depth: int) -> None:
        content = '{"items": [], "bury": [{"rule": ' + '{"not": ' * depth + "{}" + "}" * depth + "}]}"
        headers = {"content-type": "application/json"}
        answer = await shop.client.post("/recommend", content=content, headers=headers)
        assert answer.status_code == 422, answer.text

    async def test_is_for_the_shops_own_server(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, server_api_key="the-servers-own-key") as shop:
            body = {"items": ["i5"], "k": 3}
            assert (await shop.client.post("/recommend", json=body)).status_code == 200
            for name, part in STEERING.items():
                steers = {**body, name: [] if name != "mmr" else part}
                refused = await shop.client.post("/recommend", json=steers)
                assert refused.status_code == 401, name
                assert "to steer needs the key of the shop's own server" in refused.json()["detail"]
                wrong = {"X-API-Key": "not the server's key"}
                assert (await shop.client.post("/recommend", json=steers, headers=wrong)).status_code == 403
                right = {"X-API-Key": "the-servers-own-key"}
                answer = await shop.client.post("/recommend", json=steers, headers=right)
                assert answer.status_code == 200, answer.text


class TestQuality:
    async def test_what_was_shown_is_judged_by_placement(self, shop: Serving, redis_client: Redis) -> None:
        await put(shop, "home", k=4, pins=[{"item_id": "i60", "position": 3}])
        lines = {
            'nextclick_placement_judged_clicks_total{placement="home"}': 2,
            'nextclick_placement_judged_hits_total{placement="home"}': 1,
            'nextclick_placement_recommendations_total{placement="home",stage="model"}': 2,
        }
        before = {line: await shop.metric(line) for line in lines}
        for session, then in (("a", "i60"), ("b", SHOP.nearest(["i5"], 60)[10])):
            await shop.click(session, "i5")
            answer = await shop.recommend(session, placement="home")
            assert item_ids(answer)[2] == "i60"
            await shop.click(session, then)  # the eleventh was not shown, though without a placement it were
        await shop.click("c", "i5")
        await shop.recommend("c")
        await shop.click("c", SHOP.nearest(["i5"])[1])
        home = (await shop.client.get("/admin/placements/home", headers=ADMIN)).json()
        assert home["live_quality"] == {
            "judged": 2,
            "hit_rate@20": 0.5,
            "mrr@20": pytest.approx(1 / 6),
            **UNSURE,
        }
        models = (await shop.client.get("/models")).json()["loaded"]
        assert models[0]["live_quality"]["judged"] == 3
        assert {line: await shop.metric(line) - before[line] for line in lines} == lines

        assert list(redis_client.scan_iter("quality:*@home"))
        await shop.client.delete("/admin/placements/home", headers=ADMIN)
        assert list(redis_client.scan_iter("quality:*@home")) == []

    async def test_a_shadow_is_steered_but_is_not_the_placements(
        self, published: Path, redis_url: str, redis_client: Redis
    ) -> None:
        OTHER.write(published, "v2")
        shadow(published, "v2", 1.0)
        async with serving(published, redis_url) as shop:
            await eventually(lambda: shop.follower.current.shadow is not None)
            await put(shop, "home", k=2, pins=[{"item_id": "i60", "position": 1}])
            await shop.click("s", "i5")
            await shop.recommend("s", placement="home")
            await eventually(
                lambda: any(redis_client.hexists(key, "v2") for key in redis_client.keys("shown:*"))
            )
            await shop.click("s", "i60")
            models = (await shop.client.get("/models")).json()["loaded"]
            assert [(each["role"], each["live_quality"]["mrr@20"]) for each in models] == [
                ("champion", 1.0),
                ("shadow", 1.0),
            ]
            home = (await shop.client.get("/admin/placements/home", headers=ADMIN)).json()
            assert home["live_quality"]["judged"] == 1
