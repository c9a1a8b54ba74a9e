"""Keep-alive HTTP/1.1 connections that cost little, and what became of each request.

An `asyncio.Protocol` that looks for the status and the content-length alone: the load generator runs on the
cores of what it measures.
"""

from __future__ import annotations

import asyncio
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import cast

from benchmarks.load.clock import MACHINE, Clock
from benchmarks.load.traffic import Request

UNANSWERED, GOOD, SHED, FAILED = range(4)
SHED_STATUS = (429, 503)  # too much just now, says the service
MAX_COMPLAINTS = 5
MAX_CONNECTIONS = 800  # below the 1,024 files that a process may have open by default
CONNECT_SECONDS = 5.0
LENGTH = b"\r\ncontent-length: "
ITEM = b'"item_id"'
DEGRADED = (
    b'"degraded":true'  # made without the session, since Redis was too slow: no answer to what was asked
)

Look = Callable[[int, bytes], None]


class Client:
    """Sends requests by their number, each at once; when no connection is free, it opens more of them.

    `then` is called with the number of each request that was answered, or was lost with its connection;
    `look` sees every body.
    """

    def __init__(
        self,
        port: int,
        requests: Sequence[Request],
        then: Callable[[int], None],
        look: Look | None = None,
        clock: Clock = MACHINE,
    ) -> None:
        self.outcome = bytearray(len(requests))
        self.sent = array("d", bytes(8 * len(requests)))  # by the clock, as `answered` is
        self.answered = array("d", bytes(8 * len(requests)))
        self.complaints: list[str] = []  # the first few failures
        self._port, self._requests, self._then, self._look = port, requests, then, look
        self._now = clock.now
        self._open: set[Connection] = set()
        self._free: deque[Connection] = (
            deque()
        )  # the longest idle first: so all of a service's workers get some
        self._waiting: deque[int] = deque()
        self._opening: set[asyncio.Task[None]] = set()

    async def connect(self, connections: int) -> None:
        """Open connections one after another, so that several workers accept them. Raises `OSError`."""
        for _ in range(connections):
            await self._connect()

    async def close(self) -> None:
        """Close every connection; what is unanswered stays so."""
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in self._open:
            if connection.number >= 0:
                self._complain(connection.number, "no answer")
            connection.close()

    def send(self, number: int) -> None:
        """Send a request; its time of sending is when it goes out."""
        if self._free:
            self._send(self._free.popleft(), number)
            return
        self._waiting.append(number)
        if len(self._open) + len(self._opening) < MAX_CONNECTIONS:
            self._connect_soon()

    def settle(self, connection: Connection, number: int, status: int, body: bytes) -> None:
        """An answer has come."""
        self.answered[number] = self._now()
        n_items = self._requests[number].n_items
        if status == 200 and (not n_items or (body.count(ITEM) == n_items and DEGRADED not in body)):
            self.outcome[number] = GOOD
        elif status in SHED_STATUS:
            self.outcome[number] = SHED
        else:
            self.outcome[number] = FAILED
            self._complain(number, f"status {status}, {body.count(ITEM)} items: {body[:200]!r}")
        if not connection.closing:
            self._release(connection)
        if self._look:
            self._look(number, body)
        self._then(number)

    def lost(self, connection: Connection, number: int, why: str) -> None:
        """A connection has ended; `number` is the request on it, or -1."""
        self._open.discard(connection)
        if connection in self._free:
            self._free.remove(connection)
        if connection.closed_by_us:
            return
        self._connect_soon()
        if number >= 0:
            self.answered[number] = self._now()
            self.outcome[number] = FAILED
            self._complain(number, why)
            self._then(number)

    async def _connect(self) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            loop = asyncio.get_running_loop()
            _, connection = await loop.create_connection(lambda: Connection(self), "127.0.0.1", self._port)
        self._open.add(connection)
        self._release(connection)

    def _connect_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._try_to_connect())
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _try_to_connect(self) -> None:
        try:
            await self._connect()
        except OSError as error:  # a time-out is one too
            self._say(f"port {self._port}: cannot connect: {error}")

    def _release(self, connection: Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._free.append(connection)

    def _send(self, connection: Connection, number: int) -> None:
        self.sent[number] = self._now()
        connection.send(number, self._requests[number].content)

    def _complain(self, number: int, why: str) -> None:
        self._say(f"{self._requests[number].content.splitlines()[0].decode()}: {why}")

    def _say(self, text: str) -> None:
        if len(self.complaints) < MAX_COMPLAINTS:
            self.complaints.append(text)


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, client: Client) -> None:
        self.number = -1  # of the request on it
        self.closing = False  # the server has said that it closes it
        self.closed_by_us = False
        self._client = client
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's own class does not derive from it

    def send(self, number: int, content: bytes) -> None:
        self.number = number
        self._transport.write(content)

    def close(self) -> None:
        self.closed_by_us = True
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            self._received = data
            return
        head = data[:head_end].lower()
        at = head.find(LENGTH)
        if at < 0:
            self._give_up(f"an answer without content-length: {head!r}")
            return
        body_end = head_end + 4 + int(head[at + len(LENGTH) :].split(b"\r\n", 1)[0])
        if len(data) < body_end:
            self._received = data
            return
        if len(data) > body_end or self.number < 0:
            self._give_up("more was received than one answer")
            return
        number, self.number, self._received = self.number, -1, b""
        status = int(head[9:12])
        self.closing = status != 200 and b"\r\nconnection: close" in head
        self._client.settle(self, number, status, data[head_end + 4 :])

    def connection_lost(self, error: Exception | None) -> None:
        number, self.number = self.number, -1
        self._client.lost(self, number, f"the connection was lost: {error or 'closed by the server'}")

    def _give_up(self, why: str) -> None:
        number, self.number = self.number, -1
        self._client.lost(self, number, why)
        self.closed_by_us = True
        self._transport.abort()
