"""The calls to Redis: each within its time-out, with the scripts loaded and the number of shards agreed on.

StoreError
└── StoreUnavailable         down, hanging or refusing; outcome unknown: retry with the same event id
    ├── ClickLogFull         refused at the click log's hard cap: nothing was changed
    └── SessionFull          refused beyond the session's share of the log: nothing was changed
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import partial

import structlog
from hiredis import ReplyError
from redis.exceptions import RedisError

from service.process import redis_url
from service.process.settings import Settings
from service.state.connection import PING, Clock, Command, Connection, Deadline, Reply
from service.state.dialer import Dialer
from service.state.keys import Keys
from service.state.refusals import (
    CLICK_LOG_FULL,
    NO_ANSWER,
    SESSION_FULL,
    Refusals,
    is_elsewhere,
    is_unknown_script,
    reason_of,
    without_arguments,
)
from service.state.script import Script
from service.state.tail import RUN, Tail

# Before Redis is tried again, doubled each time; what lasts as long as the longest was no failure.
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

log = structlog.get_logger()


class StoreError(Exception):
    """The live state could not be read or changed."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Redis is down, hangs, loads or refuses; whether the call took effect is unknown.

    `reason` is fit for clients: it holds neither an address nor anything that Redis was sent.
    """

    def __init__(self, message: str, reason: str = NO_ANSWER) -> None:
        super().__init__(message)
        self.reason = reason


class ClickLogFull(StoreUnavailable):
    """The click log is at its hard cap; nothing was changed."""


class SessionFull(StoreUnavailable):
    """The session has had its share of the click log; nothing was changed."""


class Patience:
    """A request's: once one of its calls has waited for a whole time-out in vain, the next fail at once."""

    spent_on: StoreUnavailable | None = None


# Of the request at hand; None beside requests, where each call has its own time-out.
PATIENCE: ContextVar[Patience | None] = ContextVar("patience", default=None)


class RedisLink:
    """Sends commands, each call within `redis_timeout_seconds`: from wanting a connection to the last reply.

    A task of its own opens the connection, from the first call on, and another one whenever that ends or
    Redis turns out to be the wrong one to ask: with its own time-out, with `scripts` loaded, and with pauses
    between failures. Calls wait for it until their own deadlines. None is repeated: a click without an event
    id would count twice. `shards` is what Redis says, once it has spoken.
    """

    def __init__(
        self,
        settings: Settings,
        url: str,
        scripts: Sequence[Script],
        *,
        tail: Tail | None = None,
        warns: bool = True,
        clock: Clock | None = None,
        wait_ms: int | None = None,
    ) -> None:
        """`clock`: the running event loop's, if not given; `tail`: compared with every Redis that is met.

        `wait_ms`: what is kept has reached a replica within this time, or it counts as not stored.
        `warns`: of a Redis that is not as safe as it could be; one link of a process is enough for that.
        """
        self.shards = settings.shards
        self.timeout_seconds = settings.redis_timeout_seconds
        self._settings = settings
        self._scripts = scripts
        self._tail = tail
        self._warns = warns
        self._url = redis_url.parse(url)
        self._shown_url = self._url.shown
        self._dialer = Dialer(self._url, settings.redis_connect_timeout_seconds)
        self._clock = clock
        self._wait_ms = wait_ms
        self._connection: Connection | None = None
        self._opened_at = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._tries = 0  # to connect, since a connection lasted
        self._failure: StoreUnavailable | None = None  # of the last try
        self._waiting: set[asyncio.Future[None]] = set()  # for how the next try ends
        self._is_closed = False
        self._refusals = Refusals(self._shown_url)
        self._told: set[tuple[object, ...]] = set()

    @property
    def masters(self) -> int:
        """How many servers there are to write to."""
        return 1

    async def close(self) -> None:
        """Close the connection, for good."""
        self._is_closed = True
        if self._opening is not None:
            self._opening.cancel()
            with suppress(asyncio.CancelledError):
                await self._opening
        if self._connection is not None:
            self._connection.close()
        self._wake()

    async def run(
        self,
        commands: Callable[[], list[Command]],
        *,
        kept: bool = False,
        timeout_seconds: float | None = None,
    ) -> list[Reply]:
        """Send commands, made once the number of shards is known, and return one reply each.

        `kept`: only once Redis has written to its append-only file what it acknowledged. `timeout_seconds`:
        in place of the setting's.

        Raises `StoreUnavailable`; what Redis refuses is a reply: see `value`.
        """
        patience = PATIENCE.get()
        if patience is not None and patience.spent_on is not None:
            raise StoreUnavailable(str(patience.spent_on), patience.spent_on.reason)
        clock = self._clock or asyncio.get_running_loop()
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = clock.time() + seconds
        try:
            connection = self._connection
            if connection is None or not connection.is_open:
                connection = await self._next(clock, deadline)
            batch = commands()
            replies = await connection.call(batch, deadline)
            if ReplyError in map(type, replies):
                if any(map(is_unknown_script, replies)):
                    connection = await self._repeat_unknown(connection, commands, replies, clock, deadline)
                kept = kept and not all(isinstance(reply, ReplyError) for reply in replies)
            if kept:
                batch.append(PING)
                replies.append(await connection.confirm(deadline))
            if ReplyError in map(type, replies):
                self._refused(batch, replies, clock)
            elif self._refusals:
                self._refusals.note(batch, replies, clock.time())
            if kept:
                value(replies.pop())
            return replies
        except TimeoutError:
            message = f"no answer from {self._shown_url} within {seconds} s"
            raise in_vain(StoreUnavailable(message)) from None
        except (ReplyError, OSError) as error:
            raise self._unavailable(error) from error

    def _refused(self, batch: Sequence[Command], replies: Sequence[Reply], clock: Clock) -> None:
        if any(map(is_elsewhere, replies)):
            self._open(clock)  # another one; this one may still be good for something until then
        self._refusals.note(batch, replies, clock.time())

    async def _repeat_unknown(
        self,
        connection: Connection,
        commands: Callable[[], list[Command]],
        replies: list[Reply],
        clock: Clock,
        deadline: float,
    ) -> Connection:
        """Redis was restarted or replaced behind a connection; a script that is not there changed nothing."""
        current = self._connection
        if current is None or current is connection or not current.is_open:
            current = await self._next(clock, deadline)
        missing = [i for i, reply in enumerate(replies) if is_unknown_script(reply)]
        batch = commands()
        again = await current.call([batch[i] for i in missing], deadline)
        for i, reply in zip(missing, again, strict=True):
            replies[i] = reply
        return current

    async def _next(self, clock: Clock, deadline: float) -> Connection:
        """The connection that the next try opens. Raises `StoreUnavailable` when it fails, `TimeoutError`."""
        before = self._connection
        self._open(clock)
        woken = asyncio.get_running_loop().create_future()
        self._waiting.add(woken)
        try:
            async with Deadline(clock, deadline):
                await woken
        except TimeoutError:
            if self._failure is None:
                raise
            raise in_vain(StoreUnavailable(str(self._failure), self._failure.reason)) from None
        finally:
            self._waiting.discard(woken)
        connection = self._connection
        if connection is None or connection is before or not connection.is_open:
            failure = self._failure or StoreUnavailable(f"{self._shown_url}: the connection was closed")
            raise StoreUnavailable(str(failure), failure.reason)
        return connection

    @property
    def is_connected(self) -> bool:
        """Whether a call would be sent at once."""
        return self._connection is not None and self._connection.is_open

    def _wake(self) -> None:
        for woken in self._waiting:
            if not woken.done():
                woken.set_result(None)

    def _open(self, clock: Clock) -> None:
        """See to it that a new connection is made."""
        if self._is_closed:
            raise StoreUnavailable(f"{self._shown_url}: the link is closed")
        if self._opening is None:
            if self._connection is not None and clock.time() - self._opened_at >= LONGEST_PAUSE_SECONDS:
                self._tries = 0
            self._opening = asyncio.get_running_loop().create_task(self._try_until_open(clock))

    async def _try_until_open(self, clock: Clock) -> None:
        try:
            while True:
                if self._tries:
                    await pause(clock, FIRST_PAUSE_SECONDS * 2.0 ** min(self._tries - 1, 30))
                self._tries += 1
                try:
                    connection = await self._opened(clock)
                except (ReplyError, RedisError, OSError) as error:
                    self._failed(self._unavailable(error))
                else:
                    break
        finally:
            self._opening = None
        self._use(connection, clock)

    def _failed(self, failure: StoreUnavailable) -> None:
        if self._failure is None or str(self._failure) != str(failure):
            log.error("no connection to redis", reason=str(failure))
        self._failure = failure
        self._wake()

    def _use(self, connection: Connection, clock: Clock) -> None:
        if self._failure is not None:
            log.info("connected to redis", redis=self._shown_url)
            self._failure = None
        before, self._connection = self._connection, connection
        self._opened_at = clock.time()
        connection.on_end = partial(self._ended, connection, clock)
        if before is not None:
            before.retire()
        if not connection.is_open:  # it has ended meanwhile
            self._ended(connection, clock)
        self._wake()

    def _ended(self, connection: Connection, clock: Clock) -> None:
        if connection is self._connection and not self._is_closed:
            self._open(clock)

    async def _opened(self, clock: Clock) -> Connection:
        """A connection that knows our scripts. Raises `ReplyError`, `RedisError` or `OSError`."""
        seconds = self._settings.redis_connect_timeout_seconds
        connection = Connection(clock, wait_ms=self._wait_ms)
        try:
            async with Deadline(clock, clock.time() + seconds):
                await self._dial(connection)
                await self._prepare(connection)
        except TimeoutError:
            connection.close()
            raise ConnectionError(f"no connection within {seconds:g} s") from None
        except BaseException:
            connection.close()
            raise
        return connection

    async def _dial(self, connection: Connection) -> None:
        await self._dialer.dial(connection)

    async def _prepare(self, connection: Connection) -> None:
        """Load the scripts, agree on the number of shards, look at how safe the data is."""
        (*agreed, run), check = await self._asked(connection, *number_of_shards(self._settings), RUN)
        self.shards = agreed_shards(agreed, self._settings, self._tell)
        check()
        if self._tail is not None:
            await self._tail.compare(connection, run, range(self.shards))

    async def _asked(
        self, connection: Connection, *commands: Command
    ) -> tuple[list[Reply], Callable[[], None]]:
        """The replies to some commands, with the scripts loaded in passing; and what warns of a loss.

        Raises `ReplyError` or `OSError`.
        """
        policy, fsync, appendonly, *replies = await connection.call(
            [
                ("CONFIG", "GET", "maxmemory-policy"),
                ("CONFIG", "GET", "appendfsync"),
                ("CONFIG", "GET", "appendonly"),
                *commands,
                *(("SCRIPT", "LOAD", script.source) for script in self._scripts),
            ]
        )
        for reply in replies[len(commands) :]:
            if isinstance(reply, ReplyError):
                raise reply
        return replies[: len(commands)], partial(self._warn_of_loss, policy, fsync, appendonly)

    def _tell(self, say: Callable[..., object], event: str, **facts: object) -> None:
        """Say it once, not at every connection."""
        told = (event, *facts.values())
        if told not in self._told:
            self._told.add(told)
            say(event, **facts)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        reason = reason_of(str(error)) if isinstance(error, ReplyError) else NO_ANSWER
        told = self._url.without_secrets(without_arguments(str(error)))
        return StoreUnavailable(f"{self._shown_url}: {told}", reason)

    def _warn_of_loss(self, policy: Reply, fsync: Reply, appendonly: Reply) -> None:
        if not self._warns:
            return
        if any(isinstance(reply, ReplyError) or not reply for reply in (policy, fsync, appendonly)):
            # Many a hosted Redis refuses CONFIG, or answers nothing.
            self._tell(log.warning, "Redis hides its configuration: how safe its data is was not checked")
            return
        if policy[1] != "noeviction":
            self._tell(
                log.warning,
                "Redis may drop sessions and clicks: set maxmemory-policy noeviction",
                found=policy[1],
            )
        if appendonly[1] != "yes":
            self._tell(log.warning, "acknowledged clicks die with Redis: set appendonly yes")
        elif fsync[1] == "everysec":
            self._tell(
                log.warning,
                "a Redis that dies while its disk is slow loses acknowledged clicks: see docs/operations.md",
                found=fsync[1],
            )
        if self._settings.durability == "strict" and (fsync[1], appendonly[1]) != ("always", "yes"):
            self._tell(
                log.warning,
                "durability=strict needs Redis with appendonly yes and appendfsync always",
                appendonly=appendonly[1],
                appendfsync=fsync[1],
            )


def number_of_shards(settings: Settings) -> list[Command]:
    """The commands that agree on it."""
    key = Keys(settings.redis_prefix).shards
    return [("SET", key, settings.shards, "NX"), ("GET", key)]


def agreed_shards(replies: Sequence[Reply], settings: Settings, tell: Callable[..., None]) -> int:
    """What they have answered. Raises `ReplyError`."""
    stored, shards = replies
    found = shards or stored  # a full or read-only Redis may refuse to store it
    if isinstance(found, ReplyError):
        raise found
    if int(shards) != settings.shards:
        tell(
            log.error,
            "the number of shards is fixed in Redis: the stored one is used, not the configured one",
            stored=int(shards),
            configured=settings.shards,
        )
    return int(shards)


def in_vain(failure: StoreUnavailable) -> StoreUnavailable:
    """A call has waited for its whole time-out."""
    patience = PATIENCE.get()
    if patience is not None:
        patience.spent_on = failure
    return failure


async def pause(clock: Clock, seconds: float) -> None:
    """Wait, at most for the longest pause."""
    over = asyncio.Event()
    timer = clock.call_at(clock.time() + min(seconds, LONGEST_PAUSE_SECONDS), over.set)
    try:
        await over.wait()
    finally:
        timer.cancel()


def value(reply: Reply) -> Reply:
    """The reply itself. Raises `StoreUnavailable` when Redis refused."""
    refused = refusal(reply)
    if refused is not None:
        raise refused
    return reply


def refusal(reply: Reply) -> StoreUnavailable | None:
    """What Redis refused, or None when it did not."""
    if not isinstance(reply, Exception):
        return None
    if isinstance(reply, StoreUnavailable):  # of several servers that were asked, this one did not answer
        return reply
    message = str(reply)
    if message.startswith(CLICK_LOG_FULL):
        return ClickLogFull(message, "the click log is full")
    if message.startswith(SESSION_FULL):
        return SessionFull(message, "the session has sent as many clicks as one may")
    return StoreUnavailable(f"Redis refused: {without_arguments(message)}", reason_of(message))
