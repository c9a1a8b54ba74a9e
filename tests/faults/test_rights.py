"""The least that a Redis user may do for service and trainer to work: the line that the docs show, tried."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.live.deployment import publish
from service.process.settings import Settings
from service.state.items import ITEM_SCRIPTS, ItemStore, Mark
from service.state.link import StoreUnavailable
from service.state.store import SCRIPTS, Click, SessionStore
from tests.faults.redis_servers import HOST, Server, running_redis
from tests.service.bundles import Shop
from tests.service.processes import ROOT
from tests.service.serving import item_ids, serving
from tests.training.shop import Shop as Collector
from tests.waiting import DEADLINE_SECONDS, eventually

USER, PASSWORD, PREFIX = "nextclick", "a-long-password", "shop:"


def documented() -> list[str]:
    """The words of the line."""
    (line,) = re.findall(
        rf"^ACL SETUSER {USER} .*~.*$", (ROOT / "docs/operations.md").read_text("utf-8"), re.M
    )
    return str(line).split()


@pytest.fixture
def admin(tmp_path: Path) -> Iterator[tuple[Server, Redis]]:
    """A Redis where only our user can do anything, but for its administrator."""
    with (
        running_redis(tmp_path / "redis", "requirepass boss", password="boss") as server,
        server.client("boss") as client,
    ):
        client.execute_command(*documented())
        yield server, client


def granted() -> set[str]:
    """The commands that the line permits."""
    return {word[1:].partition("|")[0] for word in documented() if word.startswith("+")}


def called(client: Redis) -> set[str]:
    """The commands that anybody, or a script, has called since the start."""
    stats = client.info("commandstats")
    return {str(name).removeprefix("cmdstat_").partition("|")[0] for name in stats}


def test_it_names_no_category_and_no_more_than_our_keys() -> None:
    words = documented()
    assert [word for word in words if "@" in word] == ["-@all"]
    assert [word for word in words if word.startswith(("~", "%", "&", "all"))] == [f"~{PREFIX}*"]
    assert [word for word in words if word.startswith("+script")] == ["+script|load"]
    assert not granted() & {"config", "eval", "keys", "scan", "flushall", "flushdb", "acl", "client"}


@pytest.mark.anyio
async def test_service_and_collect_work_with_it(
    artifacts: Path, admin: tuple[Server, Redis], tmp_path: Path
) -> None:
    server, boss = admin
    url = f"redis://{USER}:{PASSWORD}@{HOST}:{server.port}"
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    everything = {"quality_share": 1.0, "rate_limit_per_minute": 1000, "cold_max_items": 1, "shards": 1}
    with capture_logs() as logs:
        async with serving(artifacts, url, redis_prefix=PREFIX, **everything) as service:
            assert (await service.click("s", "i1", "new", "newer", "i2")).status_code == 200
            answer = await service.recommend("s")
            await eventually(lambda: boss.keys("*shown:*"))
            other = next(item for item in item_ids(answer) if item != "i2")
            clicked = await service.click("s", other, recommendation_id=answer["recommendation_id"])
            assert clicked.status_code == 200
            await eventually(lambda: service.trending.sessions("i1"))
            assert (await service.store.quality(["v1"]))["v1"].judged == 1
            assert await service.store.co_clicks("newer", 5)
            await service.store.remember("s", "v1-answer", "v1", ["i1"], beside=True)
            assert (await service.client.get("/sessions/s")).status_code == 200
            assert (await service.client.delete("/sessions/s")).status_code == 204
            assert (await service.click("t", "i1")).status_code == 200
            assert (await service.client.get("/health/ready")).status_code == 200
            assert (await service.store.click_log()).entries == 7
            settings = Settings(
                artifacts_dir=tmp_path / "collected",
                redis_url=url,
                redis_prefix=PREFIX,
                click_log_max_age_seconds=1e-9,
                redis_timeout_seconds=DEADLINE_SECONDS,
                shards=1,
            )
            items = ItemStore(settings, url, max_tombstones=1)
            await items.put([("i1", {"price": 1.0}), ("i2", {}), ("i3", {})])
            assert await items.patch("i1", {"price": None}) == {}
            assert await items.delete(["i2", "i3"]) == [True, True]
            assert (await items.page("", 5), (await items.changes(Mark())).more) == ([("i1", {})], False)
            await items.close()
            collected = await asyncio.to_thread(Collector(settings, boss).collect)
            assert (collected.totals.clicks, collected.totals.erased_clicks) == (6, 5)
            assert (await service.store.click_log()).entries == 0
    assert {entry["event"] for entry in logs if entry["log_level"] in ("warning", "error")} == {
        "Redis hides its configuration: how safe its data is was not checked"
    }
    assert {entry["object"] for entry in boss.acl_log()} <= {
        "config",
        "config|get",
        "client",
        "client|setinfo",
    }

    in_scripts = {
        name.lower()
        for each in (*SCRIPTS, *ITEM_SCRIPTS)
        for name in re.findall(r"redis\.call\('(\w+)'", each.source)
    }
    assert in_scripts <= granted()
    assert granted() <= called(boss), "and no more than is needed"


@pytest.mark.anyio
async def test_another_database_takes_one_right_more(admin: tuple[Server, Redis]) -> None:
    server, boss = admin
    url = f"redis://{USER}:{PASSWORD}@{HOST}:{server.port}/3"
    settings = Settings(redis_timeout_seconds=DEADLINE_SECONDS, redis_prefix=PREFIX)
    for right, outcome in (("-select", pytest.raises(StoreUnavailable)), ("+select", nullcontext())):
        boss.acl_setuser(USER, enabled=True, commands=[right])
        store = SessionStore(settings, url)
        with outcome:
            await store.append("s", Click("a", 1.0))
        await store.close()
    assert boss.info("keyspace").keys() == {"db3"}


@pytest.mark.anyio
async def test_it_reaches_no_other_keys(admin: tuple[Server, Redis]) -> None:
    server, boss = admin
    boss.set("other:secret", "theirs")
    with Redis(HOST, server.port, username=USER, password=PASSWORD, protocol=2) as client:
        for command in (
            ("GET", "other:secret"),
            ("SET", "other:secret", "mine"),
            ("EVAL", "return 1", "0"),
            ("SCRIPT", "FLUSH"),
            ("CONFIG", "GET", "*"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("XINFO", "GROUPS", "shop:clicks:{0}"),
        ):
            with pytest.raises(Exception, match=r"(?i)permission"):
                client.execute_command(*command)
