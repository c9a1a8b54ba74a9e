"""What uvicorn writes to a connection, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.process.protocol import Connection, Limits
from tests.waiting import eventually

pytestmark = pytest.mark.anyio

App = Callable[[Scope, Receive, Send], Awaitable[None]]
LIMITS = Limits(
    head_bytes=1000, head_seconds=60, body_bytes=1000, batch_bytes=4000, body_seconds=60, connections=9
)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Wire(asyncio.Transport):
    """Takes down what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.too_late: list[bytes] = []
        self.closed = False
        self.reading = True

    def write(self, data: Any) -> None:
        (self.too_late if self.closed else self.written).append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closed


Connect = Callable[[App], tuple[Connection, Wire]]


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def connect() -> Connect:
    def connected(app: App) -> tuple[Connection, Wire]:
        config = uvicorn.Config(app, ws="none", server_header=False, date_header=False)
        config.load()
        protocol, wire = Connection(config, ServerState(), {}, limits=LIMITS), Wire()
        protocol.connection_made(wire)
        return protocol, wire

    return connected


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await answer(scope, receive, send)


@pytest.mark.parametrize(("method", "pieces"), [(b"POST", 9), (b"PUT", 33)])
async def test_only_a_batch_may_be_large_on_the_wire(connect: Connect, method: bytes, pieces: int) -> None:
    """Whatever its chunks are made of; a body of 1,000 bytes has 8,000 there, and a head of 1,000."""
    protocol, wire = connect(reads_all)
    protocol.data_received(method + b" / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
    chunk = b"1;" + b"x" * 993 + b"\r\na\r\n"  # 1,000 bytes
    for _ in range(pieces):
        protocol.data_received(chunk)
        await turns()
        assert not wire.written
    protocol.data_received(chunk)
    await turns()
    assert wire.written[0].startswith(b"HTTP/1.1 413 ")


async def test_an_answer_leaves_in_one_piece(connect: Connect) -> None:
    protocol, wire = connect(answer)
    for number in range(3):
        protocol.data_received(REQUEST)
        await turns()
        assert wire.written[number:] == [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"]
    assert not wire.closed


async def test_what_is_written_later_leaves_later(connect: Connect) -> None:
    parts: asyncio.Queue[bytes] = asyncio.Queue()

    async def tell_in_parts(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while part := await parts.get():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"last"})

    protocol, wire = connect(tell_in_parts)
    protocol.data_received(REQUEST)
    await turns()
    assert [piece.startswith(b"HTTP/1.1 200 OK\r\n") for piece in wire.written] == [True]
    for part in (b"one", b"two", b""):
        parts.put_nowait(part)
        await turns()
    assert wire.written[1:] == [b"3\r\none\r\n", b"3\r\ntwo\r\n", b"4\r\nlast\r\n0\r\n\r\n"]


async def test_all_is_written_before_the_connection_closes(
    connect: Connect,
) -> None:
    protocol, wire = connect(answer)
    protocol.data_received(CLOSE)
    await turns()
    assert b"".join(wire.written).endswith(b"\r\n\r\nok")
    assert wire.closed
    assert wire.too_late == []
    refused, wire = connect(answer)
    refused.data_received(b"no HTTP at all\r\n\r\n")
    assert b"".join(wire.written).startswith(b"HTTP/1.1 400 ")
    assert wire.closed


async def test_nothing_is_written_to_a_connection_that_is_gone(
    connect: Connect,
) -> None:
    protocol, wire = connect(answer)
    protocol.transport.write(b"an answer")
    wire.close()
    await turns()
    assert (wire.written, wire.too_late) == ([], [])


class Slow:
    """An app that answers when it is told to, in the order of the requests."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.may_answer = asyncio.Semaphore(0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked.append(scope["query_string"])
        await self.may_answer.acquire()
        await answer(scope, receive, send)


async def test_few_of_many_pipelined_requests_are_parsed(connect: Connect) -> None:
    app = Slow()
    protocol, wire = connect(app)
    wanted = [b"%d" % number for number in range(300)]
    protocol.data_received(b"".join(b"GET /?%s HTTP/1.1\r\n\r\n" % each for each in wanted))
    most = 0
    for number in range(len(wanted)):
        await eventually(lambda number=number: len(app.asked) > number)  # type: ignore[misc]
        assert len(app.asked) == number + 1, "one at a time"
        most = max(most, len(protocol.pipeline))
        assert not wire.reading or not protocol.pipeline
        app.may_answer.release()
    await eventually(lambda: wire.reading)
    assert app.asked == wanted
    assert most < 30
    await eventually(lambda: b"".join(wire.written).count(b"200 OK") == len(wanted))


async def test_a_bad_request_behind_a_good_one_does_not_take_its_answer(connect: Connect) -> None:
    app = Slow()
    protocol, wire = connect(app)
    protocol.data_received(REQUEST + b"no HTTP at all\r\n\r\n")
    await turns()
    assert (wire.written, wire.closed) == ([], False)
    app.may_answer.release()
    await eventually(lambda: wire.closed)
    assert b"".join(wire.written).startswith(b"HTTP/1.1 200 OK")
    assert len(app.asked) == 1


async def test_a_bad_body_behind_a_good_request_is_told_in_its_turn(connect: Connect) -> None:
    app = Slow()
    protocol, wire = connect(app)
    protocol.data_received(REQUEST + b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n")
    await turns()
    assert (wire.written, wire.closed) == ([], False)
    app.may_answer.release()
    await eventually(lambda: wire.closed)
    first, second = b"".join(wire.written).split(b"HTTP/1.1 ")[1:]
    assert (first[:3], second[:3]) == (b"200", b"400")
    assert len(app.asked) == 1


async def test_a_request_that_arrives_whole_has_no_timer(connect: Connect) -> None:
    """Neither of its own, nor anything else that it would have to pay for."""
    protocol, _ = connect(Slow())
    for method, body in ((b"GET", b""), (b"POST", b"{}")):
        head = b"%s / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (method, len(body))
        protocol.data_received(head + body)
        assert (protocol._timer, protocol._unparsed, protocol._torn_bytes) == (None, b"", 0)
