"""The load generator against a server that stalls, sheds, lies and breaks off; tests move the clock on."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.load.loops import ANSWER_SECONDS, Seen, closed_loop, open_loop
from benchmarks.load.processes import CpuMeter
from benchmarks.load.report import Row
from benchmarks.load.traffic import Plan, Request, due_times, get, interleave, recommend
from tests.benchmarks.clock import FakeClock
from tests.benchmarks.servers import response, server

pytestmark = pytest.mark.anyio

TWENTY = b"[" + b'{"item_id":"i"},' * 20 + b"]"
STEP = 1 / 128  # seconds
read_cpu = CpuMeter().read


def alone(requests: list[Request]) -> Plan:
    """Each request is a session of its own."""
    return Plan(requests, [-1] * len(requests), [-1] * len(requests))


def every_step(n: int) -> npt.NDArray[np.float64]:
    """When so many requests are due."""
    return np.array([number * STEP for number in range(n)])


async def ask(answer: Callable[[str], Awaitable[bytes]], *requests: Request, never_answered: int = 0) -> Seen:
    """Each request once. A step of time passes when one arrives, and so the next one falls due.

    Of those that are `never_answered`, the clock runs out once all others are.
    """
    clock = FakeClock()
    left = len(requests) - never_answered

    async def arrived(path: str) -> bytes:
        clock.pass_by(STEP)
        return await answer(path)

    def look(number: int, body: bytes) -> None:
        nonlocal left
        left -= 1
        if not left and never_answered:
            clock.pass_by(ANSWER_SECONDS + STEP)

    due = every_step(len(requests))
    async with server(arrived) as port:
        return await open_loop(port, alone(list(requests)), due, 0, read_cpu, look, clock)


async def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile() -> None:
    n, sessions, stall, stall_seconds = 100, 10, 40, 30 * STEP
    due = every_step(n)
    # Sessions in turn, so that most of what is due in the stall cannot even be sent.
    before, after = [max(-1, i - sessions) for i in range(n)], [*range(sessions, n), *[-1] * sessions]
    plan = Plan([get(f"/{i}") for i in range(n)], before, after)
    clock, over = FakeClock(), asyncio.Event()

    async def answer(path: str) -> bytes:
        if path == f"/{stall}":
            clock.pass_by(stall_seconds)
            over.set()
        if int(path[1:]) >= stall:
            await over.wait()
        return response()

    def look(number: int, body: bytes) -> None:
        """Time passes with the answers."""
        if number + 1 < n:
            clock.pass_until(due[number + 1])

    async with server(answer) as port:
        seen = await open_loop(port, plan, due, 0, read_cpu, look, clock)
    assert Row.of("stall", seen).errors == 0
    assert (seen.took[:stall] == 0).all()
    assert seen.took[stall] == stall_seconds
    assert (seen.took[stall:] >= stall_seconds - (due[stall:] - due[stall])).all(), "the rest of the stall"


async def test_a_session_goes_on_only_after_its_last_answer() -> None:
    sessions = iter([[get(f"/{session}/{n}") for n in range(12)] for session in range(100)])
    due = every_step(400)
    plan = interleave(sessions, len(due), seed=1)
    arrived: dict[str, list[int]] = defaultdict(list)
    clock = FakeClock()

    async def answer(path: str) -> bytes:
        _, session, number = path.split("/")
        arrived[session].append(int(number))
        clock.pass_by(2 * STEP)  # and so two more fall due before it is answered
        return response()

    async with server(answer) as port:
        seen = await open_loop(port, plan, due, 0, read_cpu, clock=clock)
    assert Row.of("order", seen).errors == 0
    assert sum(map(len, arrived.values())) == len(due)
    assert all(numbers == list(range(len(numbers))) for numbers in arrived.values())
    followers = [number for number in range(len(due)) if plan.before[number] >= 0]
    sent, answered = seen.due + seen.late, seen.due + seen.took
    assert all(sent[number] >= answered[plan.before[number]] for number in followers)
    assert any(seen.late[number] > 0 for number in followers), "some were held up"
    assert (seen.took >= seen.late).all(), "and have waited since they were due"


async def test_what_is_shed_is_no_error() -> None:
    statuses = iter([200, 429, 200, 503] * 5)

    async def answer(_: str) -> bytes:
        status = next(statuses)
        headers = "connection: close\r\n" if status == 503 else ""
        return response(status, TWENTY if status == 200 else b"busy", headers)

    row = Row.of("shed", await ask(answer, *[recommend("s")] * 20))
    assert (row.requests, row.shed, row.errors) == (20, 10, 0)
    assert row.milliseconds
    assert row.shed_milliseconds


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (response(200, b"[" + b'{"item_id":"i"},' * 19 + b"]"), "status 200, 19 items"),
        (response(200, b'{"degraded":true,"items":' + TWENTY + b"}"), '"degraded":true'),
        (response(500, TWENTY), "status 500"),
        (response(404, b"unknown"), "status 404, 0 items: b'unknown'"),
        (b"", "the connection was lost"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "no answer"),
        (b"HTTP/1.1 200 OK\r\n\r\nabc", "without content-length"),
        (response(200, TWENTY) + b"more", "more was received"),
    ],
    ids=[
        "too few items",
        "degraded",
        "failed",
        "unknown",
        "broken off",
        "too short",
        "without length",
        "too long",
    ],
)
async def test_a_wrong_answer_is_an_error_and_the_others_go_on(content: bytes, complaint: str) -> None:
    async def answer(path: str) -> bytes:
        return content if "bad" in path else response(200, TWENTY)

    requests = [recommend("s"), recommend("bad"), *[recommend("s")] * 9]
    seen = await ask(answer, *requests, never_answered=int(complaint == "no answer"))
    row = Row.of("wrong", seen)
    assert (row.requests, row.errors, row.shed) == (11, 1, 0)
    assert complaint in str(row.complaints)


async def test_what_is_never_answered_is_an_error() -> None:
    async def answer(path: str) -> bytes:
        if path == "/never":
            await asyncio.Event().wait()
        return response()

    row = Row.of("never", await ask(answer, get("/a"), get("/never"), get("/b"), never_answered=1))
    assert (row.requests, row.errors) == (3, 1)


async def test_requests_go_out_however_many_are_not_answered_yet() -> None:
    arrived, everyone = [], asyncio.Event()

    async def answer(path: str) -> bytes:
        arrived.append(path)
        if len(arrived) == 50:
            everyone.set()
        await everyone.wait()
        return response()

    row = Row.of("waiting", await ask(answer, *[get("/")] * 50))
    assert (len(arrived), row.errors) == (50, 0), "more than there are connections at the start"


async def test_a_closed_loop_keeps_so_many_requests_on_their_way() -> None:
    sessions = [[get(f"/{session}/{n}") for n in range(3)] for session in range(20)]
    arrived: list[str] = []
    waiting: list[asyncio.Event] = []
    clock = FakeClock()

    async def answer(path: str) -> bytes:
        arrived.append(path)
        answered = asyncio.Event()
        waiting.append(answered)
        if len(waiting) == 4:
            clock.pass_by(STEP)
            for event in waiting:
                event.set()
            waiting.clear()
        await answered.wait()
        return response()

    async with server(answer) as port:
        seen = await closed_loop(
            port, sessions, 4, seconds=30, ramp_seconds=0, read_cpu=read_cpu, clock=clock
        )
    assert (seen.outcome == 1).sum() == 60, "it ends when no session is left"
    on_their_way = [((seen.due <= sent) & (sent < seen.due + seen.took)).sum() for sent in seen.due]
    assert set(on_their_way) == {4}
    assert sorted(arrived) == sorted(f"/{session}/{n}" for session in range(20) for n in range(3))
    for session in range(20):
        assert [path for path in arrived if path.startswith(f"/{session}/")] == [
            f"/{session}/{n}" for n in range(3)
        ]


async def test_the_ramp_of_an_open_loop_is_not_counted() -> None:
    async def answer(_: str) -> bytes:
        clock.pass_by(8 * STEP)
        return response()

    clock = FakeClock()
    due = due_times(rate=128, seconds=0.25, ramp_seconds=0.25)
    async with server(answer) as port:
        seen = await open_loop(port, alone([get("/")] * len(due)), due, 0.25, read_cpu, clock=clock)
    assert (len(due), len(seen.due)) == (48, 32)
    assert seen.due.min() == 0.25


async def test_the_ramp_of_a_closed_loop_is_not_counted() -> None:
    """Each request takes a step of time: that many are sent by the only shopper in the ramp, and after."""
    arrived = []

    async def answer(path: str) -> bytes:
        arrived.append(path)
        clock.pass_by(STEP)
        return response()

    clock = FakeClock()
    async with server(answer) as port:
        seen = await closed_loop(
            port, [[get("/")]] * 100, 1, 16 * STEP, ramp_seconds=8 * STEP, read_cpu=read_cpu, clock=clock
        )
    assert (len(arrived), len(seen.due)) == (24, 16), "it ends when its time is over"
    assert seen.due.min() == 8 * STEP


async def test_shoppers_arrive_one_by_one_during_the_ramp() -> None:
    clock, arrived_at = FakeClock(), list[float]()
    everyone = asyncio.Event()

    async def answer(_: str) -> bytes:
        arrived_at.append(clock.now())
        clock.pass_by(4 * STEP)
        if len(arrived_at) == 4:
            everyone.set()
        await everyone.wait()
        return response()

    async with server(answer) as port:
        await closed_loop(
            port, [[get("/")]] * 4, 4, STEP, ramp_seconds=16 * STEP, read_cpu=read_cpu, clock=clock
        )
    assert arrived_at == [0, 4 * STEP, 8 * STEP, 12 * STEP]
