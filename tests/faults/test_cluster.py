"""A Redis Cluster whose masters are replaced, killed or hang, one by TLS, and one that knows its users."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from redis.cluster import RedisCluster
from structlog.testing import capture_logs

from service.live.deployment import publish
from service.process.embedded_redis import find_redis_server
from service.process.settings import Settings
from service.state.items import Mark
from service.state.keys import Keys
from service.state.link import StoreUnavailable
from service.state.store import Click, SessionStore
from tests.service.bundles import Shop
from tests.service.processes import ROOT
from tests.service.serving import Serving, item_ids, serving
from tests.service.state import cluster
from tests.service.state.clicking import Clicking, doubled
from tests.service.state.cluster import QUICK_MS, Cluster, Node, running_cluster
from tests.training.shop import Shop as Collector
from tests.waiting import DEADLINE_SECONDS, eventually, stopped
from training.data.clicks import Totals
from training.loop.collect import CollectError, collect

pytestmark = pytest.mark.anyio

keys = Keys()
SHARDS = 16


@asynccontextmanager
async def store_of(redis: Cluster, **changed: object) -> AsyncIterator[SessionStore]:
    settings = Settings.model_validate({"redis_timeout_seconds": 2.0, **changed})
    store = SessionStore(settings, redis.url)
    yield store
    await store.close()


async def takes_over(replica: Node) -> None:
    """Wait until a replica is a master."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await asyncio.to_thread(replica.is_master):
            await asyncio.sleep(0.02)


async def test_a_planned_failover_loses_nothing(redis_cluster: Cluster) -> None:
    (old, *_), reasons = redis_cluster.masters, {"another server of the Redis cluster has these keys"}
    async with store_of(redis_cluster) as store, Clicking(store) as clicking:
        await clicking.goes_on()
        new = redis_cluster.replica_of(old)
        cluster.cluster(new.client, "FAILOVER")
        await takes_over(new)
        await clicking.goes_on()
        assert store._link.masters == 3
    with redis_cluster.client() as client:
        assert (clicking.lost(client), doubled(client)) == (set(), [])
    assert clicking.reasons.keys() <= {*reasons, "Redis does not answer"}


async def test_strict_loses_nothing_to_a_killed_master(redis_cluster: Cluster) -> None:
    (old, *_) = redis_cluster.masters
    new = redis_cluster.replica_of(old)
    async with store_of(redis_cluster, durability="strict") as store, Clicking(store) as clicking:
        await clicking.goes_on()
        redis_cluster.set_node_timeout(QUICK_MS)
        await clicking.goes_on()
        old.kill()
        await takes_over(new)
        old.start()  # it comes back as a replica; without one strict acknowledges nothing
        await clicking.goes_on()
        assert clicking.reasons
    with redis_cluster.client() as client:
        assert (clicking.lost(client), doubled(client)) == (set(), [])


@contextmanager
def without_its_replica(master: Node, replica: Node) -> Iterator[None]:
    """A master whose replica has heard nothing since."""
    with stopped(replica.process.pid):
        master.client.execute_command("CLIENT", "KILL", "TYPE", "REPLICA")  # type: ignore[no-untyped-call]
        yield


@pytest.mark.parametrize("durability", ["strict", "standard"])
async def test_what_only_a_master_has_is_acknowledged_at_standard_alone(
    redis_cluster: Cluster, durability: str
) -> None:
    """And lost with the master, which the log tells."""
    session = "s"
    key = keys.session(keys.shard_of(session, SHARDS), session)
    old = redis_cluster.owner(key)
    new = redis_cluster.replica_of(old)
    async with store_of(redis_cluster, durability=durability) as store:
        await store.append(session, Click("a", 1.0, event_id="first"))
        await eventually(lambda: new.client.dbsize() == old.client.dbsize())
        redis_cluster.set_node_timeout(QUICK_MS)
        with without_its_replica(old, new):
            click = store.append(session, Click("b", 2.0, event_id="second"))
            if durability == "strict":
                with pytest.raises(StoreUnavailable) as refused:
                    await click
                assert refused.value.reason == "Redis lacks replicas to write to"
            else:
                await click
            assert len(await store.read(session)) == 2, "it is there all the same"
            old.kill()
        with capture_logs() as logs:
            await takes_over(new)
            async with asyncio.timeout(DEADLINE_SECONDS):
                while True:
                    try:
                        again = await store.append(session, Click("b", 2.0, event_id="second"))
                        break
                    except StoreUnavailable:
                        if durability == "strict":  # the killed one was the only other
                            old.start()
                            durability = "strict, with a replica again"
                        await asyncio.sleep(0.05)
        assert not again.duplicate, "it was not there"
        assert len(await store.read(session)) == 2
    lost = [entry["lost"] for entry in logs if entry["event"].startswith("the click log has lost its tail")]
    assert lost == ([1] if durability == "standard" else [])


async def test_a_master_that_hangs_is_replaced(redis_cluster: Cluster) -> None:
    (old, *_) = redis_cluster.masters
    new = redis_cluster.replica_of(old)
    async with store_of(redis_cluster, redis_timeout_seconds=0.5) as store, Clicking(store) as clicking:
        await clicking.goes_on()
        redis_cluster.set_node_timeout(QUICK_MS)
        with stopped(old.process.pid):
            await takes_over(new)
            await clicking.goes_on()
            await store.check_writable()
        await eventually(lambda: not old.is_master())
        await clicking.goes_on()
    with redis_cluster.client() as client:
        assert doubled(client) == []


async def a_day(service: Serving, client: RedisCluster, prefix: str) -> None:
    """Seven clicks, with all that they bring about."""
    for number in range(3):
        assert (await service.click(f"s{number}", "i1", "new", "i2")).status_code == 200
    answer = await service.recommend("s0")
    assert answer["stage"] == "model"
    await eventually(lambda: list(client.scan_iter(f"{prefix}shown:*")))
    other = next(item for item in item_ids(answer) if item != "i2")
    clicked = await service.click("s0", other, recommendation_id=answer["recommendation_id"])
    assert clicked.status_code == 200
    assert (await service.store.quality(["v1"]))["v1"].judged == 1
    batch = [{"session_id": f"t{number}", "item_id": "i7"} for number in range(40)]
    posted = await service.client.post("/clicks", json=batch)
    assert {each["status"] for each in posted.json()["events"]} == {200}
    await eventually(lambda: service.trending.sessions("i7"))
    assert (await service.client.get("/trending")).json()["items"][0]["item_id"] == "i7"
    assert await service.store.co_clicks("new", 5)
    await service.items.put([("i1", {"price": 1.0}), ("i2", {}), ("i3", {})])
    assert await service.items.patch("i1", {"price": None}) == {}
    assert await service.items.delete(["i2", "i3"]) == [True, True]
    assert (await service.items.page("", 5), (await service.items.changes(Mark())).more) == (
        [("i1", {})],
        False,
    )
    assert len((await service.client.get("/sessions/s1")).json()["clicks"]) == 3
    assert (await service.client.delete("/sessions/s1")).status_code == 204
    assert (await service.client.get("/health/ready")).status_code == 200
    assert (await service.store.click_log()).entries == 10 + 40 + 1


EVERYTHING = {"quality_share": 1.0, "rate_limit_per_minute": 1000, "key_rate_limit_per_minute": 1000}


@pytest.mark.parametrize("durability", ["standard", "strict"])
async def test_a_day(artifacts: Path, tmp_path: Path, redis_cluster: Cluster, durability: str) -> None:
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    with redis_cluster.client() as client:
        async with serving(artifacts, redis_cluster.url, durability=durability, **EVERYTHING) as service:
            await a_day(service, client, "")
            settings = Settings(
                artifacts_dir=tmp_path / "collected",
                redis_url=redis_cluster.url,
                click_log_max_age_seconds=1e-9,
                click_retention_days=36500,
                redis_timeout_seconds=DEADLINE_SECONDS,
            )
            collector = Collector(settings, client)
            collected = await asyncio.to_thread(collector.collect)
            assert collected.totals == Totals(clicks=50, erased_sessions=1, erased_clicks=3)
            assert collected.gaps == ()
            assert (await service.store.click_log()).entries == 0
            assert (await service.click("s0", "i9")).status_code == 200
            ended = await asyncio.to_thread(collector.run)
            assert "1 clicks collected, 0 duplicates dropped" in ended.stdout, ended.output


async def test_collect_says_why_there_is_no_cluster(tmp_path: Path) -> None:
    url = "redis+cluster://me:hu-sh@127.0.0.1:1"
    with pytest.raises(CollectError, match=r"cluster://me:\*+@127\.0\.0\.1:1") as stopped_:
        collect(Settings(artifacts_dir=tmp_path, redis_url=url))
    assert "hu-sh" not in str(stopped_.value)


USER, PASSWORD, PREFIX = "nextclick", "a-long-password", "shop:"


def documented_for_clusters() -> str:
    """The rights that a cluster takes besides."""
    (line,) = re.findall(r"^\+cluster\|slots .*$", (ROOT / "docs/operations.md").read_text("utf-8"), re.M)
    return str(line)


def documented() -> list[str]:
    """What makes a user that may do the least."""
    text = (ROOT / "docs/operations.md").read_text("utf-8")
    (line,) = re.findall(rf"^ACL SETUSER {USER} .*~.*$", text, re.M)
    return [*str(line).split(), *documented_for_clusters().split()]


async def test_by_tls_with_the_least_rights(
    artifacts: Path, tmp_path: Path, certificate: tuple[Path, Path]
) -> None:
    if b"SSL_CTX" not in Path(find_redis_server()).read_bytes():  # of OpenSSL; options of that name all have
        pytest.skip(f"{find_redis_server()} speaks no TLS: a cluster by TLS is NOT tested")
    files = (f"--tls-cert-file {certificate[0]} --tls-key-file {certificate[1]}").split()
    options = [*files, "--tls-ca-cert-file", str(certificate[0]), "--tls-auth-clients", "no"]
    server = [
        "--port",
        "0",
        "--tls-port",
        "{port}",
        "--tls-cluster",
        "yes",
        "--tls-replication",
        "yes",
        *options,
    ]
    by_tls = {"ssl": True, "ssl_ca_certs": str(certificate[0])}
    Shop.make().write(artifacts, "v1")
    publish(artifacts, "v1")
    with running_cluster(tmp_path / "redis", server=server, client=by_tls) as redis:
        for node in redis.nodes:
            node.client.execute_command(*documented())  # type: ignore[no-untyped-call]
        login = f"rediss+cluster://{USER}:{PASSWORD}@"
        url = redis.url.replace("redis+cluster://", login) + f"?ssl_ca_certs={certificate[0]}"
        settings = Settings(
            artifacts_dir=tmp_path / "collected",
            redis_url=url,
            redis_prefix=PREFIX,
            redis_timeout_seconds=DEADLINE_SECONDS,
            click_log_max_age_seconds=1e-9,
        )
        with capture_logs() as logs:
            changed = {"redis_prefix": PREFIX, "durability": "strict", **EVERYTHING}
            async with serving(artifacts, url, **changed) as service:
                for number in range(30):
                    assert (await service.click(f"s{number}", "i1", "new", "i2")).status_code == 200
                assert (await service.recommend("s1"))["stage"] == "model"
                assert (await service.client.get("/health/ready")).status_code == 200
                assert (await asyncio.to_thread(collect, settings)).totals.clicks == 90
                assert (await service.store.click_log()).entries == 0
                key = Keys(PREFIX).click_log(Keys.shard_of("s1", SHARDS))
                to = next(node for node in redis.masters if node is not redis.owner(key))
                source = redis.begin_to_move(key, to)
                while redis.move_keys(key, source, to, 100):
                    pass
                assert len(await service.store.read("s1")) == 3, "by ASKING"
                redis.end_move(key, source, to)
                assert (await service.click("s1", "i3")).status_code == 200
        wrong = [entry["event"] for entry in logs if entry["log_level"] in ("warning", "error")]
        assert set(wrong) == {"Redis hides its configuration: how safe its data is was not checked"}
        assert PASSWORD not in str(logs)
        refused = {each["object"] for node in redis.nodes for each in node.client.acl_log()}
        assert refused <= {"config", "config|get", "client", "client|setinfo"}
        called = {str(name) for node in redis.masters for name in node.client.info("commandstats")}
        for right in str(documented_for_clusters()).split():
            assert f"cmdstat_{right.removeprefix('+')}" in called, "and no more than is needed"
