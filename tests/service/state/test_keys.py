"""The names of the keys: as they always were, in one place, and each with its shop's prefix."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis import Redis

from service.live.deployment import publish
from service.process.settings import Settings
from service.state.keys import Keys
from tests.service.bundles import Shop
from tests.service.processes import ROOT
from tests.service.serving import Serving, item_ids, serving
from tests.training.shop import Shop as Collector
from tests.waiting import eventually
from training.data.clicks import Totals

KINDS = {
    *("s", "m", "clicks", "seq", "collected", "trending", "trending_t0", "shown"),
    *("quality", "cold", "co", "shards", "rate", "resumed", "judged"),
}


def test_without_a_prefix_they_are_what_they_always_were() -> None:
    keys = Keys(Settings().redis_prefix)
    assert [
        *(keys.session(17, "a"), keys.marks(17, "a"), keys.shown(17, "a")),
        *(keys.click_log(17), keys.sequence(17), keys.collected(17), *keys.trending(17), keys.cold(17)),
        *(keys.quality(17, "v"), keys.co_clicks(17, "i"), keys.shards, keys.rate("me")),
        *(keys.resumed(17), keys.judged(17, "a")),
    ] == [
        *("s:{17}:a", "m:{17}:a", "shown:{17}:a"),
        *("clicks:{17}", "seq:{17}", "collected:{17}", "trending:{17}", "trending_t0:{17}", "cold:{17}"),
        *("quality:{17}:v", "co:{17}:i", "shards", "rate:{rate}:me"),
        *("resumed:{17}", "judged:{17}:a"),
    ]


def test_no_key_is_named_elsewhere() -> None:
    named = re.compile(rf"""f?["'](?:{"|".join(KINDS - {"shards"})}):[{{"']""")
    files = [path for wing in ("service", "training") for path in (ROOT / wing).rglob("*")]
    sources = [path for path in files if path.suffix in (".py", ".lua") and path.name != "keys.py"]
    assert len(sources) > 50
    assert [path for path in sources if named.search(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("prefix", ["shop", "a b:", "{shop}:", "shop*:", "ü:", "shop:\n", 64 * "a" + ":"])
def test_a_prefix_is_plain_and_ends_in_a_mark(prefix: str) -> None:
    with pytest.raises(ValidationError):
        Settings(redis_prefix=prefix)


async def a_day(service: Serving, client: Redis, prefix: str) -> None:
    """Have every kind of key made: 7 clicks."""
    assert (await service.click("s", "i1", "new", "i2")).status_code == 200
    for _ in range(2):
        answer = await service.recommend("s")
        await eventually(lambda: client.keys(f"{prefix}shown:*"))
        other = next(item for item in item_ids(answer) if item != "i2")
        assert (await service.click("s", other)).status_code == 200
    await service.click("t", "i7", event_id="e")
    assert (await service.client.post("/clicks", json=[{"session_id": "u", "item_id": "i7"}])).is_success
    await service.recommend("s")
    await eventually(lambda: client.keys(f"{prefix}shown:*"))


@pytest.mark.anyio
async def test_two_shops_in_one_redis_see_nothing_of_each_other(
    artifacts: Path, redis_url: str, redis_client: Redis, tmp_path: Path
) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    shared = {"quality_share": 1.0, "rate_limit_per_minute": 30, "shards": 2}
    redis_client.set("foreign", "of somebody else")
    async with (
        serving(artifacts, redis_url, redis_prefix="shop:", **shared) as one,
        serving(artifacts, redis_url, redis_prefix="shop:2.", **shared) as other,
    ):
        await a_day(one, redis_client, "shop:")
        assert (await other.client.get("/sessions/s")).status_code == 404
        assert (await other.client.delete("/sessions/s")).status_code == 404
        assert len((await one.client.get("/sessions/s")).json()["clicks"]) == 5
        assert (await other.recommend("s"))["stage"] == "popular"
        assert (await other.store.click_log()).entries == 1, "the request to erase"
        assert (await other.store.quality(["v1"]))["v1"].judged == 0
        assert await other.store.co_clicks("new", 5) == await other.store.trending(5) == []
        assert [item for item, _ in await one.store.trending(1)] == ["i7"]
        await eventually(lambda: one.trending.sessions("i7"))

        await a_day(other, redis_client, "shop:2.")
        assert (await one.client.delete("/sessions/t")).status_code == 204
        assert len((await other.client.get("/sessions/t")).json()["clicks"]) == 1

        refused = 0
        while not refused:
            answer = await one.client.get("/recommend", params={"session_id": "s"})
            refused = answer.status_code == 429
        assert (await other.client.get("/trending")).status_code == 200

    settings = Settings(artifacts_dir=tmp_path / "one", redis_url=redis_url, redis_prefix="shop:", shards=2)
    mine = Collector(settings, redis_client)
    assert (await asyncio.to_thread(mine.collect)).totals == Totals(
        clicks=7, erased_sessions=1, erased_clicks=1
    )
    theirs = mine.configured(artifacts_dir=tmp_path / "other", redis_prefix="shop:2.")
    ended = await asyncio.to_thread(theirs.run)
    assert "7 clicks collected, 0 duplicates dropped, 1 sessions erased" in ended.stdout

    found = {str(key) for key in redis_client.scan_iter("*")} - {"foreign"}
    assert all(key.startswith("shop:") for key in found)
    for prefix in ("shop:2.", "shop:"):
        own = {key.removeprefix(prefix) for key in found if key.startswith(prefix)}
        assert {key.partition(":")[0] for key in own} == KINDS
        found -= {prefix + key for key in own}
