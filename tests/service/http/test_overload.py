"""More requests than a worker can have under way: the rest is refused at once, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from service.live.deployment import publish
from service.process.embedded_redis import EmbeddedRedis
from tests.service.bundles import Shop
from tests.service.serving import serving
from tests.waiting import DEADLINE_SECONDS, stopped

pytestmark = pytest.mark.anyio


async def test_what_is_under_way_is_finished_and_the_rest_is_refused(artifacts: Path, tmp_path: Path) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    with EmbeddedRedis(tmp_path / "redis") as redis:
        async with serving(artifacts, redis.url, max_requests_in_flight=3, quality_share=0) as service:
            refused = 'nextclick_requests_refused_total{reason="overload"}'
            before = await service.metric(refused)
            await service.click("s", "i1")
            with stopped(redis.pid):
                under_way = [asyncio.create_task(service.click(f"s{i}", "i1")) for i in range(3)]
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while await service.metric("nextclick_requests_in_flight") != 3:
                        await asyncio.sleep(0.01)
                for _ in range(5):
                    answer = await service.click("t", "i1")
                    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
                    assert answer.json()["type"] == "urn:nextclick:problem:overloaded"
                assert (await service.client.get("/health/live")).status_code == 200
            assert [(await task).status_code for task in under_way] == [200] * 3
            assert await service.metric(refused) - before == 5
            async with asyncio.timeout(60):
                while await service.metric("nextclick_requests_in_flight") > 0:
                    await asyncio.sleep(0.01)
            assert (await service.click("t", "i1")).json()["length"] == 1, "nothing of the refused was stored"
