"""Open loop: requests come when they are due, whatever becomes of others. Closed loop: shoppers wait.

The ramp that either begins with is not counted. What is unanswered after a while counts as failed.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.load.client import Client, Look
from benchmarks.load.clock import MACHINE, Clock
from benchmarks.load.processes import Cpu
from benchmarks.load.traffic import Plan, Request, Session

ANSWER_SECONDS = 10.0  # at most, behind the end of what is sent
TICK_SECONDS = 0.001  # the event loop's own resolution
CONNECTION_SECONDS = 0.1  # how many seconds' requests find an open connection if none is answered
MIN_AT_START, MAX_AT_START = 8, 400  # connections

Times = npt.NDArray[np.float64]
ReadCpu = Callable[[], Cpu]


@dataclass(frozen=True)
class Seen:
    """The requests that count, one row each in the arrays."""

    start: float  # by the clock
    due: Times  # seconds after the start
    late: Times  # seconds from there until it went out
    took: Times  # seconds from when it was due until it was answered
    outcome: npt.NDArray[np.uint8]
    seconds: float  # from the first that was due until the last answer
    cpu: Cpu  # used meanwhile
    complaints: list[str]


async def open_loop(
    port: int,
    plan: Plan,
    due: Times,
    ramp_seconds: float,
    read_cpu: ReadCpu,
    look: Look | None = None,
    clock: Clock = MACHINE,
) -> Seen:
    """Send each of a plan's requests when it is due, but never before the session's last one was answered.

    A request's time counts from when it was due: one that a slow answer held up has waited since.
    """
    finished = asyncio.Event()
    n_requests, n_due, n_left = len(due), 0, len(due)
    held = bytearray(n_requests)
    due_seconds = due.tolist()

    def answered(number: int) -> None:
        nonlocal n_left
        n_left -= 1
        if not n_left:
            finished.set()
        following = plan.after[number]
        if following >= 0 and held[following]:
            client.send(following)

    def tick() -> None:
        nonlocal n_due
        now = clock.now() - start
        while n_due < n_requests and due_seconds[n_due] <= now:
            before = plan.before[n_due]
            if before < 0 or client.outcome[before]:
                client.send(n_due)
            else:
                held[n_due] = True
            n_due += 1
        if n_due < n_requests:
            clock.call_later(max(TICK_SECONDS, due_seconds[n_due] - now), tick)

    client = Client(port, plan.requests, answered, look, clock)
    rate = (due >= ramp_seconds).sum() / (due[-1] - ramp_seconds + TICK_SECONDS)
    await client.connect(min(MAX_AT_START, max(MIN_AT_START, round(rate * CONNECTION_SECONDS))))
    with _undisturbed():
        start = clock.now()
        reading = _read_later(ramp_seconds, read_cpu, clock)
        tick()
        clock.call_later(
            float(due[-1]) + ANSWER_SECONDS, finished.set
        )  # what is unanswered then will be counted
        await finished.wait()
        cpu = read_cpu() - await reading
    return await _seen(client, start, start + due, due >= ramp_seconds, cpu)


async def closed_loop(
    port: int,
    sessions: Sequence[Session],
    concurrency: int,
    seconds: float,
    ramp_seconds: float,
    read_cpu: ReadCpu,
    clock: Clock = MACHINE,
) -> Seen:
    """Several shoppers who send a session's next request at the answer, and then go on with the next session.

    They arrive one by one during the ramp. When no session is left, the loop ends before its time.
    """
    finished = asyncio.Event()
    requests: list[Request] = [request for session in sessions for request in session]
    ends = np.cumsum([len(session) for session in sessions]).tolist()
    last = bytearray(len(requests))
    for end in ends:
        last[end - 1] = True
    begins = iter([0, *ends[:-1]])
    n_shoppers = concurrency

    def answered(number: int) -> None:
        nonlocal n_shoppers
        following = -1
        if clock.now() < start + ramp_seconds + seconds:
            # Number -1 is nobody's: a shopper arrives.
            following = next(begins, -1) if number < 0 or last[number] else number + 1
        if following >= 0:
            client.send(following)
            return
        n_shoppers -= 1
        if not n_shoppers:
            finished.set()

    client = Client(port, requests, answered, clock=clock)
    await client.connect(concurrency)
    with _undisturbed():
        start = clock.now()
        reading = _read_later(ramp_seconds, read_cpu, clock)
        for shopper in range(concurrency):
            clock.call_later(ramp_seconds * shopper / concurrency, answered, -1)
        clock.call_later(ramp_seconds + seconds + ANSWER_SECONDS, finished.set)
        await finished.wait()
        cpu = read_cpu() - await reading
    sent = np.array(client.sent)
    return await _seen(client, start, sent, sent >= start + ramp_seconds, cpu)


async def _seen(client: Client, start: float, due: Times, counts: npt.NDArray[np.bool_], cpu: Cpu) -> Seen:
    """All times are those of the clock."""
    outcome = np.frombuffer(bytes(client.outcome), np.uint8)[counts]
    sent, answered = np.array(client.sent)[counts], np.array(client.answered)[counts]
    await client.close()
    due = due[counts]
    seconds = float(answered.max() - due.min()) if len(due) else 0.0
    return Seen(start, due - start, sent - due, answered - due, outcome, seconds, cpu, client.complaints)


def _read_later(seconds: float, read_cpu: ReadCpu, clock: Clock) -> asyncio.Future[Cpu]:
    read = asyncio.get_running_loop().create_future()
    clock.call_later(seconds, lambda: read.set_result(read_cpu()))
    return read


@contextmanager
def _undisturbed() -> Iterator[None]:
    """No garbage collection: it would look at every request that is prepared, for milliseconds."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
