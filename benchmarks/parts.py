"""Where the microseconds of a recommendation go: processor time by part, and what is the least of it.

    python -m benchmarks.parts --artifacts artifacts --data artifacts/data/diginetica

As many copies of the application as workers do the same at the same moment, since they share the cores' units
and caches; each has as many requests under way as a worker has in `benchmarks.load --closed 16`. A part is
measured by calling it alone, the whole by a closed loop over HTTP. The floor is what nobody can leave out:
HTTP that does nothing, a round trip to Redis, one run of the encoder and one search.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import mean

import uvloop
from fastapi import FastAPI
from rich.console import Console
from rich.table import Table
from starlette.types import Message

from benchmarks.load.__main__ import add_sessions_option, clicks_for, live_bundle
from benchmarks.load.measure import Measure, measured
from benchmarks.load.processes import service
from benchmarks.load.report import hardware, middle
from benchmarks.load.traffic import get
from benchmarks.servers import ours
from service.http.app import create_app
from service.process.embedded_redis import EmbeddedRedis
from service.process.settings import Settings
from service.ranking.bundle import read_manifest
from service.ranking.served import Query
from service.recommender import Options, Recommender
from service.state.store import Click, SessionStore

ROUNDS = 5  # of each part, all parts by turns; the middle one counts
TOP = 20

Costs = dict[str, float]  # microseconds of processor time for one recommendation


class Copy:
    """One application, and its parts: each is called with the number of a session, or of several."""

    def __init__(self, app: FastAPI, names: Sequence[str], at_once: int) -> None:
        self.app = app
        self.names = names
        self.at_once = at_once
        self.store: SessionStore = app.state.store
        self.recommender: Recommender = app.state.recommender
        model = app.state.follower.current.champion
        assert model is not None
        self.model = model

    async def fill(self, clicks: Sequence[Sequence[str]]) -> None:
        """Store the sessions, and keep what the parts are called with."""
        for name, item_ids in zip(self.names, clicks, strict=True):
            for item_id in item_ids:
                await self.store.append(name, Click(item_id, time.time()))
        index_of = self.model.bundle.index_of
        length = self.model.ranker.max_length
        known = [[index_of[i] for i in item_ids if i in index_of][-length:] or [1] for item_ids in clicks]
        self.batches = [known[at : at + self.at_once] for at in range(0, len(known), self.at_once)]
        self.vectors = [self.model.bundle.encoder.encode(batch) for batch in self.batches]

    async def round_trip(self, _: int) -> None:
        await self.store.ping()

    async def read(self, number: int) -> None:
        await self.store.read(self.names[number])

    async def recommend(self, number: int) -> None:
        await self.recommender.recommend(self.names[number], Options())

    async def request(self, number: int) -> None:
        """The whole application, but no HTTP."""
        status = 0

        async def receive() -> Message:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/recommend",
            "raw_path": b"/recommend",
            "query_string": b"session_id=" + self.names[number].encode(),
            "headers": [(b"host", b"x")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "scheme": "http",
            "root_path": "",
            "http_version": "1.1",
        }
        await self.app(scope, receive, send)
        if status != 200:
            raise RuntimeError(f"status {status}")

    def encode(self, number: int) -> None:
        self.model.bundle.encoder.encode(self.batches[number % len(self.batches)])

    def search(self, number: int) -> None:
        vectors = self.vectors[number % len(self.vectors)]
        self.model.bundle.retriever.search_each(vectors, [TOP] * len(vectors), [()] * len(vectors))

    def rank(self, number: int) -> None:
        """Encode, search and name the items."""
        self.model.rank([Query(items, TOP, ()) for items in self.batches[number % len(self.batches)]])


async def each(call: Callable[[int], Awaitable[None]], sessions: int, at_once: int, seconds: float) -> float:
    """Microseconds of a call for one of so many sessions, with so many under way."""
    numbers, done = itertools.cycle(range(sessions)), 0
    began, until = time.process_time(), time.perf_counter() + seconds

    async def again() -> None:
        nonlocal done
        while True:  # once at least, however slow the machine is
            await call(next(numbers))
            done += 1
            if time.perf_counter() >= until:
                return

    await asyncio.gather(*(again() for _ in range(at_once)))
    return 1e6 * (time.process_time() - began) / done


def batched(call: Callable[[int], None], at_once: int, seconds: float) -> float:
    """Microseconds of one of the sessions that a call takes together."""
    done, began, until = 0, time.process_time(), time.perf_counter() + seconds
    while not done or time.perf_counter() < until:
        call(done)
        done += 1
    return 1e6 * (time.process_time() - began) / (done * at_once)


async def costs(settings: Settings, barrier: Barrier, options: argparse.Namespace, number: int) -> Costs:
    """What one copy measures, all copies the same at a time."""
    app = create_app(settings)
    at_once = max(1, options.closed // options.workers)
    clicks = itertools.islice(clicks_for(options.artifacts, options.data)(number), options.sessions)
    async with app.router.lifespan_context(app):
        copy = Copy(app, [f"copy-{number}-{session}" for session in range(options.sessions)], at_once)
        await copy.fill(list(clicks))
        found: dict[str, list[float]] = {}
        for _ in range(1 + ROUNDS):
            for call in (copy.round_trip, copy.read, copy.recommend, copy.request):
                barrier.wait()
                found.setdefault(call.__name__, []).append(
                    await each(call, options.sessions, at_once, options.seconds)
                )
            for work in (copy.encode, copy.search, copy.rank):
                barrier.wait()
                found.setdefault(work.__name__, []).append(batched(work, at_once, options.seconds))
    return {part: sorted(rounds[1:])[ROUNDS // 2] for part, rounds in found.items()}  # the first warms up


def run_copy(
    settings: Settings, barrier: Barrier, queue: Queue[Costs], options: argparse.Namespace, number: int
) -> None:
    """One copy, in a process of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        queue.put(runner.run(costs(settings, barrier, options, number)))


def in_copies(options: argparse.Namespace) -> Costs:
    """The mean over the copies."""
    spawn = multiprocessing.get_context("spawn")
    barrier, queue = spawn.Barrier(options.workers), spawn.Queue()
    with tempfile.TemporaryDirectory() as directory, EmbeddedRedis(Path(directory)) as redis:
        settings = Settings(
            artifacts_dir=options.artifacts, redis_url=redis.url, redis_timeout_seconds=5, log_level="warning"
        )
        copies = [
            spawn.Process(target=run_copy, args=(settings, barrier, queue, options, number), daemon=True)
            for number in range(options.workers)
        ]
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory  # metrics shall cost what they cost a worker
        try:
            for copy in copies:
                copy.start()
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
        found = [queue.get(timeout=600) for _ in copies]
        for copy in copies:
            copy.join()
    return {part: mean(copy[part] for copy in found) for part in found[0]}


def over_http(options: argparse.Namespace) -> Costs:
    """The whole as `benchmarks.load` measures it, and HTTP alone."""
    clicks = clicks_for(options.artifacts, options.data)
    measure = Measure(clicks, 3 * options.whole, 0, options.closed, options.sessions)
    with service(options.artifacts, options.workers) as whole, ours(options.workers) as nothing:
        runs = measured([measure.recommendations("whole", whole), measure.same("http", nothing, get("/"))])
    if any(row.errors for rows in runs.values() for row in rows):
        raise RuntimeError("some requests failed")
    return {what: middle(rows).cpu_microseconds["service"] for what, rows in runs.items()}


def lines(found: Costs) -> list[tuple[str, float, bool]]:
    """What, microseconds, and whether it belongs to the floor."""
    inside = found["http"] + found["request"]
    return [
        ("HTTP alone", found["http"], True),
        ("a round trip to Redis", found["round_trip"], True),
        ("one run of the encoder", found["encode"], True),
        ("one search", found["search"], True),
        (
            "items by name; encoder and search in turns",
            found["rank"] - found["encode"] - found["search"],
            False,
        ),
        ("the session read from the reply", found["read"] - found["round_trip"], False),
        (
            "stages, batching, and caches grown cold",
            found["recommend"] - found["read"] - found["rank"],
            False,
        ),
        ("route, validation, answer, metrics", found["request"] - found["recommend"], False),
        ("all at once, beyond these", found["whole"] - inside, False),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write it to benchmarks/parts.json among the artifacts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--artifacts", type=Path, default=Path("artifacts"))
    parser.add_argument("--data", type=Path, help="as for benchmarks.load")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--closed", type=int, default=16, help="requests under way, over all workers")
    parser.add_argument("--seconds", type=float, default=1, help="of each round of each part")
    parser.add_argument("--whole", type=float, default=10, help="seconds of each of the whole's three runs")
    add_sessions_option(parser)
    options = parser.parse_args(arguments)
    found = over_http(options) | in_copies(options)
    manifest = read_manifest(live_bundle(options.artifacts))
    machine = hardware()
    stated = ", ".join(f"{name} {value}" for name, value in machine.items())
    drawn = Table(
        title=f"{manifest.version}, {manifest.n_items:,} items, {options.workers} workers; {stated}"
    )
    for name in ("a recommendation", "µs", "floor, µs"):
        drawn.add_column(name, justify="left" if name == "a recommendation" else "right")
    for what, microseconds, is_floor in lines(found):
        drawn.add_row(what, f"{microseconds:,.0f}", f"{microseconds:,.0f}" if is_floor else "")
    floor = sum(microseconds for _, microseconds, is_floor in lines(found) if is_floor)
    drawn.add_row("the whole", f"{found['whole']:,.0f}", f"{floor:,.0f}")
    Console(width=120).print(drawn)
    file = options.artifacts / "benchmarks" / "parts.json"
    file.parent.mkdir(exist_ok=True)
    rounded = {part: round(microseconds, 1) for part, microseconds in found.items()}
    file.write_text(json.dumps({"machine": machine, "microseconds": rounded}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
