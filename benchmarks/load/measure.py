"""Each line of the table: which requests go where, in which loop, three times."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, repeat

import uvloop

from benchmarks.load.client import GOOD
from benchmarks.load.loops import Seen, closed_loop, open_loop
from benchmarks.load.processes import CpuMeter, Running
from benchmarks.load.report import Row
from benchmarks.load.traffic import (
    Request,
    Session,
    click,
    due_times,
    interleave,
    recommend,
    visits,
)

RUNS = 3
RAMP_SHARE = 1 / 6  # of the time that is measured
CLOSED_SHARE = 1 / 3  # of an open loop's time: a closed one has many more requests in a second
MAX_PER_SECOND = 20_000  # more than this load generator can send
STORE_SECONDS = 60.0

Clicks = Callable[[int], Iterator[list[str]]]  # sessions without end, by seed


@dataclass(frozen=True)
class Line:
    """A line of the table, and how to make one run of it, by its number."""

    what: str
    run: Callable[[int], Coroutine[None, None, Seen]]


@dataclass(frozen=True)
class Measure:
    """How all of it is measured."""

    clicks: Clicks
    seconds: float  # of an open loop, behind its ramp
    rate: float
    shoppers: int  # in a closed loop
    stored_sessions: int  # that recommendations alone are asked for

    def open_loop(self, what: str, running: Running) -> Line:
        """Clicks and recommendations, half and half, at a fixed rate."""
        ramp_seconds = self.seconds * RAMP_SHARE
        due = due_times(self.rate, self.seconds, ramp_seconds)

        async def run(number: int) -> Seen:
            plan = interleave(visits(self.clicks(number), f"open-{number}"), len(due), seed=number)
            return await open_loop(running.port, plan, due, ramp_seconds, CpuMeter(*running.pids).read)

        return Line(what, run)

    def closed_loop(self, what: str, running: Running) -> Line:
        """The same requests, each shopper's next one at the answer."""

        async def run(number: int) -> Seen:
            return await self._closed(running, visits(self.clicks(number), f"closed-{number}"))

        return Line(what, run)

    def recommendations(self, what: str, running: Running) -> Line:
        """Closed loop: recommendations of sessions that are stored first. Its run raises `RuntimeError`."""

        async def run(number: int) -> Seen:
            return await self._closed(running, cycle(await self._stored(what, running, number)))

        return Line(what, run)

    def recommendations_at_rate(self, what: str, running: Running) -> Line:
        """The same in an open loop."""
        ramp_seconds = self.seconds * RAMP_SHARE
        due = due_times(self.rate, self.seconds, ramp_seconds)

        async def run(number: int) -> Seen:
            plan = interleave(cycle(await self._stored(what, running, number)), len(due), seed=number)
            return await open_loop(running.port, plan, due, ramp_seconds, CpuMeter(*running.pids).read)

        return Line(what, run)

    def same(self, what: str, running: Running, request: Request) -> Line:
        """Closed loop: one request again and again."""

        async def run(_: int) -> Seen:
            return await self._closed(running, repeat([request]))

        return Line(what, run)

    async def _stored(self, what: str, running: Running, number: int) -> list[Session]:
        names = [f"stored-{number}-{session}" for session in range(self.stored_sessions)]
        clicked = [
            [click(name, item_id) for item_id in item_ids]
            for name, item_ids in zip(names, self.clicks(number), strict=False)
        ]
        read_cpu = CpuMeter(*running.pids).read
        seen = await closed_loop(running.port, clicked, self.shoppers, STORE_SECONDS, 0, read_cpu)
        if len(seen.outcome) < sum(map(len, clicked)) or (seen.outcome != GOOD).any():
            raise RuntimeError(f"{what}: not every click could be stored: {'; '.join(seen.complaints)}")
        return [[recommend(name)] for name in names]

    async def _closed(self, running: Running, sessions: Iterator[Session]) -> Seen:
        seconds = self.seconds * CLOSED_SHARE
        ramp_seconds = seconds * RAMP_SHARE
        left = MAX_PER_SECOND * (seconds + ramp_seconds)
        prepared = []
        while left > 0:
            prepared.append(next(sessions))
            left -= len(prepared[-1])
        read_cpu = CpuMeter(*running.pids).read
        return await closed_loop(running.port, prepared, self.shoppers, seconds, ramp_seconds, read_cpu)


def measured(lines: Sequence[Line]) -> dict[str, list[Row]]:
    """The runs of each line, by turns: what else the machine does meanwhile meets all lines alike."""
    rows: dict[str, list[Row]] = {line.what: [] for line in lines}
    for number in range(RUNS):
        for line in lines:
            row = Row.of(line.what, once(line, number))
            rows[line.what].append(row)
            told = f"{row.per_second:,.0f}/s, p90 {row.milliseconds.get('p90', float('nan')):.2f} ms"
            told += f", {row.errors} errors, {row.shed} shed"
            print(f"run {number + 1} of {RUNS}, {line.what}: {told}", file=sys.stderr)
    return rows


def once(line: Line, number: int) -> Seen:
    """One run of a line, on an event loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(line.run(number))
