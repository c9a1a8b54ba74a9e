"""What uvicorn writes to a connection, and when."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.process.protocol import OneWrite

pytestmark = pytest.mark.anyio

App = Callable[[Scope, Receive, Send], Awaitable[None]]
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
CLOSE = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


class Wire(asyncio.Transport):
    """Takes down what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self.too_late: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        (self.too_late if self.closed else self.written).append(bytes(data))

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed


Connect = Callable[[App], tuple[OneWrite, Wire]]


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@pytest.fixture
async def connect() -> Connect:
    def connected(app: App) -> tuple[OneWrite, Wire]:
        config = uvicorn.Config(app, http=OneWrite, ws="none", server_header=False, date_header=False)
        config.load()
        protocol, wire = OneWrite(config, ServerState(), {}), Wire()
        protocol.connection_made(wire)
        return protocol, wire

    return connected


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


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
