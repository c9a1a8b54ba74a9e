"""Bad input of every kind: a clear answer, and nothing lost or changed by it."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.http.problems import MEDIA_TYPE
from service.live.deployment import FILE, publish
from service.process.embedded_redis import EmbeddedRedis
from tests.service.bundles import BREAKAGES, Shop
from tests.service.serving import ADMIN, Serving, item_ids, serving
from tests.waiting import DEADLINE_SECONDS, stopped

pytestmark = pytest.mark.anyio

SHOP = Shop.make()
JSON = {"Content-Type": "application/json"}
TIMEOUT_SECONDS = 0.5  # a Redis that hangs costs a request so much


@pytest.fixture
def published(artifacts: Path) -> Path:
    SHOP.write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


@pytest.fixture
async def service(published: Path, redis_url: str) -> AsyncIterator[Serving]:
    async with serving(published, redis_url, max_body_bytes=65536) as service:
        await service.click("s", "i5", timestamp=1_700_000_000.0)
        yield service


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis that a test may stop and kill."""
    with EmbeddedRedis(tmp_path / "redis") as server:
        yield server


def state(client: Redis, artifacts: Path) -> dict[str, object]:
    """All that a request could change, but for who asked."""
    stored: dict[str, object] = {
        key: client.dump(key) for key in client.scan_iter() if not str(key).startswith("rate:")
    }
    return {**stored, FILE: (artifacts / FILE).read_bytes()}


def check_problem(answer: httpx.Response, status: int, part: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= problem.keys()
    assert part in problem["detail"]
    assert len(answer.content) < 5000, "a refusal does not echo what it refuses"


CLICK, BATCH, RECOMMEND = ("POST", "/sessions/s/click"), ("POST", "/clicks"), ("POST", "/recommend")
LONG = "x" * 10_000

BODIES: dict[str, tuple[tuple[str, str], bytes, str]] = {
    "not JSON": (CLICK, b'{"item_id":', "body: not JSON"),
    "empty": (CLICK, b"", "body: Field required"),
    "not UTF-8": (CLICK, b'{"item_id": "\xff"}', "body: not JSON"),
    "nested too deep": (CLICK, b"[" * 60_000, "body: Expected object, got array"),
    "a number too long": (
        CLICK,
        b'{"item_id": "a", "timestamp": ' + b"9" * 9000 + b"}",
        "body.timestamp: Number out of range",
    ),
    "a list": (CLICK, b"[]", "body: Expected object, got"),
    "null": (CLICK, b"null", "body: Expected object, got"),
    "no item": (CLICK, b"{}", "body.item_id: Field required"),
    "unknown field": (CLICK, b'{"item_id": "a", "colour": 1}', "body.colour: unknown field"),
    "unknown long field": (CLICK, json.dumps({"item_id": "a", LONG: 1}).encode(), "unknown field"),
    "unknown unpaired field": (CLICK, b'{"item_id": "a", "\\ud800": 1}', "body: "),
    "item a number": (CLICK, b'{"item_id": 5}', "body.item_id: Expected str, got"),
    "item null": (CLICK, b'{"item_id": null}', "body.item_id: Expected str, got"),
    "item empty": (CLICK, b'{"item_id": ""}', "body.item_id: Expected str of length >= 1"),
    "item 10 kB": (
        CLICK,
        json.dumps({"item_id": LONG}).encode(),
        "body.item_id: Expected str of length <= 256",
    ),
    "item with NUL": (
        CLICK,
        b'{"item_id": "a\\u0000"}',
        "body.item_id: Expected str without control characters",
    ),
    "item with a new line": (
        CLICK,
        b'{"item_id": "a\\n"}',
        "body.item_id: Expected str without control characters",
    ),
    "item with DEL": (
        CLICK,
        b'{"item_id": "\\u007f"}',
        "body.item_id: Expected str without control characters",
    ),
    "item unpaired": (CLICK, b'{"item_id": "\\ud800"}', "half a surrogate pair"),
    "event empty": (
        CLICK,
        b'{"item_id": "a", "event_id": ""}',
        "body.event_id: Expected str of length >= 1",
    ),
    "event 10 kB": (CLICK, json.dumps({"item_id": "a", "event_id": LONG}).encode(), "body.event_id: "),
    "event with a control": (
        CLICK,
        b'{"item_id": "a", "event_id": "\\u001f"}',
        "body.event_id: Expected str without control characters",
    ),
    "type with a space": (
        CLICK,
        b'{"item_id": "a", "type": "a b"}',
        "body.type: Expected str of 1 to 32 letters",
    ),
    "timestamp NaN": (
        CLICK,
        b'{"item_id": "a", "timestamp": NaN}',
        "body: not JSON",
    ),
    "timestamp infinite": (CLICK, b'{"item_id": "a", "timestamp": Infinity}', "body: not JSON"),
    "timestamp overflowing": (CLICK, b'{"item_id": "a", "timestamp": 1e999}', "body.timestamp: "),
    "timestamp a huge integer": (
        CLICK,
        b'{"item_id": "a", "timestamp": 1' + b"0" * 400 + b"}",
        "body.timestamp: ",
    ),
    "timestamp negative": (
        CLICK,
        b'{"item_id": "a", "timestamp": -1}',
        "body.timestamp: Expected float >= 0",
    ),
    "timestamp a string": (
        CLICK,
        b'{"item_id": "a", "timestamp": "1"}',
        "body.timestamp: Expected float | null, got",
    ),
    "timestamp a boolean": (
        CLICK,
        b'{"item_id": "a", "timestamp": true}',
        "body.timestamp: Expected float | null, got",
    ),
    "timestamp in milliseconds": (
        CLICK,
        b'{"item_id": "a", "timestamp": 1700000000000}',
        "body.timestamp: lies more",
    ),
    "batch no list": (BATCH, b"{}", "body: Expected array, got object"),
    "batch empty": (BATCH, b"[]", "body: Expected array of length >= 1"),
    "batch of 101": (
        BATCH,
        json.dumps([{}] * 101).encode(),
        "body: Expected array of length <= 100",
    ),
    "k zero": (RECOMMEND, b'{"items": [], "k": 0}', "body.k: Expected int >= 1"),
    "k a million": (
        RECOMMEND,
        b'{"items": [], "k": 1000000}',
        "body.k: Expected int <= 100",
    ),
    "k a string": (RECOMMEND, b'{"items": [], "k": "20"}', "body.k: Expected int, got"),
    "k a boolean": (RECOMMEND, b'{"items": [], "k": true}', "body.k: Expected int, got"),
    "k a fraction": (RECOMMEND, b'{"items": [], "k": 2.5}', "body.k: Expected int, got"),
    "too many items": (
        RECOMMEND,
        json.dumps({"items": ["a"] * 201}).encode(),
        "body.items: Expected array of length <= 200",
    ),
    "one bad item": (RECOMMEND, b'{"items": ["a", ""]}', "body.items.1: Expected str of length >= 1"),
}

QUERIES: dict[str, tuple[str, str, int, str]] = {
    "no session": ("GET", "/recommend", 422, "query.session_id: Field required"),
    "session empty": (
        "GET",
        "/recommend?session_id=",
        422,
        "query.session_id: Expected str of length >= 1",
    ),
    "session 10 kB": (
        "GET",
        f"/recommend?session_id={LONG}",
        422,
        "query.session_id: Expected str of length <= 128",
    ),
    "session with a control": (
        "GET",
        "/recommend?session_id=a%00b",
        422,
        "query.session_id: Expected str without control characters",
    ),
    "session path empty": ("GET", "/sessions/", 422, "path.session_id: Expected str of length >= 1"),
    "session path long": (
        "DELETE",
        f"/sessions/{LONG}",
        422,
        "path.session_id: Expected str of length <= 128",
    ),
    "session path control": (
        "GET",
        "/sessions/a%1Fb",
        422,
        "path.session_id: Expected str without control characters",
    ),
    "k zero": (
        "GET",
        "/recommend?session_id=s&k=0",
        422,
        "query.k: Expected int >= 1",
    ),
    "k a million": (
        "GET",
        "/recommend?session_id=s&k=1000000",
        422,
        "query.k: Expected int <= 100",
    ),
    "k no number": ("GET", "/recommend?session_id=s&k=many", 422, "query.k: Expected int, got"),
    "exclude empty": (
        "GET",
        "/recommend?session_id=s&exclude=",
        422,
        "query.exclude.0: Expected str of length >= 1",
    ),
    "exclude too much": (
        "GET",
        "/recommend?session_id=s" + "&exclude=a" * 501,
        422,
        "query.exclude: Expected array of length <= 500",
    ),
    "unknown version": (
        "GET",
        "/recommend?session_id=s&model=v9",
        404,
        "no such version is loaded; loaded: v1",
    ),
    "similar to nothing": ("GET", "/items//similar", 422, "path.item_id: Expected str of length >= 1"),
    "similar long": ("GET", f"/items/{LONG}/similar", 422, "path.item_id: Expected str of length <= 256"),
    "recommend with a click": (
        "POST",
        "/sessions/s/click?recommend=0",
        422,
        "query.recommend: Expected int >= 1",
    ),
    "no such path": ("GET", "/nothing/here", 404, "Not Found"),
    "no such method": ("PATCH", "/recommend", 405, "Method Not Allowed"),
    "activate nothing": ("POST", "/admin/activate", 422, "Content-Type: application/json"),
    "roll back to nothing": ("POST", "/admin/rollback", 409, "there is no previous version"),
    "hide nothing": ("PUT", "/admin/hidden/", 422, "path.item_id: String should have at least 1"),
    "hide a control": (
        "PUT",
        "/admin/hidden/a%00b",
        422,
        "path.item_id: the id holds a control character",
    ),
}


@pytest.mark.parametrize(("call", "body", "part"), BODIES.values(), ids=BODIES)
async def test_a_bad_body(
    service: Serving, published: Path, redis_client: Redis, call: tuple[str, str], body: bytes, part: str
) -> None:
    before = state(redis_client, published)
    answer = await service.client.request(*call, content=body, headers=JSON)
    check_problem(answer, 422, part)
    assert all(
        "\ud800" not in error["field"] or "\\ud800" in answer.text for error in answer.json()["errors"]
    )
    assert state(redis_client, published) == before


@pytest.mark.parametrize(("method", "path", "status", "part"), QUERIES.values(), ids=QUERIES)
async def test_a_bad_call(
    service: Serving, published: Path, redis_client: Redis, method: str, path: str, status: int, part: str
) -> None:
    before = state(redis_client, published)
    headers = ADMIN if path.startswith("/admin") else {}
    json_body = {"item_id": "i1"} if method == "POST" and "click" in path else None
    check_problem(await service.client.request(method, path, json=json_body, headers=headers), status, part)
    assert state(redis_client, published) == before


async def test_an_unknown_version_lists_the_loaded_ones(service: Serving) -> None:
    answer = await service.client.post("/recommend", json={"items": ["i1"], "model": "v9"})
    check_problem(answer, 404, "no such version")
    assert answer.json()["loaded"] == ["v1"]


async def test_a_body_that_is_not_declared_as_json(service: Serving) -> None:
    answer = await service.client.post("/sessions/s/click", content=b'{"item_id": "a"}')
    check_problem(answer, 422, "Content-Type: application/json")


async def test_a_large_body(service: Serving, published: Path, redis_client: Redis) -> None:
    before = state(redis_client, published)
    answer = await service.client.post("/clicks", content=b" " * 2**20, headers=JSON)
    check_problem(answer, 413, "larger than 65536 bytes")
    assert state(redis_client, published) == before


async def test_a_large_stream_is_not_read_to_its_end(service: Serving) -> None:
    sent = 0

    async def stream() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 2**20:
            sent += 1024
            yield b" " * 1024

    check_problem(
        await service.client.post("/clicks", content=stream(), headers=JSON), 413, "larger than 65536"
    )
    assert sent <= 65536 + 1024


async def test_an_error_of_ours_shows_no_internals(service: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(service.recommender, "trending", fail)
    answer = await service.client.get("/trending")
    check_problem(answer, 500, "unexpected error")
    assert "secret" not in answer.text
    assert (
        await service.metric('nextclick_request_seconds_count{method="GET",route="/trending",status="500"}')
        >= 1
    )


class TestBadBundle:
    @pytest.mark.parametrize(("break_it", "message"), BREAKAGES.values(), ids=BREAKAGES)
    async def test_it_is_refused_and_the_old_one_serves_on(
        self, service: Serving, published: Path, break_it: Callable[[Path], object], message: str
    ) -> None:
        break_it(Shop.make(seed=3).write(published, "v2"))
        failures = await service.metric("nextclick_bundle_failures_total")
        refused = await service.client.post("/admin/activate", json={"version": "v2"}, headers=ADMIN)
        check_problem(refused, 409, message)
        publish(published, "v2")
        models: dict[str, Any] = {}
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not models.get("error"):
                models = (await service.client.get("/models")).json()
                await asyncio.sleep(0.01)
        assert message in models["error"]
        assert (models["champion"], models["loaded"][0]["version"]) == ("v2", "v1")
        assert await service.metric("nextclick_bundle_failures_total") == failures + 1
        assert item_ids(await service.recommend("s")) == SHOP.nearest(["i5"])
        assert (await service.client.get("/health/ready")).status_code == 200

    async def test_a_damaged_deployment_is_not_overwritten(self, service: Serving, published: Path) -> None:
        (published / FILE).write_text("{")
        check_problem(await service.client.put("/admin/hidden/i1", headers=ADMIN), 409, FILE)
        assert (published / FILE).read_text() == "{"
        assert item_ids(await service.recommend("s")) == SHOP.nearest(["i5"])


class TestRedisGone:
    async def test_down_at_start(self, published: Path, tmp_path: Path) -> None:
        async with serving(
            published, f"unix://{tmp_path}/nobody.sock", rate_limit_per_minute=1000
        ) as service:
            await check_degraded(service, "popular")

    async def test_dead_in_mid_flight(self, published: Path, own_redis: EmbeddedRedis) -> None:
        """Every acknowledged click is there after the restart; every other one can be sent again."""
        async with serving(published, own_redis.url) as service:
            await trend(service, "i9")
            clicks = [
                asyncio.create_task(service.click(f"s{i % 7}", "i5", event_id=f"e{i}")) for i in range(200)
            ]
            await asyncio.wait(clicks, return_when=asyncio.FIRST_COMPLETED)
            os.kill(own_redis.pid, signal.SIGKILL)
            answers = await asyncio.gather(*clicks)
            assert {answer.status_code for answer in answers} <= {200, 503}
            await check_degraded(service, "trending")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    own_redis.restart_if_dead()
                    if (await service.client.get("/health/ready")).status_code == 200:
                        break
                    await asyncio.sleep(0.01)
            acknowledged = [i for i, answer in enumerate(answers) if answer.status_code == 200]
            for i in acknowledged:
                assert (await service.click(f"s{i % 7}", "i5", event_id=f"e{i}")).json()["duplicate"]
            for i in range(200):
                assert (await service.click(f"s{i % 7}", "i5", event_id=f"e{i}")).status_code == 200
            lengths = [len((await service.client.get(f"/sessions/s{s}")).json()["clicks"]) for s in range(7)]
            assert sum(lengths) == 200

    async def test_hanging(self, published: Path, own_redis: EmbeddedRedis) -> None:
        async with serving(published, own_redis.url, redis_timeout_seconds=TIMEOUT_SECONDS) as service:
            async with asyncio.timeout(DEADLINE_SECONDS):  # on a busy machine it may seem to hang already
                while (await service.click("s", "i5", event_id="e")).status_code != 200:
                    pass
            await trend(service, "i9")
            with stopped(own_redis.pid):
                async with asyncio.timeout(DEADLINE_SECONDS):
                    await check_degraded(service, "trending")
            async with asyncio.timeout(DEADLINE_SECONDS):
                while (answer := await service.recommend("s"))["degraded"]:
                    await asyncio.sleep(0.01)
            assert item_ids(answer)[0] == SHOP.nearest(["i5"])[0]


async def trend(service: Serving, item_id: str) -> None:
    """Click, in ever more sessions, until this worker knows that the item is trending."""
    sessions = itertools.count()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while item_ids((await service.client.get("/trending")).json())[:1] != [item_id]:
            await service.click(f"trend-setter-{next(sessions)}", item_id)


async def check_degraded(service: Serving, stage: str) -> None:
    """Without Redis: 20 items all the same, no click acknowledged, nothing pretended."""
    answer = await service.recommend("s")
    assert len(answer["items"]) == 20
    assert (answer["stage"], answer["degraded"]) == (stage, True)
    stateless = (await service.client.post("/recommend", json={"items": ["i5"]})).json()
    assert (stateless["stage"], stateless["degraded"]) == ("model", False)

    refused = await service.client.post(
        "/sessions/s/click?recommend=20", json={"item_id": "i5", "event_id": "e"}
    )
    check_problem(refused, 503, "a click with the same event_id is stored once")
    assert refused.headers["retry-after"] == "1"
    batch = await service.client.post("/clicks", json=[{"session_id": "s", "item_id": "i5"}, {}])
    assert [event["status"] for event in batch.json()["events"]] == [503, 422]
    assert batch.headers["retry-after"] == "1"
    for method in ("GET", "DELETE"):
        # Of another session: a Redis that only hung will do what it was asked when it wakes up.
        check_problem(await service.client.request(method, "/sessions/other"), 503, "Redis did not answer")
    check_problem(await service.client.get("/health/ready"), 503, "Redis does not answer")
    assert (await service.client.get("/health/live")).status_code == 200
    assert await service.metric('nextclick_redis_errors_total{operation="append"}') >= 2
