"""One connection to Redis that all calls of a worker share: its protocol, its deadlines, late replies."""

from __future__ import annotations

import asyncio
import math
import select
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Protocol, cast

import hiredis
import structlog

READ_SECONDS = 0.002  # a loop has certainly read once by then; uvloop's clock ticks once a millisecond
PING = ("PING",)

Argument = str | bytes | int | float
Command = tuple[Argument, ...]
Reply = Any  # whatever the command answers, or the `hiredis.ReplyError` Redis answered instead

# Its stub knows commands of one word only.
_pack = cast("Callable[[Command], bytes]", hiredis.pack_command)

log = structlog.get_logger()


class Timer(Protocol):
    """What is to happen later, and may be cancelled."""

    def cancel(self) -> None: ...


class Clock(Protocol):
    """What time it is, and what is to happen later: an event loop, but for tests."""

    def time(self) -> float: ...

    def call_at(self, when: float, callback: Callable[..., object], *args: Any) -> Timer: ...


class Deadline:
    """`asyncio.timeout_at` that does not blame Redis for a busy loop.

    A loop that comes late to a deadline has not yet read what arrived meanwhile, and may not have sent what
    it was to send. So it gets once more the time by which it was late: see `grace_from`.
    """

    def __init__(self, clock: Clock, at: float) -> None:
        self._clock = clock
        self._at = at
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._timer = self._clock.call_at(self._at, self._passed)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _passed(self) -> None:
        self._timer = self._clock.call_at(grace_from(self._clock.time(), self._at), self._expire)

    def _expire(self) -> None:
        self._timeout.reschedule(-math.inf)


def grace_from(now: float, deadline: float) -> float:
    """Until when a deadline that was noticed `now` is stretched."""
    return now + max(now - deadline, READ_SECONDS)


class _Call:
    """Commands that were sent together, and the replies so far."""

    __slots__ = ("deadline", "future", "missing", "replies")

    def __init__(self, future: asyncio.Future[list[Reply]], count: int, deadline: float) -> None:
        self.future = future
        self.missing = count
        self.replies: list[Reply] = []
        self.deadline = deadline


class Connection(asyncio.Protocol):
    """One connection for all calls: those of one turn of the loop leave together, replies keep their order.

    A call that nobody waits for any more keeps its place, so that its replies are taken for no other's.
    Nothing but the order ties a reply to its call: once the oldest one is overdue, no new ones are taken.
    """

    def __init__(self, clock: Clock, *, wait_ms: int | None = None) -> None:
        """`wait_ms`: what is confirmed has reached a replica too, within this time."""
        self.is_open = False  # for calls
        self._confirming: list[Command] = [PING] if wait_ms is None else [PING, ("WAIT", 1, wait_ms)]
        self.on_end: Callable[[], None] = _nothing  # called once no more calls are taken
        self._is_lost = False
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._reader = hiredis.Reader(encoding="utf-8")
        self._calls: deque[_Call] = deque()
        self._outgoing: list[bytes] = []
        self._confirmed: list[asyncio.Future[Reply]] | None = None  # by the PING of this turn
        self._earliest = math.inf  # deadline of all calls, and the one timer for it
        self._timer: Timer | None = None
        self._transport: asyncio.Transport | None = None
        self._unasked: hiredis.ReplyError | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = not self._is_lost
        if self._is_lost:  # closed meanwhile
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        while self._calls:
            call = self._calls.popleft()
            if not call.future.done():
                call.future.set_exception(_first_refusal(call.replies) or exc or self._closed())
        self._end()

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self._take(reply)
        except (hiredis.ProtocolError, UnicodeDecodeError) as error:
            log.error("Redis does not speak its protocol", reason=str(error))
            self.close()
        if not self.is_open:
            self._close_if_idle()

    def _take(self, reply: Reply) -> None:
        if not self._calls:
            # Redis speaks first only to say why it will not have us.
            self._unasked = reply if isinstance(reply, hiredis.ReplyError) else None
            self.close()
            return
        call = self._calls[0]
        call.replies.append(reply)
        call.missing -= 1
        if not call.missing:
            self._calls.popleft()
            if not call.future.done():
                call.future.set_result(call.replies)

    def call(self, commands: Sequence[Command], deadline: float = math.inf) -> asyncio.Future[list[Reply]]:
        """Send commands; one reply each, or `TimeoutError` at the deadline, which is in the clock's time.

        Raises `OSError` when the connection is closed, `ReplyError` when Redis gave that as the reason.
        """
        if not self.is_open:
            raise self._closed()
        call = _Call(self._loop.create_future(), len(commands), deadline)
        if not commands:
            call.future.set_result([])
            return call.future
        self._calls.append(call)
        if not self._outgoing:
            self._loop.call_soon(self._send)
        self._outgoing += map(_pack, commands)
        if deadline < self._earliest:
            self._set_timer(deadline)
        return call.future

    def confirm(self, deadline: float) -> asyncio.Future[Reply]:
        """Ask whether what Redis has acknowledged so far is out of its memory; an error says it may not be.

        And, if so made, whether a replica has it, too: until then Redis reads nothing else from us.
        Redis answers a command whether or not its append-only file took it; when it did not, every later
        command is refused, a PING too. Those who ask in the same turn of the loop share it.
        """
        told: asyncio.Future[Reply] = self._loop.create_future()
        if self._confirmed is None:
            asked = self.call(self._confirming, deadline)
            self._confirmed = []
            asked.add_done_callback(partial(_tell, self._confirmed))
        self._confirmed.append(told)
        return told

    def _send(self) -> None:
        outgoing, self._outgoing = self._outgoing, []
        self._confirmed = None
        if not self._is_lost and self._transport is not None:
            self._transport.write(b"".join(outgoing))

    def _set_timer(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._earliest = deadline
        self._timer = self._clock.call_at(deadline, self._passed) if deadline < math.inf else None

    def _passed(self) -> None:
        now = self._clock.time()
        earliest = min((call.deadline for call in self._calls if not call.future.done()), default=math.inf)
        if earliest > now:  # what the timer was set for has been answered
            self._set_timer(earliest)
        else:
            self._timer = self._clock.call_at(grace_from(now, earliest), self._expire, now)

    def _expire(self, until: float, has_read: bool = False) -> None:
        """End the calls whose deadline passed by then."""
        if not has_read and self._has_unread():
            # So busy is the loop that not even the grace was enough. It reads before its next timers.
            self._timer = self._clock.call_at(self._clock.time() + READ_SECONDS, self._expire, until, True)
            return
        waiting = [call for call in self._calls if not call.future.done()]
        for call in waiting:
            if call.deadline <= until:
                call.future.set_exception(TimeoutError())
        self._set_timer(min((call.deadline for call in waiting if call.deadline > until), default=math.inf))
        if self._calls and self._calls[0].deadline <= until:
            self.retire()

    def _has_unread(self) -> bool:
        """Whether bytes have come that the loop has not looked at yet."""
        socket = None if self._transport is None else self._transport.get_extra_info("socket")
        if socket is None or socket.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def retire(self) -> None:
        """Take no more calls; those under way keep their deadlines, and the last one closes it."""
        self._end()
        self._close_if_idle()

    def close(self) -> None:
        """Close it at once: what is under way fails."""
        if not self._is_lost:
            if self._transport is not None:
                self._transport.abort()
            self.connection_lost(None)

    def _end(self) -> None:
        if self.is_open:
            self.is_open = False
            self.on_end()

    def _close_if_idle(self) -> None:
        if all(call.future.done() for call in self._calls):
            self.close()

    def _closed(self) -> Exception:
        return self._unasked or ConnectionError("Redis closed the connection")


def _tell(waiting: Sequence[asyncio.Future[Reply]], asked: asyncio.Future[list[Reply]]) -> None:
    error = None if asked.cancelled() else asked.exception()
    for each in waiting:
        if each.done():
            continue  # nobody waits for it any more
        if error is not None:
            each.set_exception(error)
        elif asked.cancelled():
            each.cancel()
        else:
            each.set_result(_confirmation(*asked.result()))


def _confirmation(pong: Reply, replicas: Reply = 1) -> Reply:
    """The reply to whoever asked for it. One that a replica does not confirm is an error like the others."""
    if isinstance(pong, hiredis.ReplyError) or replicas == 1:
        return pong
    if isinstance(replicas, int) and replicas < 1:
        return hiredis.ReplyError("NOREPLICAS no replica has confirmed it in time")
    return replicas if isinstance(replicas, hiredis.ReplyError) else pong


def _nothing() -> None:
    pass


def _first_refusal(replies: Sequence[Reply]) -> Exception | None:
    """What Redis said before it left."""
    return next((reply for reply in replies if isinstance(reply, hiredis.ReplyError)), None)
