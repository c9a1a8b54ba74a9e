"""Each line of the table: which requests go where, in which loop, three times."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import cycle, islice, repeat

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
STORED_SESSIONS = 1000  # that recommendations alone are asked for
STORE_SECONDS = 60.0

Clicks = Callable[[int], Iterator[list[str]]]  # sessions without end, by seed


@dataclass(frozen=True)
class Measure:
    """How all of it is measured."""

    clicks: Clicks
    seconds: float  # of an open loop, behind its ramp
    rate: float
    shoppers: int  # in a closed loop

    def open_loop(self, what: str, running: Running) -> list[Row]:
        """Clicks and recommendations, half and half, at a fixed rate."""
        ramp_seconds = self.seconds * RAMP_SHARE
        due = due_times(self.rate, self.seconds, ramp_seconds)
        meter = CpuMeter(*running.pids)

        def run(seed: int) -> Coroutine[None, None, Seen]:
            plan = interleave(visits(self.clicks(seed), f"open-{seed}"), len(due), seed)
            return open_loop(running.port, plan, due, ramp_seconds, meter.read)

        return _three(what, run)

    def closed_loop(self, what: str, running: Running) -> list[Row]:
        """The same requests, each shopper's next one at the answer."""

        def run(seed: int) -> Coroutine[None, None, Seen]:
            return self._closed(running, visits(self.clicks(seed), f"closed-{seed}"))

        return _three(what, run)

    def recommendations(self, what: str, running: Running) -> list[Row]:
        """Closed loop: recommendations of sessions that were stored before. Raises `RuntimeError`."""
        clicked = list(islice(self.clicks(RUNS), STORED_SESSIONS))
        stored = [
            [click(f"stored-{number}", item_id) for item_id in item_ids]
            for number, item_ids in enumerate(clicked)
        ]
        meter = CpuMeter(*running.pids)
        seen = _run(closed_loop(running.port, stored, self.shoppers, STORE_SECONDS, 0, meter.read))
        if len(seen.outcome) < sum(map(len, stored)) or (seen.outcome != GOOD).any():
            raise RuntimeError(f"{what}: not every click could be stored: {'; '.join(seen.complaints)}")
        return self.same(what, running, [recommend(f"stored-{number}") for number in range(len(stored))])

    def same(self, what: str, running: Running, requests: list[Request]) -> list[Row]:
        """Closed loop: these requests again and again."""
        sessions: list[Session] = [[request] for request in requests]
        return _three(what, lambda _: self._closed(running, cycle(sessions)))

    def warm_up(self, running: Running, request: Request) -> None:
        """Closed loop, not counted: for what compiles itself while it runs."""
        _run(self._closed(running, repeat([request])))

    def _closed(self, running: Running, sessions: Iterator[Session]) -> Coroutine[None, None, Seen]:
        seconds = self.seconds * CLOSED_SHARE
        ramp_seconds = seconds * RAMP_SHARE
        left = MAX_PER_SECOND * (seconds + ramp_seconds)
        prepared = []
        while left > 0:
            prepared.append(next(sessions))
            left -= len(prepared[-1])
        meter = CpuMeter(*running.pids)
        return closed_loop(running.port, prepared, self.shoppers, seconds, ramp_seconds, meter.read)


def _three(what: str, run: Callable[[int], Coroutine[None, None, Seen]]) -> list[Row]:
    rows = []
    for seed in range(RUNS):
        rows.append(Row.of(what, _run(run(seed))))
        row = rows[-1]
        told = f"{row.per_second:,.0f}/s, p90 {row.milliseconds.get('p90', float('nan')):.2f} ms"
        print(
            f"{what}, run {seed + 1} of {RUNS}: {told}, {row.errors} errors, {row.shed} shed", file=sys.stderr
        )
    return rows


def _run(loop: Coroutine[None, None, Seen]) -> Seen:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(loop)
