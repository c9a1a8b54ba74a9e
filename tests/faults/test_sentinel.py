"""A Redis that sentinels look after: real ones, and a primary that is replaced, killed or hangs."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from structlog.testing import capture_logs

from service.process.settings import Settings
from service.state.link import StoreUnavailable
from service.state.store import Click, SessionStore
from tests.faults.proxy import server_context
from tests.faults.redis_servers import HOST, Server, free_port, running_redis
from tests.service.processes import ROOT
from tests.service.serving import Serving, serving
from tests.training.shop import Shop as Collector
from tests.waiting import DEADLINE_SECONDS, eventually, stopped, until
from training.loop.collect import CollectError, collect

pytestmark = pytest.mark.anyio

PASSWORD, BOSS = "pass@word", "boss"  # of the Redis servers; of their sentinels' administrator
SENTINEL_USER, SENTINEL_PASSWORD = "nextclick", "another-password"


@dataclass(frozen=True)
class Watched:
    """A primary, its replica, and sentinels who know both, and each other."""

    primary: Server
    replica: Server
    sentinels: tuple[Server, ...]

    def url(self, *places: str, service: str = "shop", scheme: str = "redis") -> str:
        hosts = ",".join(places or [f"{HOST}:{sentinel.port}" for sentinel in self.sentinels])
        login = f"sentinel_username={SENTINEL_USER}&sentinel_password={SENTINEL_PASSWORD}"
        return f"{scheme}+sentinel://:pass%40word@{hosts}/{service}?{login}"

    def ask(self, *command: str) -> None:
        """Have every sentinel do something."""
        for sentinel in self.sentinels:
            with sentinel.client(BOSS) as client:
                client.execute_command("SENTINEL", *command)


@contextmanager
def watched(directory: Path, sentinels: int = 1) -> Iterator[Watched]:
    """Run it all, until all is known to all."""
    login = (f"requirepass {PASSWORD}", f"masterauth {PASSWORD}", "repl-diskless-sync-delay 0")
    (line,) = re.findall(
        r"^ACL SETUSER .* \+sentinel.*$", (ROOT / "docs/operations.md").read_text("utf-8"), re.M
    )
    assert str(line).split()[2:5] == [SENTINEL_USER, "on", f">{SENTINEL_PASSWORD}"]
    with ExitStack() as stack:
        primary = stack.enter_context(running_redis(directory / "primary", *login, password=PASSWORD))
        replica_of = f"replicaof {HOST} {primary.port}"
        replica = stack.enter_context(
            running_redis(directory / "replica", *login, replica_of, password=PASSWORD)
        )
        watching = (
            f"sentinel monitor shop {HOST} {primary.port} {sentinels // 2 + 1}",
            f"sentinel auth-pass shop {PASSWORD}",
            "sentinel down-after-milliseconds shop 600000",  # until a test says otherwise
            "sentinel failover-timeout shop 10000",
            f"requirepass {BOSS}",
            f"sentinel sentinel-pass {BOSS}",
        )
        all_ = tuple(
            stack.enter_context(
                running_redis(directory / f"sentinel{i}", *watching, password=BOSS, is_sentinel=True)
            )
            for i in range(sentinels)
        )
        for sentinel in all_:
            with sentinel.client(BOSS) as client:
                client.execute_command(*str(line).split())
                until(lambda client=client: _knows_all(client, sentinels))  # type: ignore[misc]
        yield Watched(primary, replica, all_)


def _knows_all(client: Redis, sentinels: int) -> bool:
    others = client.sentinel_sentinels("shop")
    replicas = client.sentinel_slaves("shop")
    known = isinstance(others, list) and len(others) == sentinels - 1
    return known and [each["master-link-status"] for each in replicas] == ["ok"]


def role(server: Server) -> str:
    with server.client(PASSWORD) as client:
        return str(client.role()[0])


async def acknowledged(service: Serving, item_id: str) -> int:
    """How many tries it took."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        tries = 1
        while (await service.click("s", item_id, event_id=item_id)).status_code != 200:
            tries += 1
            await asyncio.sleep(0.01)
        return tries


async def items(service: Serving) -> list[str]:
    answer = await service.client.get("/sessions/s")
    return [click["item_id"] for click in answer.json()["clicks"]]


async def test_a_planned_failover(artifacts: Path, tmp_path: Path) -> None:
    with watched(tmp_path / "redis") as redis, capture_logs() as logs:
        settings = Settings(artifacts_dir=artifacts, redis_url=redis.url())
        async with serving(artifacts, redis.url(), rate_limit_per_minute=100_000) as service:
            assert await acknowledged(service, "before") == 1
            with redis.primary.client(PASSWORD) as old, redis.replica.client(PASSWORD) as new:
                await eventually(lambda: new.keys("clicks:*"))
                redis.ask("FAILOVER", "shop")
                await eventually(lambda: (role(redis.replica), role(redis.primary)) == ("master", "slave"))
                await acknowledged(service, "after")
                assert await acknowledged(service, "and on") == 1
                assert await items(service) == ["before", "after", "and on"]
                await service.store.check_writable()
                collector = Collector(settings, new)
                assert (await asyncio.to_thread(collector.collect)).gaps == ()
                assert collector.items() == ["after", "and on", "before"]
                await eventually(lambda: old.keys("collected:*"))  # it follows
        found = [entry["port"] for entry in logs if entry["event"] == "the primary was found"]
        # The connection for items asks for itself.
        assert list(dict.fromkeys(found)) == [redis.primary.port, redis.replica.port]
        assert PASSWORD not in str(logs)
        assert SENTINEL_PASSWORD not in str(logs)


async def test_a_primary_that_became_a_replica_and_kept_its_connections(
    artifacts: Path, tmp_path: Path
) -> None:
    with watched(tmp_path / "redis") as redis:
        async with serving(artifacts, redis.url()) as service:
            assert await acknowledged(service, "before") == 1
            with redis.primary.client(PASSWORD) as old, redis.replica.client(PASSWORD) as new:
                await eventually(lambda: new.keys("clicks:*"))
                redis.ask("REMOVE", "shop")  # sentinels would close the connections
                new.replicaof("NO", "ONE")
                old.replicaof(HOST, str(redis.replica.port))
                redis.ask("MONITOR", "shop", HOST, str(redis.replica.port), "1")
                redis.ask("SET", "shop", "auth-pass", PASSWORD)
                refused = await service.click("s", "after")
                assert refused.json()["detail"].startswith("Redis is read-only")
                await acknowledged(service, "after")
                (stream,) = new.keys("clicks:*")
                assert [fields["item"] for _, fields in new.xrange(stream)] == ["before", "after"]


def killed(server: Server) -> AbstractContextManager[None]:
    server.kill()
    return nullcontext()


def hung(server: Server) -> AbstractContextManager[None]:
    return stopped(server.process.pid)


@pytest.mark.parametrize("gone", [killed, hung])
async def test_a_primary_that_is_gone_with_a_sentinel(
    artifacts: Path, tmp_path: Path, gone: Callable[[Server], AbstractContextManager[None]]
) -> None:
    """One sentinel of three hangs, and another's address leads to nobody."""
    with watched(tmp_path / "redis", sentinels=3) as redis:
        silent, *_ = redis.sentinels
        url = redis.url(f"{HOST}:{free_port()}", *(f"{HOST}:{each.port}" for each in redis.sentinels))
        times = {"redis_timeout_seconds": 2.0, "redis_connect_timeout_seconds": 10.0}
        async with serving(artifacts, url, **times) as service:
            await acknowledged(service, "before")
            with redis.replica.client(PASSWORD) as new:
                await eventually(lambda: new.keys("clicks:*"))
            redis.ask("SET", "shop", "down-after-milliseconds", "2000")
            with gone(redis.primary), stopped(silent.process.pid):
                await eventually(lambda: role(redis.replica) == "master")
                await acknowledged(service, "after")
                async with asyncio.timeout(DEADLINE_SECONDS):
                    while await items(service) != ["before", "after"]:
                        await asyncio.sleep(0.01)
                with redis.replica.client(PASSWORD) as new:
                    (stream,) = new.keys("clicks:*")
                    assert [fields["item"] for _, fields in new.xrange(stream)] == ["before", "after"]


@pytest.mark.parametrize("wrong", ["service", "password", "nobody"])
async def test_why_there_is_no_primary_is_told_without_secrets(tmp_path: Path, wrong: str) -> None:
    with watched(tmp_path / "redis") as redis:
        url = {
            "service": redis.url(service="another"),
            "password": redis.url().replace(SENTINEL_PASSWORD, "wrong-password"),
            "nobody": redis.url(f"{HOST}:{free_port()}"),
        }[wrong]
        settings = Settings(redis_url=url, redis_timeout_seconds=DEADLINE_SECONDS, artifacts_dir=tmp_path)
        store = SessionStore(settings, url)
        with capture_logs() as logs, pytest.raises(StoreUnavailable, match="No master found for") as refused:
            await store.append("s", Click("a", 1.0))
        await store.close()
        with pytest.raises(CollectError, match="No master found for") as stopped_:
            collect(settings)
        for said in (str(logs), str(refused.value), str(stopped_.value)):
            assert not re.search(f"{PASSWORD}|pass%40word|{SENTINEL_PASSWORD}|wrong-password", said)


@asynccontextmanager
async def by_tls(server: Server, context: ssl.SSLContext, names: dict[int, int]) -> AsyncIterator[int]:
    """A port where a server speaks TLS, and calls ports by other names, which are as long."""

    async def serve(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        redis, to_redis = await asyncio.open_connection(HOST, server.port)

        async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                for port, name in names.items():
                    data = data.replace(str(port).encode(), str(name).encode())
                to.write(data)

        tasks = [
            asyncio.create_task(pass_on(client, to_redis)),
            asyncio.create_task(pass_on(redis, to_client)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for writer in (to_redis, to_client):
            writer.close()

    async with await asyncio.start_server(serve, HOST, 0, ssl=context) as listener:
        yield listener.sockets[0].getsockname()[1]


async def test_sentinels_and_primary_by_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    context = server_context(*certificate)
    with watched(tmp_path / "redis") as redis:
        async with by_tls(redis.primary, context, {}) as primary:
            (sentinel,) = redis.sentinels
            async with by_tls(sentinel, context, {redis.primary.port: primary}) as asked:
                url = redis.url(f"{HOST}:{asked}", scheme="rediss") + f"&ssl_ca_certs={certificate[0]}"
                settings = Settings(
                    redis_url=url, redis_timeout_seconds=DEADLINE_SECONDS, artifacts_dir=tmp_path
                )
                store = SessionStore(settings, url)
                assert (await store.append("s", Click("a", 1.0))).length == 1
                await store.close()
                assert (await asyncio.to_thread(collect, settings)).totals.clicks == 1
