"""Who may ask how often, and how many wrong keys one may send; also while Redis hangs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from service.http.guards import api_keys
from service.http.guards.rate_limit import RateLimit, address_of
from service.http.request_log import RequestLog
from service.live.deployment import publish
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.state.link import StoreUnavailable
from service.state.store import TRY_KEY, SessionStore
from tests.service.bundles import Shop
from tests.service.serving import ADMIN, Serving, serving
from tests.service.state.clock import StillClock
from tests.waiting import eventually, stopped

pytestmark = pytest.mark.anyio

SHOPPER, SERVER, WRONG = ({"X-API-Key": key} for key in ("shop-key", "server-key", "wrong-key"))
KEYS = {"api_key": "shop-key", "server_api_key": "server-key"}


@pytest.fixture
def published(artifacts: Path) -> Path:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    return artifacts


async def statuses(service: Serving, times: int, path: str, headers: dict[str, str]) -> list[int]:
    return [(await service.client.get(path, headers=headers)).status_code for _ in range(times)]


async def batch(service: Serving, headers: dict[str, str], *item_ids: str) -> httpx.Response:
    body = [{"session_id": "s", "item_id": item_id} for item_id in item_ids]
    return await service.client.post("/clicks", json=body, headers=headers)


def address(host: str | None) -> str:
    return address_of(Request({"type": "http", "client": (host, 1) if host else None}))


def test_an_address_is_what_a_customer_has() -> None:
    assert address("192.0.2.7") == "192.0.2.7"
    assert address("::ffff:192.0.2.7") == "192.0.2.7"
    assert address("2001:db8:1:2::7") == address("2001:0DB8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert address("2001:db8:1:3::7") == "2001:db8:1:3::/64"
    assert address("fe80::7%eth0") == "fe80::/64"
    assert (address("unknown"), address("x" * 1000), address(None)) == ("unknown", "x" * 64, "local")


class TestRates:
    async def test_of_an_address_and_of_a_key(self, published: Path, redis_url: str) -> None:
        limits = {"rate_limit_per_minute": 3, "key_rate_limit_per_minute": 5}
        async with serving(published, redis_url, **KEYS, **limits) as service:
            assert await statuses(service, 5, "/trending", SHOPPER) == [200, 200, 200, 429, 429]
            refused = await service.client.get("/trending", headers=SHOPPER)
            assert refused.json()["type"] == "urn:nextclick:problem:rate-limited"
            assert refused.json()["detail"] == "more than 3 requests per minute from this address"
            assert 1 <= int(refused.headers["retry-after"]) <= 20
            with Redis.from_url(redis_url) as client:
                client.delete("rate:{rate}:address:127.0.0.1")  # as if from another one
                assert await statuses(service, 3, "/trending", SHOPPER) == [200, 200, 429], (
                    "what was refused for its address took nothing from the key"
                )
                client.delete("rate:{rate}:address:127.0.0.1")
            refused = await service.client.get("/models", headers=SHOPPER)
            assert refused.json()["detail"] == "more than 5 requests per minute with this key"
            assert await service.metric('nextclick_requests_refused_total{reason="key_rate"}') >= 2
            assert await service.metric('nextclick_requests_refused_total{reason="rate"}') >= 3
            assert (await service.client.get("/health/ready")).status_code == 200

    async def test_the_shops_own_server_is_counted_by_its_key(self, published: Path, redis_url: str) -> None:
        limits = {"rate_limit_per_minute": 1, "key_rate_limit_per_minute": 3}
        async with serving(published, redis_url, **KEYS, **limits) as service:
            assert await statuses(service, 4, "/sessions/s", SERVER) == [404, 404, 404, 429]
            assert await statuses(service, 2, "/trending", SHOPPER) == [200, 429]

    @pytest.mark.parametrize("headers", [SHOPPER, SERVER])
    async def test_a_batch_costs_what_it_holds(
        self, published: Path, redis_url: str, headers: dict[str, str]
    ) -> None:
        by_address = headers is SHOPPER
        limits = {
            "rate_limit_per_minute": 5,
            **({} if by_address else {"key_rate_limit_per_minute": 5, **KEYS}),
        }
        async with serving(published, redis_url, **limits) as service:
            assert (await batch(service, headers, "i1", "i2", "i3")).status_code == 200
            refused = await batch(service, headers, "i4", "i5", "i6")
            assert (refused.status_code, 1 <= int(refused.headers["retry-after"]) <= 12) == (429, True)
            assert len(await service.store.read("s")) == 3, "nothing of what was refused"
            assert (await batch(service, headers, "i4")).status_code == 200
            malformed = await service.client.post("/clicks", json={}, headers=headers)
            assert malformed.status_code == 422, "counts as one"
            assert (await batch(service, headers, "i5")).status_code == 429

    async def test_a_batch_dearer_than_the_limit_passes_alone(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, rate_limit_per_minute=2) as service:
            assert (await batch(service, {}, "i1", "i2", "i3", "i4")).status_code == 200
            refused = await batch(service, {}, "i5")
            assert (refused.status_code, 60 < int(refused.headers["retry-after"]) <= 90) == (429, True)


class TestWrongKeys:
    async def test_they_are_limited_for_every_kind_of_key(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, **KEYS, wrong_keys_per_minute=3) as service:
            for path in ("/trending", "/sessions/s", "/admin/hidden"):
                assert await statuses(service, 5, path, WRONG) == [403, 403, 403, 429, 429]
                refused = await service.client.get(path, headers=WRONG)
                assert refused.json()["type"] == "urn:nextclick:problem:wrong-keys"
                assert 1 <= int(refused.headers["retry-after"]) <= 20
                assert await statuses(service, 1, path, {}) == [401], "no guess"
            assert await service.metric('nextclick_requests_refused_total{reason="wrong_keys"}') >= 9

    async def test_beyond_it_a_secret_is_not_told_from_a_guess(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, **KEYS, wrong_keys_per_minute=2) as service:
            for path, right, last in (
                ("/trending", SHOPPER, 200),  # that one stands in every page
                ("/sessions/s", SERVER, 429),
                ("/admin/hidden", ADMIN, 429),
            ):
                assert await statuses(service, 3, path, WRONG) == [403, 403, 429]
                assert await statuses(service, 2, path, right) == [last, last]

    async def test_who_has_sent_the_right_key_is_not_locked_out(
        self, published: Path, redis_url: str
    ) -> None:
        async with serving(published, redis_url, **KEYS, wrong_keys_per_minute=2) as service:
            for path, right, passes in (("/sessions/s", SERVER, 404), ("/admin/hidden", ADMIN, 200)):
                assert await statuses(service, 1, path, right) == [passes]
                assert await statuses(service, 3, path, WRONG) == [403, 403, 429]
                assert await statuses(service, 2, path, right) == [passes, passes]
        async with serving(published, redis_url, **KEYS, wrong_keys_per_minute=2) as another_worker:
            assert await statuses(another_worker, 1, "/admin/hidden", ADMIN) == [200]

    async def test_redis_is_not_asked_each_time(
        self, published: Path, redis_url: str, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api_keys, "KNOWN_SECONDS", 3600)  # a slow machine takes longer than a minute
        seldom = {"trending_refresh_seconds": 3600, "quality_share": 0}
        async with serving(published, redis_url, **KEYS, **seldom) as service:
            with redis_client.monitor() as monitor:  # type: ignore[no-untyped-call]
                assert await statuses(service, 21, "/admin/hidden", ADMIN) == [200] * 21
                assert await statuses(service, 20, "/trending", SHOPPER) == [200] * 20
                redis_client.echo("done")
                sent = iter(lambda: str(monitor.next_command()["command"]), "ECHO done")
                question = str(TRY_KEY.call([])[1])
                assert len([command for command in sent if question in command]) == 1, "the admin's, once"

    async def test_nobody_is_limited(self, published: Path, redis_url: str) -> None:
        async with serving(published, redis_url, wrong_keys_per_minute=0) as service:
            assert await statuses(service, 30, "/admin/hidden", WRONG) == [403] * 30


class TestRedisGone:
    async def test_everyone_passes_and_a_metric_tells(self, published: Path, tmp_path: Path) -> None:
        limits = {"rate_limit_per_minute": 1, "wrong_keys_per_minute": 1}
        async with serving(
            published, f"unix://{tmp_path}/nobody.sock", redis_timeout_seconds=0.01, **limits
        ) as service:
            failed = 'nextclick_redis_errors_total{operation="%s"}'
            before = [await service.metric(failed % operation) for operation in ("take_token", "try_key")]
            assert await statuses(service, 3, "/trending", {}) == [200] * 3
            assert await statuses(service, 3, "/admin/hidden", WRONG) == [403] * 3
            assert await statuses(service, 3, "/admin/hidden", ADMIN) == [200] * 3
            after = [await service.metric(failed % operation) for operation in ("take_token", "try_key")]
            assert [late - early for late, early in zip(after, before, strict=True)] == [3, 6]

    @pytest.fixture
    def own_redis(self, tmp_path: Path) -> Iterator[EmbeddedRedis]:
        with EmbeddedRedis(tmp_path / "redis") as server:
            yield server

    @pytest.mark.parametrize("connects", [True, False])
    async def test_a_redis_that_hangs_costs_a_request_one_deadline(
        self, own_redis: EmbeddedRedis, connects: bool
    ) -> None:
        """The limit's call waits for it, and the request's own call not once more."""
        clock = StillClock()
        store = SessionStore(Settings(redis_timeout_seconds=0.05), own_redis.url, clock=clock)
        limit = RateLimit(store, 10)
        done: list[str] = []

        async def answer(scope: Scope, receive: Receive, send: Send) -> None:
            done.append("asked")  # from here on nothing is awaited but Redis
            await limit(Request(scope))
            done.append("let in")
            for _ in range(2):
                with pytest.raises(StoreUnavailable, match="no answer"):
                    await store.read("s")
                done.append("answered without it")

        async def request() -> None:
            scope = {"type": "http", "method": "GET", "headers": [], "client": ("192.0.2.7", 1)}
            await RequestLog(answer, share=0, slow_seconds=1e9)(scope, nothing_more, ignore)

        try:
            if connects:
                await store.ping()
            with stopped(own_redis.pid):
                task = asyncio.create_task(request())
                await eventually(lambda: done)
                clock.move_to(0.05)
                clock.move_to(0.06)
                await eventually(task.done)
            await task
        finally:
            await store.close()
        assert done == ["asked", "let in", "answered without it", "answered without it"]


async def nothing_more() -> Message:
    return {"type": "http.disconnect"}


async def ignore(_: Message) -> None:
    pass
