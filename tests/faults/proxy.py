"""A proxy between the service and Redis, which a test lets be slow, or lose what was sent."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

HOST = "localhost"


class Proxy:
    """Passes on what it gets, to `backend`, as long as `answers` is set."""

    def __init__(self, backend: str) -> None:
        self.backend = backend  # path of a Unix socket; for connections that come
        self.port = 0
        self.accepted = 0  # connections, after TLS
        self.answers = asyncio.Event()
        self.answers.set()
        self.swallows = False  # what clients send
        self.refusal = b""  # to every command, in place of Redis' answers
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self.accepted += 1
        redis, to_redis = await asyncio.open_unix_connection(self.backend)
        tasks = [
            asyncio.create_task(self._ask(client, to_redis, to_client)),
            asyncio.create_task(self._answer(redis, to_client)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for writer in (to_redis, to_client):
                writer.close()

    async def _ask(
        self, client: asyncio.StreamReader, to_redis: asyncio.StreamWriter, to_client: asyncio.StreamWriter
    ) -> None:
        with suppress(ConnectionError):
            while data := await client.read(65536):
                if self.refusal:
                    commands = sum(line.startswith(b"*") for line in data.split(b"\r\n"))
                    to_client.write(self.refusal * commands)
                elif not self.swallows:
                    to_redis.write(data)

    async def _answer(self, redis: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await redis.read(65536):
                await self.answers.wait()
                to_client.write(data)


@asynccontextmanager
async def proxied(backend: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    """Run one on a free port of this machine."""
    proxy = Proxy(backend)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context
