"""Opening a connection to Redis: where it is, by TLS or not, who we are, which database we want."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import structlog
from hiredis import ReplyError
from redis.asyncio.connection import SSLConnection, parse_url

from service.process.redis_url import RedisUrl
from service.state.connection import Command, Connection
from service.state.sentinels import ANYWHERE, PrimaryFinder

Place = tuple[str, int]  # host and port

log = structlog.get_logger()


class Dialer:
    """Dials the Redis of a URL, or a place where another of its servers is."""

    def __init__(self, url: RedisUrl, timeout_seconds: float) -> None:
        """`timeout_seconds`: for all sentinels together."""
        self._url = url
        self._finder: PrimaryFinder | None = None
        if url.sentinels is not None:
            self._finder = PrimaryFinder(url, url.sentinels, timeout_seconds)
        has_own_place = url.sentinels is None and url.cluster is None
        self._target = parse_url(url.text if has_own_place else url.at(*ANYWHERE))
        self._place: Place | None = None  # of the primary, when sentinels were asked last
        self._tls: ssl.SSLContext | None = None  # once it was needed: it takes long to make

    async def dial(self, connection: Connection, place: Place | None = None) -> None:
        """Open a connection. The address is looked up each time, and sentinels are asked each time.

        Raises `ReplyError`, `RedisError` or `OSError`.
        """
        await self._connect(connection, place)
        await self._handshake(connection)

    async def _connect(self, connection: Connection, place: Place | None) -> None:
        loop, target = asyncio.get_running_loop(), self._target
        if "path" in target:
            await loop.create_unix_connection(lambda: connection, target["path"])
            return
        if target.get("connection_class") is SSLConnection and self._tls is None:
            self._tls = await asyncio.to_thread(_tls, dict(target))
        host, port = place or (target.get("host", "localhost"), target.get("port", 6379))
        if self._finder is not None:
            host, port = await self._finder.primary()
            if self._place != (host, port):
                log.info("the primary was found", redis=self._url.shown, host=host, port=port)
            self._place = host, port
        await loop.create_connection(lambda: connection, host, port, ssl=self._tls)

    async def _handshake(self, connection: Connection) -> None:
        commands: list[Command] = []
        if password := self._target.get("password"):
            username = self._target.get("username")
            commands.append(("AUTH", username, password) if username else ("AUTH", password))
        if database := self._target.get("db"):
            commands.append(("SELECT", database))
        for reply in await connection.call(commands):
            if isinstance(reply, ReplyError):  # one that does not know AUTH quotes what it was sent
                raise ReplyError(self._url.without_secrets(str(reply)))


def _tls(options: dict[str, Any]) -> ssl.SSLContext:
    del options["connection_class"]
    context: ssl.SSLContext = SSLConnection(**options).ssl_context.get()
    return context
