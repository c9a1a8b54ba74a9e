"""The way to Redis: pipelined commands under one deadline, scripts, the agreed number of shards.

StoreError
└── StoreUnavailable         down, hanging or refusing; outcome unknown: retry with the same event id
    └── ClickLogFull         refused at the click log's hard cap: nothing was changed
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import NoScriptError, RedisError, ResponseError

from service import keys
from service.settings import Settings, without_password

RECONNECT_SECONDS = 1

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
        self._meetings = 0
        self._meeting = asyncio.Lock()
        # No time-outs of the pool's own: one deadline covers a whole call, and a call cut short by it closes
        # its connection, so a late reply is never taken for the answer to another call. Protocol 2 without
        # driver info saves the round trips of a handshake.
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=settings.redis_max_connections,
            timeout=None,
            socket_timeout=None,
            socket_connect_timeout=None,
            decode_responses=True,
            protocol=2,
            driver_info=None,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def run(self, commands: Callable[[], list[Command]]) -> list[Reply]:
        """Send commands, made once the number of shards is known, and return one reply each.

        Raises `StoreUnavailable`; what Redis refuses is a reply: see `value`.
        """
        timeout_seconds = self._settings.redis_timeout_seconds
        try:
            async with Deadline(timeout_seconds):
                if not self._meetings:
                    await self._meet(after=0)
                meetings = self._meetings
                replies = await self._exchange(commands())
                missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if missing:  # Redis was restarted or replaced; a script that is not there has changed nothing
                    await self._meet(after=meetings)
                    batch = commands()
                    again = await self._exchange([batch[i] for i in missing])
                    for i, reply in zip(missing, again, strict=True):
                        replies[i] = reply
                return replies
        except TimeoutError:
            raise StoreUnavailable(f"no answer from {self._url} within {timeout_seconds} s") from None
        except (RedisError, OSError) as error:
            raise StoreUnavailable(f"{self._url}: {error}") from error

    async def follow(self, channel: str, on_message: Callable[[], None]) -> None:
        """Call `on_message` for each message on a channel, for ever, and whenever some may have been missed.

        While Redis is down it tries again every second.
        """
        while True:
            # Not redis-py's PubSub, which swallows the end of its task when that comes while it connects.
            connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            try:
                await connection.connect()
                await connection.send_command("SUBSCRIBE", channel)
                while True:
                    await connection.read_response()  # the first one confirms the subscription
                    on_message()
            except (RedisError, OSError) as error:
                log.warning("announcements are not heard: deployment.json is polled", reason=str(error))
            finally:
                await connection.disconnect(nowait=True)
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _exchange(self, commands: Sequence[Command]) -> list[Reply]:
        connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.send_packed_command(connection.pack_commands(commands))
            replies: list[Reply] = []
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
            return replies
        finally:
            await self._pool.release(connection)

    async def _meet(self, after: int) -> None:
        """First contact: load the scripts, agree on the number of shards, look at how safe the data is.

        Done once for all callers that wait for the meeting after number `after`.
        """
        async with self._meeting:
            if self._meetings > after:
                return
            stored, shards, policy, fsync, appendonly, *loaded = await self._exchange(
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
