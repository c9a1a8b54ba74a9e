"""One row of the table: a service under load on some kind of disk, its kills, and what is left at the end."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from redis import Redis

from benchmarks.chaos.ledger import Audit, logged
from benchmarks.chaos.shoppers import Connection, Tally, shop
from benchmarks.chaos.victims import Kill, Service
from service.process.embedded_redis import EmbeddedRedis

PAUSE_SECONDS = 0.01
LOOK_SECONDS = 0.02
STUCK_SECONDS = 120.0  # without what is waited for
LAST_SECONDS = 20.0
SLOW_SECONDS = 10.0  # a kill waits no longer where answers are slow
FULL_ANSWERS = 30  # on a full disk before its kill, and after


@dataclass(frozen=True)
class Disk:
    """What kind of disk there is; while the file `full` exists, it is full."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    full: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    kills: Counter[str]
    tally: Tally
    audit: Audit
    seconds: float
    stuck: str = ""  # what was waited for in vain

    @property
    def failed(self) -> bool:
        """Where nothing was acknowledged, nothing could be lost, and nothing is shown."""
        good = not (self.audit.lost or self.audit.doubled or self.tally.short or self.stuck)
        return not (good and self.tally.acknowledged)


class StuckError(RuntimeError):
    """What was waited for did not come."""


async def run(
    service: Service, disk: Disk, kills: Sequence[Kill], items: Sequence[str], shoppers: int
) -> Outcome:
    """Shoppers shop, processes die; at the end all of them, and the click log is counted."""
    begin, done, stuck = time.monotonic(), Counter[str](), ""
    try:
        async with Load(service, items, shoppers) as load:
            await kill_all(service, disk, kills, load.tally, done)
    except StuckError as error:
        stuck = str(error)
        print(f"{disk.name}: {stuck}; the service wrote: {service.wrote()}", file=sys.stderr)
    finally:
        if disk.full is not None:
            disk.full.unlink(missing_ok=True)
        service.end()
    with EmbeddedRedis(service.own / "redis") as server, Redis.from_url(server.url) as client:
        audit = Audit.of(load.tally.acknowledged, logged(client))
    return Outcome(done, load.tally, audit, time.monotonic() - begin, stuck)


async def kill_all(
    service: Service, disk: Disk, kills: Sequence[Kill], tally: Tally, done: Counter[str]
) -> None:
    """One kill after the other, each after so many more answers. Raises `StuckError`."""
    rng = random.Random(disk.name)
    for kill in kills:
        await answers(tally, kill.after_answers)
        if disk.full is not None:
            disk.full.touch()
            await answers(tally, FULL_ANSWERS)
        await until(partial(service.kill, kill.kind, rng), f"a process of kind {kill.kind!r}")
        done[kill.kind] += 1
        if disk.full is not None:
            await answers(tally, FULL_ANSWERS)
            disk.full.unlink()
    await answers(tally, FULL_ANSWERS)


async def until(
    condition: Callable[[], bool],
    what: str,
    progress: Callable[[], int] = lambda: 0,
    seconds: float = STUCK_SECONDS,
) -> None:
    """Wait for something, as long as there is progress. Raises `StuckError`."""
    seen, deadline = progress(), time.monotonic() + seconds
    while not condition():
        if (now := progress()) != seen:
            seen, deadline = now, time.monotonic() + seconds
        if time.monotonic() > deadline:
            raise StuckError(f"{what}: nothing came for {seconds:g} s")
        await asyncio.sleep(LOOK_SECONDS)


async def answers(tally: Tally, count: int) -> None:
    """Let so many more requests be answered, or some where that takes too long. Raises `StuckError`."""
    begin, before = time.monotonic(), tally.answers

    def enough() -> bool:
        more = tally.answers - before
        return more >= count or (more > 0 and time.monotonic() - begin > SLOW_SECONDS)

    await until(enough, f"{count} answers", lambda: tally.answers)


class Load:
    """Shoppers, and the service that is kept running for them; an async context manager."""

    def __init__(
        self, service: Service, items: Sequence[str], shoppers: int, pause_seconds: float = PAUSE_SECONDS
    ) -> None:
        self.tally = Tally()
        self._service = service
        self._going_on = True
        self._connections = [Connection(service.port) for _ in range(shoppers)]
        self._items, self._pause = items, partial(asyncio.sleep, pause_seconds)
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._running = asyncio.create_task(self._service.keep_running())
        self._tasks = [
            asyncio.create_task(
                shop(
                    each.ask,
                    self.tally,
                    f"shopper-{number}",
                    self._items,
                    lambda: self._going_on,
                    self._pause,
                )
            )
            for number, each in enumerate(self._connections)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the last clicks be acknowledged; those that are refused and refused are given up."""
        self._going_on = False
        with suppress(StuckError):
            await until(
                lambda: all(task.done() for task in self._tasks),
                "the last clicks' acknowledgement",
                lambda: len(self.tally.acknowledged),
                LAST_SECONDS,
            )
        for task in (*self._tasks, self._running):
            task.cancel()
        ends = await asyncio.gather(*self._tasks, self._running, return_exceptions=True)
        for connection in self._connections:
            connection.close()
        for end in ends:
            if isinstance(end, Exception):  # what a shopper died of
                raise end
