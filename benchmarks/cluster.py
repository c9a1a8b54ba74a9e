"""What a Redis Cluster costs the service: processor time of its own per call, beside a single Redis.

    python -m benchmarks.cluster

Both are real processes on this machine, three masters without replicas and one Redis alike. 16 callers ask in
a closed loop; rounds alternate, so that what else the machine does falls on both. Told is the time of this
process, which is the client, not that of Redis: the median over rounds, and the ratio of the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import httpx
import uvloop

from service.http.app import create_app
from service.live.deployment import publish
from service.process.settings import Settings
from service.recommender import Options
from service.state.store import Click
from tests.service.bundles import Shop
from tests.service.state.cluster import Cluster, running_cluster

CALLERS, SESSIONS = 16, 2000

Call = Callable[[int], Awaitable[object]]


@asynccontextmanager
async def calls_of(cluster: Cluster, artifacts: Path) -> AsyncIterator[dict[str, Call]]:
    """What is measured, by name."""
    single = cluster.url if len(cluster.masters) > 1 else f"redis://127.0.0.1:{cluster.masters[0].port}"
    settings = Settings(
        artifacts_dir=artifacts,
        redis_url=single,
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=4000, help="in a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", action="append", help="one of the calls, by its name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        artifacts = Path(directory) / "artifacts"
        artifacts.mkdir()
        Shop.make().write(artifacts, "v1")
        publish(artifacts, "v1")
        with (
            running_cluster(Path(directory) / "single", masters=1, with_replicas=False) as single,
            running_cluster(Path(directory) / "cluster", with_replicas=False) as cluster,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(measure({"single": single, "cluster": cluster}, artifacts, options))


if __name__ == "__main__":
    main()
