"""A small HTTP server that answers as a test wants it to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.waiting import DEADLINE_SECONDS

Answer = Callable[
    [str], Awaitable[bytes]
]  # from a path to all that is sent back; nothing closes the connection


def response(status: int = 200, body: bytes = b"{}", headers: str = "") -> bytes:
    """One HTTP answer."""
    return f"HTTP/1.1 {status} Status\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


@asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[int]:
    """Its port; every connection asks `answer`, one request after another."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length or 0))
                content = await answer(head.split()[1].decode())
                writer.write(content)
                if not content:
                    break
        except asyncio.IncompleteReadError:  # the client is done
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        await asyncio.wait_for(listening.wait_closed(), DEADLINE_SECONDS)
