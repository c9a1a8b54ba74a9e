"""The way to Redis: one connection that all calls of a worker share, deadlines, scripts, shards.

StoreError
└── StoreUnavailable         down, hanging or refusing; outcome unknown: retry with the same event id
    └── ClickLogFull         refused at the click log's hard cap: nothing was changed
"""

from __future__ import annotations

import asyncio
import hashlib
import math
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

from service.process.settings import Settings, without_password
from service.state import keys

RECONNECT_SECONDS = 1
READ_SECONDS = 0.002  # a loop has certainly read once by then; uvloop's clock ticks once a millisecond
SILENCE_SECONDS = 1.0  # a connection that owes an answer for so long is given up

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
Reply = Any  # whatever the command answers, or the `ResponseError` Redis answered instead

# Its stub knows commands of one word only.
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)

log = structlog.get_logger()


class StoreError(Exception):
    """The live state could not be read or changed."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Redis is down, hangs, loads or refuses; whether the call took effect is unknown."""


class ClickLogFull(StoreUnavailable):
    """The click log is at its hard cap; nothing was changed."""


class Script:
    """A Lua script, called by its hash: files under `scripts`, joined in this order."""

    def __init__(self, *names: str) -> None:
        scripts = Path(__file__).with_name("scripts")
        self.source = "\n".join(scripts.joinpath(name).read_text(encoding="utf-8") for name in names)
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def call(self, keys: Sequence[str], *arguments: Argument) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self._sha, len(keys), *keys, *arguments)


class Deadline:
    """`asyncio.timeout_at` that does not blame Redis for a busy loop.

    A loop that comes late to a deadline has not yet read what arrived meanwhile, and may not have sent what
    it was to send. So it gets once more the time by which it was late: see `grace_from`.
    """

    def __init__(self, at: float) -> None:
        self._at = at
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._timeout.__aenter__()
        self._handle = self._loop.call_at(self._at, self._passed)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _passed(self) -> None:
        self._timeout.reschedule(grace_from(self._loop.time(), self._at))


def grace_from(now: float, deadline: float) -> float:
    """Until when a deadline that was noticed `now` is stretched."""
    return now + max(now - deadline, READ_SECONDS)


class _Call:
    """Commands that were sent together, and the replies so far."""

    __slots__ = ("deadline", "future", "missing", "replies", "sent_at")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int, now: float, deadline: float) -> None:
        self.future = future
        self.missing = count
        self.replies: list[Reply] = []
        self.sent_at = now
        self.deadline = deadline


class _Connection(asyncio.Protocol):
    """One connection for all calls: those of one turn of the loop leave together, replies keep their order.

    A call that nobody waits for any more keeps its place, so that its replies are taken for no other's.
    """

    def __init__(self) -> None:
        self.is_open = False
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(encoding="utf-8", replyError=ResponseError)
        self._calls: deque[_Call] = deque()
        self._outgoing: list[bytes] = []
        self._watched = math.inf  # the earliest deadline of all calls, and the one timer for it
        self._watch: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._watch is not None:
            self._watch.cancel()
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

    def call(self, commands: Sequence[Command], deadline: float = math.inf) -> asyncio.Future[list[Reply]]:
        """Send commands; one reply each, or `TimeoutError` at the deadline, which is in the loop's time.

        Raises `OSError` when the connection is closed.
        """
        if not self.is_open:
            raise ConnectionError("Redis closed the connection")
        call = _Call(self._loop.create_future(), len(commands), self._loop.time(), deadline)
        if not commands:
            call.future.set_result([])
            return call.future
        self._calls.append(call)
        if not self._outgoing:
            self._loop.call_soon(self._send)
        self._outgoing += map(_pack, commands)
        if deadline < self._watched:
            self._watch_until(deadline)
        return call.future

    def _send(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        if self.is_open:
            self._transport.write(b"".join(outgoing))

    def _watch_until(self, deadline: float) -> None:
        if self._watch is not None:
            self._watch.cancel()
        self._watched = deadline
        self._watch = self._loop.call_at(deadline, self._passed) if deadline < math.inf else None

    def _passed(self) -> None:
        now = self._loop.time()
        self._watch = self._loop.call_at(grace_from(now, self._watched), self._give_up, now)

    def _give_up(self, until: float) -> None:
        """End the calls whose deadline passed by then."""
        waiting = [call for call in self._calls if not call.future.done()]
        for call in waiting:
            if call.deadline <= until:
                call.future.set_exception(TimeoutError())
        self._watch_until(min((call.deadline for call in waiting if call.deadline > until), default=math.inf))

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
        deadline = asyncio.get_running_loop().time() + timeout_seconds
        try:
            connection = self._connection
            if connection is None or not connection.is_open or not self._meetings:
                async with Deadline(deadline):
                    connection = await self._connected()
                    await self._meet(connection, after=0)
            meetings = self._meetings
            replies = await connection.call(commands(), deadline)
            if any(map(_is_unknown_script, replies)):
                # Redis was restarted or replaced; a script that is not there has changed nothing.
                async with Deadline(deadline):
                    await self._meet(connection, after=meetings)
                missing = [i for i, reply in enumerate(replies) if _is_unknown_script(reply)]
                batch = commands()
                again = await connection.call([batch[i] for i in missing], deadline)
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
