"""What a Redis Cluster costs the service: processor time of its own per call, beside a single Redis.

    python -m benchmarks.cluster [--artifacts artifacts | --failover]

Both are real processes on this machine, three masters without replicas and one Redis alike. 16 callers ask in
a closed loop; rounds alternate, so that what else the machine does falls on both. Told is the time of this
process, which is the client, not that of Redis: the median over rounds, and the ratio of the medians. Its
bundle is a toy.

With --artifacts: what a request costs whole services on the bundle that is live there, one worker each, over
HTTP, in the closed loops of `benchmarks.load`. Told is the time of the service's processes.

With --failover: masters are killed in turn, and told is when all of the cluster says that a replica took
over, and when the store acknowledges a click on a session that the dead one had.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import httpx
import uvloop

from benchmarks.load.__main__ import ALONE, MIXED, clicks_for
from benchmarks.load.measure import Line, Measure, measured
from benchmarks.load.processes import service
from service.http.app import create_app
from service.live.deployment import publish
from service.process.settings import Settings
from service.recommender import Options
from service.state.keys import Keys
from service.state.link import StoreUnavailable
from service.state.store import Click, SessionStore
from tests.service.bundles import Shop
from tests.service.state.cluster import QUICK_MS, Cluster, Node, running_cluster

CALLERS, SESSIONS = 16, 2000

Call = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def calls_of(cluster: Cluster, artifacts: Path) -> AsyncIterator[dict[str, Call]]:
    """What is measured, by name."""
    settings = Settings(
        artifacts_dir=artifacts,
        redis_url=url_of(cluster),
        redis_timeout_seconds=10,
        quality_share=0,
        access_log_share=0,
        access_log_slow_ms=1e9,
    )
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client,
    ):
        state = SimpleNamespace(store=app.state.store, recommender=app.state.recommender)

        async def over_http(number: int) -> None:
            answer = await client.get("/recommend", params={"session_id": f"s{number % SESSIONS}"})
            assert answer.status_code == 200, answer.text

        for number in range(3 * SESSIONS):
            await state.store.append(f"s{number % SESSIONS}", Click(f"i{number % 9}", time.time()))
        yield {
            "store.read": lambda number: state.store.read(f"s{number % SESSIONS}"),
            "store.append": lambda number: state.store.append(
                f"s{number % SESSIONS}", Click(f"i{number % 9}", time.time())
            ),
            "recommender.recommend": lambda number: state.recommender.recommend(
                f"s{number % SESSIONS}", Options()
            ),
            "GET /recommend (ASGI)": over_http,
        }


def url_of(cluster: Cluster) -> str:
    """By which a service finds it; a cluster of one is an ordinary Redis here."""
    return cluster.url if len(cluster.masters) > 1 else f"redis://127.0.0.1:{cluster.masters[0].port}"


async def cost(call: Call, count: int) -> float:
    """Microseconds of this process per call."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    begin = time.process_time()
    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return (time.process_time() - begin) / count * 1e6


async def measure(clusters: dict[str, Cluster], artifacts: Path, options: argparse.Namespace) -> None:
    """Print a table."""
    async with (
        calls_of(clusters["single"], artifacts) as single,
        calls_of(clusters["cluster"], artifacts) as cluster,
    ):
        print("| call | single Redis, µs | three masters, µs | ratio |\n|---|---|---|---|")
        for name in options.only or single:
            found: dict[str, list[float]] = {"single": [], "cluster": []}
            for round_, (which, calls) in itertools.product(
                range(options.rounds + 1), (("single", single), ("cluster", cluster))
            ):
                each = await cost(calls[name], options.calls)
                if round_:  # the first warms up
                    found[which].append(each)
            one, three = median(found["single"]), median(found["cluster"])
            print(f"| {name} | {one:.1f} | {three:.1f} | {three / one:.2f} |", flush=True)


def measure_served(clusters: dict[str, Cluster], artifacts: Path, seconds: float) -> None:
    """Print the table of whole services."""
    measure = Measure(clicks_for(artifacts, None), seconds, 0, CALLERS, SESSIONS)
    lines: list[Line] = []
    with ExitStack() as stack:
        for which, cluster in clusters.items():
            settings = {"NEXTCLICK_REDIS_URL": url_of(cluster), "NEXTCLICK_REDIS_TIMEOUT_SECONDS": "10"}
            running = stack.enter_context(service(artifacts, 1, **settings))
            lines.append(measure.recommendations(f"{ALONE}, {which}", running))
            lines.append(measure.closed_loop(f"{MIXED}, {which}", running))
        runs = measured(lines)
    print("| requests | single Redis, µs | three masters, µs | ratio |\n|---|---|---|---|")
    for what in (ALONE, MIXED):
        found = {
            which: [row.cpu_microseconds["service"] for row in runs[f"{what}, {which}"]] for which in clusters
        }
        if any(row.errors for which in clusters for row in runs[f"{what}, {which}"]):
            sys.exit(f"error: {what}: not every request was answered as it should be")
        one, three = median(found["single"]), median(found["cluster"])
        print(f"| {what} | {one:.1f} | {three:.1f} | {three / one:.2f} |")


async def measure_failover(cluster: Cluster, rounds: int) -> None:
    """Print a table."""
    settings = Settings(redis_url=cluster.url)
    keys = Keys(settings.redis_prefix)
    store = SessionStore(settings, cluster.url)
    cluster.set_node_timeout(QUICK_MS)
    print("| killed | cluster again, s | service again, s | behind, s |\n|---|---|---|---|")
    for number in range(rounds):
        session = f"s{number}"
        await store.append(session, Click("i1", time.time()))
        dead = cluster.owner(keys.session(keys.shard_of(session, settings.shards), session))
        replica = cluster.replica_of(dead)
        dead.kill()
        begin = time.perf_counter()

        async def cluster_is_whole(begin: float = begin, replica: Node = replica) -> float:
            living = [node for node in cluster.nodes if node.process.poll() is None]
            while not await asyncio.to_thread(
                lambda: replica.is_master() and all(node.info()["cluster_state"] == "ok" for node in living)
            ):
                await asyncio.sleep(0.01)
            return time.perf_counter() - begin

        async def is_acknowledged(begin: float = begin, session: str = session) -> float:
            while True:
                try:
                    await store.append(session, Click("i2", time.time()))
                except StoreUnavailable:
                    await asyncio.sleep(0.01)
                else:
                    return time.perf_counter() - begin

        whole, service_ = await asyncio.gather(cluster_is_whole(), is_acknowledged())
        print(f"| {dead.port} | {whole:.2f} | {service_:.2f} | {service_ - whole:+.2f} |", flush=True)
        dead.start()
        while not (dead.answers() and cluster.is_whole()):
            await asyncio.sleep(0.1)
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=4000, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", help="one of the calls, by its name")
    parser.add_argument("--artifacts", type=Path, help="with a bundle to serve")
    parser.add_argument("--failover", action="store_true", help="--rounds times")
    parser.add_argument("--seconds", type=float, default=30.0, help="a served line's run takes a third of it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        if options.failover:
            with (
                running_cluster(Path(directory)) as cluster,
                asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            ):
                runner.run(measure_failover(cluster, options.rounds))
            return
        artifacts = Path(directory) / "artifacts"
        artifacts.mkdir()
        Shop.make().write(artifacts, "v1")
        publish(artifacts, "v1")
        with (
            running_cluster(Path(directory) / "single", masters=1, with_replicas=False) as single,
            running_cluster(Path(directory) / "cluster", with_replicas=False) as cluster,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            clusters = {"single": single, "cluster": cluster}
            if options.artifacts is not None:
                measure_served(clusters, options.artifacts, options.seconds)
            else:
                runner.run(measure(clusters, artifacts, options))


if __name__ == "__main__":
    main()
