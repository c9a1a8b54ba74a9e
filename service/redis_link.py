"""The way to Redis: one connection that all calls of a worker share, deadlines, scripts, shards.

StoreError
└── StoreUnavailable         down, hanging or refusing; outcome unknown: retry with the same event id
    └── ClickLogFull         refused at the click log's hard cap: nothing was changed
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import hiredis
import structlog
from redis.asyncio.connection import ConnectKwargs, SSLConnection, parse_url
from redis.exceptions import RedisError, ResponseError

from service import keys
from service.settings import Settings, without_password

RECONNECT_SECONDS = 1
SILENCE_SECONDS = 1.0  # a connection that owes an answer for so long is given up

# Its stub knows commands of one word only.
_pack = cast("Callable[[tuple[str | int | float, ...]], bytes]", hiredis.pack_command)

Command = tuple[str | int | float, ...]
Reply = Any  # whatever the command answers, or the `ResponseError` Redis answered instead

log = structlog.get_logger()


class StoreError(Exception):
    """The live state could not be read or changed."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Redis is down, hangs, loads or refuses; whether the call took effect is unknown."""


class ClickLogFull(StoreUnavailable):
    """The click log is at its hard cap; nothing was changed."""


class Script:
    """A Lua script beside this module, called by its hash."""

    def __init__(self, name: str) -> None:
        self.source = Path(__file__).with_name(name).read_text(encoding="utf-8")
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], *arguments: str | int | float) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self._sha, len(keys), *keys, *arguments)


class Deadline:
    """`asyncio.timeout` that does not blame Redis for a busy loop.

    A loop that was busy past the deadline runs its timers before it reads what has arrived meanwhile. So a
    deadline that passes lets the loop read first, and what then has its answer goes on.
    """

    ROUNDS = 3  # to read the socket, to hand the reply on, to wake its reader

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self._handle: asyncio.Handle = self._loop.call_later(self._seconds, self._passed, self.ROUNDS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _passed(self, rounds: int) -> None:
        if rounds:
            self._handle = self._loop.call_soon(self._passed, rounds - 1)
        else:
            self._timeout.reschedule(self._loop.time())


class _Call:
    """Commands that were sent together, and the replies so far."""

    __slots__ = ("future", "missing", "replies", "sent_at")

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self.future: asyncio.Future[list[Reply]] = loop.create_future()
        self.missing = count
        self.replies: list[Reply] = []
        self.sent_at = loop.time()


class _Connection(asyncio.Protocol):
    """One connection for all calls: commands go out as they come, replies come back in that order.

    A call that nobody waits for any more keeps its place, so that its replies are taken for no other's.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(encoding="utf-8", replyError=ResponseError)
        self._calls: deque[_Call] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        while self._calls:
            future = self._calls.popleft().future
            if not future.done():
                future.set_exception(exc or ConnectionError("Redis closed the connection"))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except (hiredis.ProtocolError, UnicodeDecodeError) as error:
            log.error("Redis does not speak its protocol", reason=str(error))
            self._transport.abort()

    def _take(self, reply: Reply) -> None:
        call = self._calls[0]
        call.replies.append(reply)
        call.missing -= 1
        if not call.missing:
            self._calls.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    async def call(self, commands: Sequence[Command]) -> list[Reply]:
        """Send commands at once, and return one reply each."""
        if not commands:
            return []
        if not self.is_open:
            raise ConnectionError("Redis closed the connection")
        call = _Call(self._loop, len(commands))
        self._calls.append(call)
        self._transport.write(b"".join(map(_pack, commands)))
        return await call.future

    def drop_if_silent(self) -> None:
        """Give up a connection that has left a call without an answer for so long."""
        if self._calls and self._loop.time() - self._calls[0].sent_at > SILENCE_SECONDS:
            self.close()

    def close(self) -> None:
        """Close it at once: what is under way fails."""
        if self.is_open:
            self._transport.abort()
            self.connection_lost(None)


class _Listener(_Connection):
    """A connection that hears the messages of a channel; `lost` fails when it ends."""

    def __init__(self, on_message: Callable[[], None]) -> None:
        super().__init__()
        self._on_message = on_message
        self.lost: asyncio.Future[None] = self._loop.create_future()

    def subscribe(self, channel: str) -> None:
        """The first thing to be heard is that it worked."""
        self._transport.write(_pack(("SUBSCRIBE", channel)))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if not self.lost.done():
            self.lost.set_exception(exc or ConnectionError("Redis closed the connection"))

    def _take(self, reply: Reply) -> None:
        if self._calls:  # the greeting
            super()._take(reply)
        elif isinstance(reply, ResponseError):
            self.lost.set_exception(reply)
        else:
            self._on_message()


class RedisLink:
    """Sends commands, each call within `redis_timeout_seconds`: from wanting a connection to the last reply.

    Connects at the first call; that and every one after a restart of Redis loads `scripts` first. None is
    repeated: a click without an event id would count twice. `shards` is what Redis says, once it has spoken.
    """

    def __init__(self, settings: Settings, url: str, scripts: Sequence[Script]) -> None:
        self.shards = settings.shards
        self._settings = settings
        self._scripts = scripts
        self._url = without_password(url)
        self._target = parse_url(url)
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._meetings = 0
        self._meeting = asyncio.Lock()

    async def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def run(self, commands: Callable[[], list[Command]]) -> list[Reply]:
        """Send commands, made once the number of shards is known, and return one reply each.

        Raises `StoreUnavailable`; what Redis refuses is a reply: see `value`.
        """
        timeout_seconds = self._settings.redis_timeout_seconds
        try:
            async with Deadline(timeout_seconds):
                connection = await self._connected()
                if not self._meetings:
                    await self._meet(connection, after=0)
                meetings = self._meetings
                replies = await connection.call(commands())
                missing = [i for i, reply in enumerate(replies) if _is_unknown_script(reply)]
                if missing:  # Redis was restarted or replaced; a script that is not there has changed nothing
                    await self._meet(connection, after=meetings)
                    batch = commands()
                    again = await connection.call([batch[i] for i in missing])
                    for i, reply in zip(missing, again, strict=True):
                        replies[i] = reply
                return replies
        except TimeoutError:
            if self._connection is not None:
                self._connection.drop_if_silent()
            raise StoreUnavailable(f"no answer from {self._url} within {timeout_seconds} s") from None
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._url}: {error}") from error

    async def follow(self, channel: str, on_message: Callable[[], None]) -> None:
        """Call `on_message` for each message on a channel, for ever, and whenever some may have been missed.

        While Redis is down it tries again every second.
        """
        while True:
            listener = _Listener(on_message)
            try:
                await self._connect(listener)
                listener.subscribe(channel)
                await listener.lost
            except (RedisError, OSError) as error:
                log.warning("announcements are not heard: deployment.json is polled", reason=str(error))
            finally:
                listener.close()
                listener.lost.cancel()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _connected(self) -> _Connection:
        if self._connection is None or not self._connection.is_open:
            async with self._connecting:
                if self._connection is None or not self._connection.is_open:
                    connection = _Connection()
                    try:
                        await self._connect(connection)
                    except BaseException:  # a deadline that passes meanwhile, too
                        connection.close()
                        raise
                    self._connection = connection
        return self._connection

    async def _connect(self, connection: _Connection) -> None:
        """Open a connection, and say who we are. Raises `RedisError` or `OSError`."""
        loop, target = asyncio.get_running_loop(), self._target
        if "path" in target:
            await loop.create_unix_connection(lambda: connection, target["path"])
        else:
            host, port = target.get("host", "localhost"), target.get("port", 6379)
            await loop.create_connection(lambda: connection, host, port, ssl=_tls(target))
        greeting: list[Command] = []
        if password := target.get("password"):
            username = target.get("username")
            greeting.append(("AUTH", username, password) if username else ("AUTH", password))
        if database := target.get("db"):
            greeting.append(("SELECT", database))
        for reply in await connection.call(greeting):
            if isinstance(reply, ResponseError):
                connection.close()
                raise reply

    async def _meet(self, connection: _Connection, after: int) -> None:
        """First contact: load the scripts, agree on the number of shards, look at how safe the data is.

        Done once for all callers that wait for the meeting after number `after`.
        """
        async with self._meeting:
            if self._meetings > after:
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
            self._meetings += 1

    def _warn_of_loss(self, policy: Reply, fsync: Reply, appendonly: Reply) -> None:
        if any(isinstance(reply, ResponseError) or not reply for reply in (policy, fsync, appendonly)):
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
    return isinstance(reply, ResponseError) and str(reply).startswith("NOSCRIPT")


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
    if not isinstance(reply, ResponseError):
        return None
    message = str(reply)
    if message.startswith("CLICKLOGFULL"):
        return ClickLogFull(message)
    return StoreUnavailable(f"Redis refused: {message}")
