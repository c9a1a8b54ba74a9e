"""Every call of the API, over HTTP, on a real Redis and a real bundle."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from prometheus_client import generate_latest
from redis import Redis

from service.live.deployment import publish
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, Serving, item_ids, serving
from tests.waiting import DEADLINE_SECONDS

pytestmark = pytest.mark.anyio

SHOP = Shop.make()


@pytest.fixture
def published(artifacts: Path) -> Path:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


@pytest.fixture
async def shop(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    async with serving(published, redis_url) as service:
        yield service


async def test_click_click_recommend(shop: Serving) -> None:
    first = await shop.click("s", "i7")
    assert (first.status_code, first.json()) == (200, {"session_id": "s", "length": 1, "duplicate": False})
    await shop.click("s", "i3", "not in the shop")
    answer = await shop.recommend("s")
    assert item_ids(answer) == SHOP.nearest(["i7", "i3"])
    assert len(answer.pop("items")) == 20
    assert re.fullmatch("v1~[0-9a-f]{32}", answer.pop("recommendation_id"))
    assert answer == {
        "session_id": "s",
        "version": "v1",
        "stage": "model",
        "degraded": False,
        "ignored": ["not in the shop"],
    }


async def test_a_click_with_recommendations_is_one_round_trip(shop: Serving) -> None:
    await shop.click("s", "i7")
    answer = await shop.client.post("/sessions/s/click?recommend=5", json={"item_id": "i3"})
    assert answer.json()["length"] == 2
    assert item_ids(answer.json()["recommendations"]) == SHOP.nearest(["i7", "i3"], 5)


async def test_an_event_id_counts_once(shop: Serving) -> None:
    await shop.click("s", "i1", event_id="e1")
    again = await shop.click("s", "i1", event_id="e1")
    assert again.json() == {"session_id": "s", "length": 1, "duplicate": True}


async def test_a_late_click_is_placed_by_its_timestamp(shop: Serving) -> None:
    now = time.time()
    await shop.click("s", "i2", timestamp=now)
    await shop.click("s", "i1", timestamp=now - 60)
    await shop.click("s", "i3")
    exported = (await shop.client.get("/sessions/s")).json()
    assert [click["item_id"] for click in exported["clicks"]] == ["i1", "i2", "i3"]
    assert exported["clicks"][1] == {"item_id": "i2", "timestamp": now, "type": "click", "event_id": None}


async def test_recommend_options(shop: Serving) -> None:
    await shop.click("s", "i5")
    out = SHOP.nearest(["i5"], 3)[1:]
    answer = await shop.recommend("s", k=7, exclude=out, exclude_seen=True, model="v1", explain=True)
    assert item_ids(answer) == SHOP.nearest(["i5"], 7, without=[*out, "i5"])
    assert answer["explanation"] == {
        "reason": "the model saw 1 of the session's 1 clicks",
        "encoded": ["i5"],
        "items": [{**each, "stage": "model", "moved_by": []} for each in answer["items"]],
    }


async def test_a_session_in_the_request_is_not_stored(shop: Serving, redis_client: Redis) -> None:
    before = set(redis_client.scan_iter())
    body = {"items": ["i5", "i6"], "k": 4, "exclude": ["i9"], "exclude_seen": True, "explain": True}
    answer = (await shop.client.post("/recommend", json=body)).json()
    assert item_ids(answer) == SHOP.nearest(["i5", "i6"], 4, without=["i9", "i5", "i6"])
    assert "session_id" not in answer
    assert answer["explanation"]["encoded"] == ["i5", "i6"]
    assert set(redis_client.scan_iter()) - before <= {"shards"}  # which any first call sets


async def test_a_batch_has_one_status_per_event(shop: Serving) -> None:
    batch: list[Any] = [
        {"session_id": "a", "item_id": "i1", "event_id": "e"},
        {"session_id": "a", "item_id": ""},
        {"session_id": "a", "item_id": "i1", "event_id": "e"},
        {"session_id": "b", "item_id": "i2", "timestamp": time.time() + 900},
        "no click",
        {"session_id": "b", "item_id": "i3"},
    ]
    answer = await shop.client.post("/clicks", json=batch)
    assert answer.status_code == 200
    events = answer.json()["events"]
    assert [event["status"] for event in events] == [200, 422, 200, 422, 422, 200]
    assert events[0] == {"status": 200, "session_id": "a", "length": 1, "duplicate": False}
    assert events[2]["duplicate"] is True
    assert events[1]["detail"] == "body.1.item_id: Expected str of length >= 1"
    assert events[3]["detail"].startswith("body.3.timestamp: lies more than 300 seconds ahead")
    assert events[4]["detail"] == "body.4: Expected object, got str"
    assert len((await shop.client.get("/sessions/b")).json()["clicks"]) == 1


@pytest.mark.parametrize("size", [0, 101])
async def test_a_batch_has_1_to_100_events(shop: Serving, size: int) -> None:
    answer = await shop.client.post("/clicks", json=[{"session_id": "s", "item_id": "i1"}] * size)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "body"
    assert (await shop.client.get("/sessions/s")).status_code == 404


async def test_export_and_erase(shop: Serving) -> None:
    await shop.click("s", "i1")
    assert (await shop.client.delete("/sessions/s")).status_code == 204
    for answer in (await shop.client.get("/sessions/s"), await shop.client.delete("/sessions/s")):
        assert answer.status_code == 404
        assert answer.json()["type"] == "urn:nextclick:problem:unknown-session"
    assert (await shop.recommend("s"))["stage"] != "model"


async def test_similar(shop: Serving) -> None:
    answer = (await shop.client.get("/items/i5/similar?k=3")).json()
    assert (answer["item_id"], answer["version"]) == ("i5", "v1")
    assert item_ids(answer) == SHOP.nearest(["i5"], 3, without=["i5"])
    unknown = await shop.client.get("/items/nope/similar")
    assert (unknown.status_code, unknown.json()["type"]) == (404, "urn:nextclick:problem:unknown-item")


async def test_any_id_works_in_a_path(artifacts: Path, redis_url: str) -> None:
    ids = ("a/b", "similar", "ключ 🙂", "a?b#c%2F", "../x")
    shop = Shop(ids, Shop.make(n_items=5).vectors)
    shop.write(artifacts, "v1")
    publish(artifacts, "v1")
    async with serving(artifacts, redis_url) as service:
        for name in ids:
            path = "".join(f"%{byte:02X}" for byte in name.encode())
            assert (await service.click(path, name)).json()["session_id"] == name
            assert (await service.client.get(f"/sessions/{path}")).json()["clicks"][0]["item_id"] == name
            similar = (await service.client.get(f"/items/{path}/similar")).json()
            assert item_ids(similar) == shop.nearest([name], without=[name])
            hidden = await service.client.put(f"/admin/hidden/{path}", headers=ADMIN)
            assert hidden.json() == {"hidden": [name]}
            assert (await service.client.delete(f"/admin/hidden/{path}", headers=ADMIN)).json() == {
                "hidden": []
            }


async def test_trending(shop: Serving) -> None:
    for session in ("a", "b"):
        await shop.click(session, "i9", "not in the shop")
    await shop.click("c", "i8")
    async with asyncio.timeout(DEADLINE_SECONDS):
        while len(found := item_ids((await shop.client.get("/trending")).json())) < 2:
            await asyncio.sleep(0.01)
    assert found == ["i9", "i8"]
    assert item_ids(await shop.recommend("nobody", k=3)) == ["i9", "i8", "i1"]


async def test_hidden_items(shop: Serving) -> None:
    await shop.click("s", "i5")
    assert (await shop.client.put("/admin/hidden/i5", headers=ADMIN)).json() == {"hidden": ["i5"]}
    assert (await shop.client.get("/admin/hidden", headers=ADMIN)).json() == {"hidden": ["i5"]}
    assert item_ids(await shop.recommend("s")) == SHOP.nearest(["i5"], without=["i5"])
    assert "i5" not in item_ids((await shop.client.get("/items/i6/similar?k=100")).json())
    assert "i5" not in item_ids(await shop.recommend("nobody", k=60))
    await shop.client.delete("/admin/hidden/i5", headers=ADMIN)
    assert item_ids(await shop.recommend("s")) == SHOP.nearest(["i5"])


async def test_activate_roll_back_reload(shop: Serving, published: Path) -> None:
    other = Shop.make(seed=2)
    other.write(published, "v2")
    await shop.click("s", "i5")
    for call, body, version, right in (
        ("activate", {"version": "v2"}, "v2", other),
        ("reload", None, "v2", other),
        ("rollback", None, "v1", SHOP),
    ):
        answer = await shop.client.post(f"/admin/{call}", json=body, headers=ADMIN)
        assert answer.status_code == 200
        assert [model["version"] for model in answer.json()["loaded"]] == [version]
        assert item_ids(await shop.recommend("s")) == right.nearest(["i5"])
    assert (await shop.client.get("/models")).json()["previous"] == "v2"


async def test_models(shop: Serving) -> None:
    answer = (await shop.client.get("/models")).json()
    (loaded,) = answer.pop("loaded")
    assert (loaded["version"], loaded["n_items"], loaded["metrics"]) == ("v1", 60, {"recall@20": 0.5})
    unjudged = {"judged": 0, "hit_rate@20": None, "mrr@20": None, "feedback": 0}
    assert (loaded["role"], loaded["live_quality"]) == ("champion", unjudged)
    assert answer == {
        "champion": "v1",
        "previous": None,
        "challenger": None,
        "challenger_share": 0,
        "shadow": None,
        "shadow_share": 0,
        "exclude_seen": False,
        "hidden": 0,
        "error": None,
        "refused": {},
    }


async def test_a_service_without_a_model_takes_clicks_and_gets_ready_by_itself(
    artifacts: Path, redis_url: str
) -> None:
    async with serving(artifacts, redis_url, trending_refresh_seconds=60) as service:  # nothing trends yet
        assert (await service.client.get("/health/live")).status_code == 200
        for path in ("/health/ready", "/recommend?session_id=s", "/items/i1/similar"):
            answer = await service.client.get(path)
            assert answer.status_code == 503
            assert "no model is published yet" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "1"
        answer = await service.client.post("/sessions/s/click?recommend=5", json={"item_id": "i5"})
        assert answer.json() == {"session_id": "s", "length": 1, "duplicate": False, "recommendations": None}
        SHOP.write(artifacts, "v1")
        publish(artifacts, "v1")
        async with asyncio.timeout(DEADLINE_SECONDS):
            while (await service.client.get("/health/ready")).status_code != 200:
                await asyncio.sleep(0.01)
        assert item_ids(await service.recommend("s")) == SHOP.nearest(["i5"])


class TestKeysAndLimits:
    async def test_the_api_key(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, api_key="shop-key") as service:
            for key, status in (
                (None, 401),
                ("wrong", 403),
                ("ключ", 403),
                (ADMIN["X-API-Key"], 200),
                ("shop-key", 200),
            ):
                headers: dict[bytes, bytes] = {} if key is None else {b"X-API-Key": key.encode()}
                answer = await service.client.get("/recommend?session_id=s", headers=headers)
                assert answer.status_code == status
                assert "shop-key" not in answer.text
            assert (await service.click("s", "i1")).status_code == 401
            assert (await service.client.get("/health/ready")).status_code == 200

    async def test_the_key_of_the_shops_own_server(self, published: Path, redis_url: str) -> None:
        batch = [{"session_id": "t", "item_id": "i1"}]
        keys = {"api_key": "shop-key", "server_api_key": "server-key"}
        async with serving(published, redis_url, **keys) as service:
            for key, status in (("shop-key", 200), ("server-key", 200)):
                for path in ("/recommend?session_id=s", "/trending", "/items/i1/similar", "/models"):
                    answer = await service.client.get(path, headers={"X-API-Key": key})
                    assert answer.status_code == status, path
                answer = await service.client.post(
                    "/sessions/s/click", json={"item_id": "i1"}, headers={"X-API-Key": key}
                )
                assert answer.status_code == status
            for sent, refused in (({}, 401), ({"X-API-Key": "shop-key"}, 403)):
                for method, path in (("GET", "/sessions/s"), ("DELETE", "/sessions/s"), ("POST", "/clicks")):
                    answer = await service.client.request(method, path, headers=sent, json=batch)
                    assert (answer.status_code, "server-key" in answer.text) == (refused, False)
            assert await service.store.read("t") == ()
            server = {"X-API-Key": "server-key"}
            assert (await service.client.get("/sessions/s", headers=server)).status_code == 200
            assert (await service.client.delete("/sessions/s", headers=server)).status_code == 204
            assert (await service.client.post("/clicks", headers=server, json=batch)).status_code == 200

    async def test_only_the_servers_key_is_set(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, server_api_key="server-key") as service:
            assert (await service.click("s", "i1")).status_code == 200
            assert (await service.client.get("/sessions/s")).status_code == 401

    async def test_without_the_servers_key_the_shoppers_is_asked_for(
        self, published: Path, redis_url: str
    ) -> None:
        async with serving(published, redis_url, api_key="shop-key") as service:
            assert (await service.client.get("/sessions/s")).status_code == 401
            answer = await service.client.get("/sessions/s", headers={"X-API-Key": "shop-key"})
            assert answer.status_code == 404

    async def test_the_admin_key(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, api_key="shop-key") as service:
            for headers, status in (({}, 401), ({"X-API-Key": "shop-key"}, 403), (ADMIN, 200)):
                assert (await service.client.put("/admin/hidden/i1", headers=headers)).status_code == status
        async with serving(published, redis_url, admin_api_key=None) as service:
            answer = await service.client.post("/admin/rollback", headers=ADMIN)
            assert answer.status_code == 403
            assert "NEXTCLICK_ADMIN_API_KEY" in answer.json()["detail"]

    async def test_the_rate_limit(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, rate_limit_per_minute=3) as service:
            answers = [await service.client.get("/trending") for _ in range(4)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
            assert 1 <= int(answers[3].headers["retry-after"]) <= 20
            assert (await service.click("s", "i1")).status_code == 429
            assert (await service.client.get("/health/ready")).status_code == 200
            assert await service.metric('nextclick_requests_refused_total{reason="rate"}') >= 2


async def test_metrics(shop: Serving) -> None:
    recommended = 'nextclick_recommendations_total{stage="model",version="v1"}'
    route = 'method="GET",route="/sessions/{session_id}",status="404"'
    lines = {
        'nextclick_clicks_total{outcome="accepted"}': 1,
        'nextclick_clicks_total{outcome="duplicate"}': 1,
        recommended: 2,
        f"nextclick_request_seconds_count{{{route}}}": 1,
        "nextclick_encode_seconds_count": 2,
        "nextclick_search_seconds_count": 2,
    }
    before = {line: await shop.metric(line) for line in lines}
    await shop.click("secret-session", "i1", "i1", event_id="e")
    await shop.recommend("secret-session")
    await shop.recommend("secret-session")
    await shop.client.get("/sessions/another-secret-session")
    assert {line: await shop.metric(line) - before[line] for line in lines} == lines
    assert await shop.metric('nextclick_bundle_live{model="mean",role="champion",version="v1"}') == 1
    assert "secret-session" not in generate_latest().decode()


async def test_no_session_id_is_logged(shop: Serving) -> None:
    with structlog.testing.capture_logs() as logs:
        await shop.click("secret-session", "i1")
        await shop.recommend("secret-session")
        await shop.client.get("/sessions/secret-session?x=1")
    assert "secret-session" not in str(logs)


async def test_openapi_describes_every_call(shop: Serving) -> None:
    schema = (await shop.client.get("/openapi.json")).json()
    assert (await shop.client.get("/docs")).status_code == 200
    calls = {f"{method.upper()} {path}" for path, methods in schema["paths"].items() for method in methods}
    assert calls == {
        "POST /sessions/{session_id}/click",
        "POST /clicks",
        "GET /recommend",
        "POST /recommend",
        "GET /sessions/{session_id}",
        "DELETE /sessions/{session_id}",
        "GET /items/{item_id}/similar",
        "PUT /items",
        "GET /items",
        "GET /items/{item_id}",
        "PATCH /items/{item_id}",
        "DELETE /items/{item_id}",
        "GET /trending",
        "GET /models",
        "POST /admin/activate",
        "POST /admin/rollback",
        "POST /admin/reload",
        "GET /admin/hidden",
        "POST /admin/hidden",
        "PUT /admin/hidden/{item_id}",
        "DELETE /admin/hidden/{item_id}",
        "GET /admin/placements",
        "POST /admin/placements/preview",
        "GET /admin/placements/{name}",
        "PUT /admin/placements/{name}",
        "DELETE /admin/placements/{name}",
        "GET /admin/placements/{name}/history",
        "POST /admin/placements/{name}/rollback",
        "GET /health/live",
        "GET /health/ready",
    }
    refused = schema["paths"]["/recommend"]["get"]["responses"]["422"]["content"]
    assert refused == {
        "application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
    }
    assert {"ProblemDocument", "FieldError"} <= schema["components"]["schemas"].keys()
    assert "HTTPValidationError" not in str(schema)


async def test_openapi_names_its_operations_and_who_may_call_them(shop: Serving) -> None:
    schema = (await shop.client.get("/openapi.json")).json()
    operations = [each for methods in schema["paths"].values() for each in methods.values()]
    names = [each["operationId"] for each in operations]
    assert len(set(names)) == len(names)
    assert {"click", "clicks", "recommend", "recommend_items", "activate", "health_ready"} <= set(names)
    assert schema["components"]["securitySchemes"].keys() == {
        "PublicKey",
        "PublicKeyInQuery",
        "ServerKey",
        "AdminKey",
    }
    paths = schema["paths"]
    assert paths["/recommend"]["get"]["security"] == [{"PublicKey": []}, {}], "none is set, none is needed"
    servers = [
        (path, method)
        for path, methods in paths.items()
        for method, each in methods.items()
        if {"ServerKey": []} in each.get("security", [])
    ]
    session = "/sessions/{session_id}"
    items = [("/items", "put")]
    items += [("/items/{item_id}", method) for method in ("delete", "patch")]
    assert sorted(servers) == [("/clicks", "post"), *items, (session, "delete"), (session, "get")]
    assert paths["/admin/activate"]["post"]["security"] == [{"AdminKey": []}]
    assert "security" not in paths["/health/live"]["get"]


@pytest.mark.parametrize(
    ("keys", "shopper_is_free", "server_is_free"),
    [
        ({}, True, True),
        ({"server_api_key": "server-key"}, True, False),
        ({"api_key": "shop-key"}, False, False),
    ],
)
async def test_openapi_says_where_no_key_is_needed(
    published: Path, redis_url: str, keys: dict[str, str], shopper_is_free: bool, server_is_free: bool
) -> None:
    async with serving(published, redis_url, **keys) as service:
        paths = (await service.client.get("/openapi.json")).json()["paths"]
    for path, method in (("/recommend", "get"), ("/models", "get")):
        assert ({} in paths[path][method]["security"]) is shopper_is_free, path
    assert ({} in paths["/clicks"]["post"]["security"]) is server_is_free
    assert {} not in paths["/admin/reload"]["post"]["security"], "without a key all of it is refused"


async def test_openapi_is_made_of_what_is_decoded(shop: Serving) -> None:
    schema = (await shop.client.get("/openapi.json")).json()
    components, paths = schema["components"]["schemas"], schema["paths"]
    click = components["ClickBody"]
    assert click["required"] == ["item_id"]
    assert click["additionalProperties"] is False
    assert click["properties"]["item_id"]["maxLength"] == 256
    batch = paths["/clicks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert batch == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/BatchClickBody"},
        "minItems": 1,
        "maxItems": 100,
    }
    k = next(each for each in paths["/recommend"]["get"]["parameters"] if each["name"] == "k")
    assert (k["in"], k["required"], k["schema"]["maximum"]) == ("query", False, 100)
    session = paths["/sessions/{session_id}/click"]["post"]["parameters"][0]
    assert (session["name"], session["in"], session["required"]) == ("session_id", "path", True)
    referred = set(re.findall(r"#/components/schemas/(\w+)", str(schema)))
    assert referred <= components.keys()


async def test_an_answer_is_told_in_the_order_that_the_readme_shows(shop: Serving) -> None:
    stored = await shop.client.get("/recommend", params={"session_id": "s", "k": 1, "explain": True})
    session, *fields = json.loads(stored.content)
    assert session == "session_id"
    known = ["recommendation_id", "version", "stage", "degraded", "ignored", "items", "explanation"]
    assert fields == known
    stateless = await shop.client.post("/recommend", json={"items": ["i1"], "k": 1, "explain": True})
    assert list(json.loads(stateless.content)) == known
