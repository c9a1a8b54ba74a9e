"""The load generator against a server that stalls, sheds, lies and breaks off."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import numpy as np
import pytest

from benchmarks.load import loops
from benchmarks.load.loops import Seen, closed_loop, open_loop
from benchmarks.load.processes import CpuMeter
from benchmarks.load.report import Row
from benchmarks.load.traffic import Plan, Request, due_times, get, interleave, recommend
from tests.benchmarks.servers import response, server

pytestmark = pytest.mark.anyio

TWENTY = b"[" + b'{"item_id":"i"},' * 20 + b"]"
read_cpu = CpuMeter().read


def alone(requests: list[Request]) -> Plan:
    """Each request is a session of its own."""
    return Plan(requests, [-1] * len(requests), [-1] * len(requests))


async def ask(port: int, *requests: Request) -> Seen:
    """Each request once, a hundredth of a second apart."""
    return await open_loop(port, alone(list(requests)), np.arange(len(requests)) / 100, 0, read_cpu)


async def test_a_stall_is_seen_by_every_request_that_was_due_meanwhile() -> None:
    due = due_times(rate=200, seconds=0.6, ramp_seconds=0)
    n, sessions = len(due), 10  # in turn, so that most of what is due in the stall cannot even be sent
    before, after = [max(-1, i - sessions) for i in range(n)], [*range(sessions, n), *[-1] * sessions]
    plan = Plan([get(f"/{i}") for i in range(n)], before, after)
    stall, over = 40, asyncio.Event()

    async def answer(path: str) -> bytes:
        if int(path[1:]) >= stall and not stalling:
            stalling.append(path)
            asyncio.get_running_loop().call_later(0.3, over.set)
        if stalling:
            await over.wait()
        return response()

    stalling: list[str] = []
    async with server(answer) as port:
        seen = await open_loop(port, plan, due, 0, read_cpu)
    assert Row.of("stall", seen).errors == 0
    waited = seen.took[stall:] - (0.3 - (due[stall:] - due[stall]))  # beyond the rest of the stall
    assert (waited >= -0.001).all()


async def test_a_session_goes_on_only_after_its_last_answer() -> None:
    sessions = iter([[get(f"/{session}/{n}") for n in range(12)] for session in range(100)])
    due = due_times(rate=2000, seconds=0.2, ramp_seconds=0)
    arrived: dict[str, list[int]] = defaultdict(list)
    busy: Counter[str] = Counter()

    async def answer(path: str) -> bytes:
        _, session, number = path.split("/")
        arrived[session].append(int(number))
        busy[session] += 1
        at_once.append(busy[session])
        await asyncio.sleep(0.01)
        busy[session] -= 1
        return response()

    at_once: list[int] = []
    async with server(answer) as port:
        seen = await open_loop(port, interleave(sessions, len(due), seed=1), due, 0, read_cpu)
    assert Row.of("order", seen).errors == 0
    assert max(at_once) == 1
    assert sum(map(len, arrived.values())) == len(due)
    assert all(numbers == list(range(len(numbers))) for numbers in arrived.values())
    assert seen.took.max() > 0.02, "a request that was held up has waited since it was due"


async def test_what_is_shed_is_no_error() -> None:
    statuses = iter([200, 429, 200, 503] * 5)

    async def answer(_: str) -> bytes:
        status = next(statuses)
        headers = "connection: close\r\n" if status == 503 else ""
        return response(status, TWENTY if status == 200 else b"busy", headers)

    async with server(answer) as port:
        row = Row.of("shed", await ask(port, *[recommend("s")] * 20))
    assert (row.requests, row.shed, row.errors) == (20, 10, 0)
    assert row.per_second == pytest.approx(10 / 0.2, rel=0.5)
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
async def test_a_wrong_answer_is_an_error_and_the_others_go_on(
    content: bytes, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops, "ANSWER_SECONDS", 0.5)

    async def answer(path: str) -> bytes:
        return content if "bad" in path else response(200, TWENTY)

    async with server(answer) as port:
        row = Row.of("wrong", await ask(port, recommend("s"), recommend("bad"), *[recommend("s")] * 9))
    assert (row.requests, row.errors, row.shed) == (11, 1, 0)
    assert complaint in str(row.complaints)


async def test_what_is_never_answered_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "ANSWER_SECONDS", 0.2)
    released = asyncio.Event()

    async def answer(path: str) -> bytes:
        if path == "/never":
            await released.wait()
        return response()

    async with server(answer) as port:
        row = Row.of("never", await ask(port, get("/a"), get("/never"), get("/b")))
        released.set()
    assert (row.requests, row.errors) == (3, 1)


async def test_requests_go_out_however_many_are_not_answered_yet() -> None:
    arrived, everyone = [], asyncio.Event()

    async def answer(path: str) -> bytes:
        arrived.append(path)
        if len(arrived) == 50:
            everyone.set()
        await everyone.wait()
        return response()

    async with server(answer) as port:
        row = Row.of("waiting", await ask(port, *[get("/")] * 50))
    assert (len(arrived), row.errors) == (50, 0), "five times as many as there are connections at the start"


async def test_a_closed_loop_keeps_so_many_requests_on_their_way() -> None:
    sessions = [[get(f"/{session}/{n}") for n in range(3)] for session in range(20)]
    arrived: list[str] = []
    on_their_way: list[int] = []
    now = 0

    async def answer(path: str) -> bytes:
        nonlocal now
        arrived.append(path)
        now += 1
        on_their_way.append(now)
        await asyncio.sleep(0.005)
        now -= 1
        return response()

    async with server(answer) as port:
        seen = await closed_loop(port, sessions, 4, seconds=30, ramp_seconds=0, read_cpu=read_cpu)
    assert (seen.outcome == 1).sum() == 60, "it ends when no session is left"
    assert max(on_their_way) == 4
    assert sorted(arrived) == sorted(f"/{session}/{n}" for session in range(20) for n in range(3))
    for session in range(20):
        assert [path for path in arrived if path.startswith(f"/{session}/")] == [
            f"/{session}/{n}" for n in range(3)
        ]


async def test_a_ramp_is_not_counted() -> None:
    async def answer(_: str) -> bytes:
        return response()

    due = due_times(rate=100, seconds=0.2, ramp_seconds=0.2)
    async with server(answer) as port:
        opened = await open_loop(port, alone([get("/")] * len(due)), due, 0.2, read_cpu)
        closed = await closed_loop(port, [[get("/")]] * 5000, 2, 0.1, ramp_seconds=0.1, read_cpu=read_cpu)
    assert (len(due), len(opened.due)) == (30, 20)
    assert opened.due.min() >= 0.2 - 1e-6, "due is a difference of large times"
    assert closed.due.min() >= 0.1 - 1e-6
