"""The calls to Redis: each within its time-out, with the scripts loaded and the number of shards agreed on.

StoreError
└── StoreUnavailable         down, hanging or refusing; outcome unknown: retry with the same event id
    ├── ClickLogFull         refused at the click log's hard cap: nothing was changed
    └── SessionFull          refused beyond the session's share of the log: nothing was changed
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from hiredis import ReplyError
from redis.asyncio.connection import ConnectKwargs, SSLConnection, parse_url
from redis.exceptions import RedisError

from service.process.settings import Settings, without_password
from service.state import keys
from service.state.connection import Clock, Command, Connection, Deadline, Reply
from service.state.script import Script

SILENCE_SECONDS = 1.0  # a connection that owes an answer for so long is given up

log = structlog.get_logger()


class StoreError(Exception):
    """The live state could not be read or changed."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Redis is down, hangs, loads or refuses; whether the call took effect is unknown."""


class ClickLogFull(StoreUnavailable):
    """The click log is at its hard cap; nothing was changed."""


class SessionFull(StoreUnavailable):
    """The session has had its share of the click log; nothing was changed."""


class RedisLink:
    """Sends commands, each call within `redis_timeout_seconds`: from wanting a connection to the last reply.

    Connects at the first call; that and every one after a restart of Redis loads `scripts` first. None is
    repeated: a click without an event id would count twice. `shards` is what Redis says, once it has spoken.
    """

    def __init__(
        self, settings: Settings, url: str, scripts: Sequence[Script], *, clock: Clock | None = None
    ) -> None:
        """`clock` is the running event loop's, if not given."""
        self.shards = settings.shards
        self.timeout_seconds = settings.redis_timeout_seconds
        self._settings = settings
        self._scripts = scripts
        self._url = without_password(url)
        self._target = parse_url(url)
        self._clock = clock
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._prepared = 0  # times
        self._preparing = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def run(self, commands: Callable[[], list[Command]]) -> list[Reply]:
        """Send commands, made once the number of shards is known, and return one reply each.

        Raises `StoreUnavailable`; what Redis refuses is a reply: see `value`.
        """
        clock = self._clock or asyncio.get_running_loop()
        deadline = clock.time() + self.timeout_seconds
        try:
            connection = self._connection
            if connection is None or not connection.is_open or not self._prepared:
                async with Deadline(clock, deadline):
                    connection = await self._connected(clock)
                    await self._prepare(connection, after=0)
            prepared = self._prepared
            replies = await connection.call(commands(), deadline)
            if any(map(_is_unknown_script, replies)):
                # Redis was restarted or replaced; a script that is not there has changed nothing.
                async with Deadline(clock, deadline):
                    await self._prepare(connection, after=prepared)
                missing = [i for i, reply in enumerate(replies) if _is_unknown_script(reply)]
                batch = commands()
                again = await connection.call([batch[i] for i in missing], deadline)
                for i, reply in zip(missing, again, strict=True):
                    replies[i] = reply
            return replies
        except TimeoutError:
            if self._connection is not None:
                self._connection.close_if_silent(SILENCE_SECONDS)
            raise StoreUnavailable(f"no answer from {self._url} within {self.timeout_seconds} s") from None
        except (ReplyError, RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._url}: {error}") from error

    async def _connected(self, clock: Clock) -> Connection:
        if self._connection is None or not self._connection.is_open:
            async with self._connecting:
                if self._connection is None or not self._connection.is_open:
                    connection = Connection(clock)
                    try:
                        await self._connect(connection)
                        await self._handshake(connection)
                    except BaseException:  # a deadline that passes meanwhile, too
                        connection.close()
                        raise
                    self._connection = connection
        return self._connection

    async def _connect(self, connection: Connection) -> None:
        """Open a connection. Raises `RedisError` or `OSError`."""
        loop, target = asyncio.get_running_loop(), self._target
        if "path" in target:
            await loop.create_unix_connection(lambda: connection, target["path"])
        else:
            host, port = target.get("host", "localhost"), target.get("port", 6379)
            await loop.create_connection(lambda: connection, host, port, ssl=_tls(target))

    async def _handshake(self, connection: Connection) -> None:
        """Say who we are, and which database we want. Raises `ReplyError` or `OSError`."""
        commands: list[Command] = []
        if password := self._target.get("password"):
            username = self._target.get("username")
            commands.append(("AUTH", username, password) if username else ("AUTH", password))
        if database := self._target.get("db"):
            commands.append(("SELECT", database))
        for reply in await connection.call(commands):
            if isinstance(reply, ReplyError):
                raise reply

    async def _prepare(self, connection: Connection, after: int) -> None:
        """Load the scripts, agree on the number of shards, look at how safe the data is.

        Done once for all callers that want it done again after it was done `after` times.
        """
        async with self._preparing:
            if self._prepared > after:
                return
            stored, shards, policy, fsync, appendonly, *loaded = await connection.call(
                [
                    ("SET", keys.SHARDS, self._settings.shards, "NX"),
                    ("GET", keys.SHARDS),
                    ("CONFIG", "GET", "maxmemory-policy"),
                    ("CONFIG", "GET", "appendfsync"),
                    ("CONFIG", "GET", "appendonly"),
                    *(("SCRIPT", "LOAD", script.source) for script in self._scripts),
                ]
            )
            for reply in (shards or stored, *loaded):  # a full or read-only Redis may refuse to store it
                value(reply)
            self.shards = int(shards)
            if self.shards != self._settings.shards:
                log.error(
                    "the number of shards is fixed in Redis: the stored one is used, not the configured one",
                    stored=self.shards,
                    configured=self._settings.shards,
                )
            self._warn_of_loss(policy, fsync, appendonly)
            self._prepared += 1

    def _warn_of_loss(self, policy: Reply, fsync: Reply, appendonly: Reply) -> None:
        if any(isinstance(reply, ReplyError) or not reply for reply in (policy, fsync, appendonly)):
            # Many a hosted Redis refuses CONFIG, or answers nothing.
            log.warning("Redis hides its configuration: how safe its data is was not checked")
            return
        if policy[1] != "noeviction":
            log.warning(
                "Redis may drop sessions and clicks: set maxmemory-policy noeviction", found=policy[1]
            )
        if self._settings.durability == "strict" and (fsync[1], appendonly[1]) != ("always", "yes"):
            log.warning(
                "durability=strict needs Redis with appendonly yes and appendfsync always",
                appendonly=appendonly[1],
                appendfsync=fsync[1],
            )


def _is_unknown_script(reply: Reply) -> bool:
    return isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT")


def _tls(target: ConnectKwargs) -> ssl.SSLContext | None:
    options: dict[str, Any] = dict(target)
    if options.pop("connection_class", None) is not SSLConnection:
        return None
    context: ssl.SSLContext = SSLConnection(**options).ssl_context.get()
    return context


def value(reply: Reply) -> Reply:
    """The reply itself. Raises `StoreUnavailable` when Redis refused."""
    refused = refusal(reply)
    if refused is not None:
        raise refused
    return reply


def refusal(reply: Reply) -> StoreUnavailable | None:
    """What Redis refused, or None when it did not."""
    if not isinstance(reply, ReplyError):
        return None
    message = str(reply)
    if message.startswith("CLICKLOGFULL"):
        return ClickLogFull(message)
    if message.startswith("SESSIONFULL"):
        return SessionFull(message)
    return StoreUnavailable(f"Redis refused: {message}")
