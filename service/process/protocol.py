"""uvicorn's HTTP protocol, with bounds on what one client may hold, and one system call for each answer.

Each bound is looked at where it is reached: a request that arrives whole pays for none of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from http import HTTPStatus
from typing import Any, cast

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from service.process import request_ids
from service.process.metrics import REFUSED
from service.process.origins import Origins
from service.process.request_ids import request_id
from service.process.settings import Settings

HEAD_END = b"\r\n\r\n"
# What is parsed at once where more has arrived: fewer than thirty requests fit in.
STEP_BYTES = 512
# A body in chunks of one byte takes six on the wire.
WIRE_BYTES_PER_BODY_BYTE = 8
LOOK_SECONDS = 0.001
# When all connections are taken, one in so many of those that wait for their client is closed.
ROOM_SHARE = 16
NO_ORIGINS = Origins()


@dataclass(frozen=True)
class Limits:
    """What one connection may take of a worker, and how many there may be."""

    head_bytes: int
    head_seconds: float
    body_bytes: int
    batch_bytes: int  # of a body that is PUT: only batches of items are so large
    body_seconds: float
    connections: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        return cls(
            head_bytes=settings.max_head_bytes,
            head_seconds=settings.head_timeout_seconds,
            body_bytes=settings.max_body_bytes,
            batch_bytes=max(settings.max_body_bytes, settings.catalogue_max_body_bytes),
            body_seconds=settings.body_timeout_seconds,
            connections=settings.max_connections,
        )


class Refusal:
    """A problem document from before there is a request, or instead of one; the connection closes with it."""

    def __init__(self, status: HTTPStatus, kind: str, detail: str, reason: str | None = None) -> None:
        self._status = status
        self.reason = reason  # in the metrics
        document = {
            "type": f"urn:nextclick:problem:{kind}",
            "title": status.phrase,
            "status": status,
            "detail": detail,
        }
        self._body = json.dumps(document).encode()
        self._headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", b"%d" % len(self._body)),
            (b"connection", b"close"),
            (b"cache-control", b"no-store"),
        ]
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            self._headers.append((b"retry-after", b"1"))

    def told_to(self, origins: Origins) -> Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]:
        """As an application: the answer to a request whose turn comes later."""
        return partial(self._answer, origins)

    async def _answer(self, origins: Origins, scope: Scope, receive: Receive, send: Send) -> None:
        identified = (request_ids.HEADER, request_id(scope["headers"]))
        headers = [*self._headers, identified, *origins.told_to(scope["headers"])]
        await send({"type": "http.response.start", "status": self._status, "headers": headers})
        await send({"type": "http.response.body", "body": self._body})

    def on_the_wire(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        """As bytes, with the headers that every answer has."""
        lines = [b"%s: %s\r\n" % header for header in (*headers, *self._headers)]
        return b"".join([STATUS_LINE[self._status], *lines, b"\r\n", self._body])


BAD = Refusal(HTTPStatus.BAD_REQUEST, "not-http", "what was sent is not an HTTP request")
LONG_HEAD = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    "head-too-large",
    "the request's first line and headers are too long together",
    "head",
)
LONG_BODY = Refusal(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large", "the request's body takes too many bytes", "body"
)
LATE = Refusal(HTTPStatus.REQUEST_TIMEOUT, "too-slow", "the whole request did not arrive in time", "slow")
FULL = Refusal(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "too-many-connections",
    "this worker has as many connections as it may: nothing was done, try again",
    "connections",
)


class Awaited(Enum):
    """What of the newest message is still to come."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class Connection(HttpToolsProtocol):
    """One client's connection: what it sends, how fast, and what is still to be answered."""

    def __init__(self, *arguments: Any, limits: Limits, origins: Origins = NO_ORIGINS, **named: Any) -> None:
        """`origins`: of pages that may read what is refused here."""
        super().__init__(*arguments, **named)
        self._limits = limits
        self._origins = origins
        self._awaited = Awaited.NOTHING
        self._upgrade = False  # the head at hand asks for another protocol
        self._refused = False  # nothing more is read
        self._unparsed = b""
        self._torn_bytes = 0  # so far, of a head or body that did not arrive whole
        self._most_body_bytes = limits.body_bytes  # of this request, on the wire
        self._timer: asyncio.TimerHandle | None = None
        self._timed: tuple[object, Awaited] | None = None  # what the timer waits for
        self._unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        full = len(self.connections) >= self._limits.connections and not self._make_room()
        gathering = cast(asyncio.Transport, _Gathering(cast(asyncio.Transport, transport)))
        super().connection_made(gathering)
        self.flow = _Flow(gathering, self._go_on)
        if full:
            self._refuse(FULL)
        else:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unparsed = b""
        self._stop_timer()
        self._unset_keepalive_if_required()
        if self._unread_timer is not None:
            self._unread_timer.cancel()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has sent all it will still gets its answer; with half a request it gets none."""
        if self._awaited is Awaited.NOTHING and self._owes():
            self.cycle.keep_alive = False
        else:
            self.transport.close()  # the event loop would, without what is gathered to be written
        return True

    def pause_writing(self) -> None:
        """The client does not read its answers; it gets as long for it as to ask for another."""
        super().pause_writing()
        self._unread_timer = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None

    # What arrives.

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        if (
            self._awaited is Awaited.NOTHING
            and not self._unparsed
            and (
                len(data) <= STEP_BYTES
                or (len(data) <= self._limits.head_bytes and data.find(HEAD_END) == data.rfind(HEAD_END))
            )
        ):
            self._feed(data)
        else:
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        """Parse by small steps what may hold many requests, until one has to wait for another's answer."""
        data, at = self._unparsed, 0
        view = memoryview(data)
        while at < len(data) and not self.pipeline and not self._refused:
            room = self._limits.head_bytes
            if self._awaited is Awaited.HEAD:
                room -= self._torn_bytes
                if room <= 0:
                    self._refuse(LONG_HEAD)
                    return
            found = data.find(HEAD_END, at + STEP_BYTES - len(HEAD_END))
            end = min(len(data) if found < 0 else found + len(HEAD_END), at + room)
            self._feed(view[at:end])
            at = end
        self._unparsed = b"" if self._refused else data[at:]

    def _feed(self, data: bytes | memoryview) -> None:
        awaited, scope, cycle = self._awaited, self.scope, self.cycle
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._ignore_upgrade(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self.logger.warning("Invalid HTTP request received.")
            self._refuse(BAD)
            return
        if self._awaited is Awaited.NOTHING and self._timer is None:
            return
        goes_on = self._awaited is awaited and self.scope is scope
        begins = self._awaited is Awaited.HEAD and awaited is Awaited.NOTHING and self.cycle is cycle
        # What begins after the end of something else in the same piece is counted from the next piece on.
        self._torn_bytes = self._torn_bytes + len(data) if goes_on or begins else 0
        self._watch()
        if self._awaited is Awaited.BODY and self._torn_bytes > self._most_body_bytes:
            self._refuse(LONG_BODY)

    def _go_on(self) -> None:
        """Take what waited for an answer; called some time after each answer while reading is paused."""
        if self.parser is None or self._refused or self.transport.is_closing():
            return
        if not self.pipeline and self._unparsed:
            self._parse()
        if not self.pipeline and not self._refused:
            cast(_Flow, self.flow).read()

    # What the parser says.

    def on_message_begin(self) -> None:
        self._awaited = Awaited.HEAD
        self._unset_keepalive_if_required()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("there is nobody to connect to")
            self._upgrade = True
            return
        self._awaited = Awaited.BODY
        limits = self._limits
        most = limits.batch_bytes if self.parser.get_method() == b"PUT" else limits.body_bytes
        self._most_body_bytes = WIRE_BYTES_PER_BODY_BYTE * most + limits.head_bytes
        self._unset_keepalive_if_required()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._upgrade:
            self._awaited = Awaited.NOTHING
            super().on_message_complete()

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Go on as if no other protocol had been asked for (RFC 9110, 7.8).

        The parser takes what follows such a head for that other protocol: a new parser reads the head once
        more, without the question.
        """
        self._upgrade = False
        method: bytes = self.parser.get_method()
        lines = [b"%s %s HTTP/%s\r\n" % (method, self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(o for o in options if o.lower() not in (b"upgrade", b"http2-settings"))
            if name not in (b"upgrade", b"http2-settings") and (value or name != b"connection"):
                lines.append(b"%s: %s\r\n" % (name, value))
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._feed(b"".join([*lines, b"\r\n"]))
        if rest and not self._refused:
            self._feed(rest)

    # What does not arrive.

    def _watch(self) -> None:
        """Have a timer run for what is awaited, one for each head and each body."""
        if self._awaited is Awaited.NOTHING:
            if self.cycle is not None:  # else nothing at all has arrived but line ends
                self._stop_timer()
        elif self._timed is None or self._timed[0] is not self.scope or self._timed[1] is not self._awaited:
            self._stop_timer()
            self._wait()

    def _wait(self) -> None:
        self._timed = self.scope, self._awaited
        self._timer = self.loop.call_later(self._seconds(), self._late)

    def _seconds(self) -> float:
        return self._limits.body_seconds if self._awaited is Awaited.BODY else self._limits.head_seconds

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _late(self) -> None:
        """Look at the socket once more: while the worker was busy, what was awaited may have come."""
        self._timer = self.loop.call_later(LOOK_SECONDS, self._too_late)

    def _too_late(self) -> None:
        self._stop_timer()
        if self.transport.is_closing():
            return
        if self._awaited is Awaited.NOTHING:
            self.transport.close()  # it never said anything
        elif self._is_ours():
            self._wait()
        else:
            self._refuse(LATE)

    def timeout_keep_alive_handler(self) -> None:
        """The same look before an idle connection is closed: a proxy may have sent a request by now."""
        self.timeout_keep_alive_task = self.loop.call_later(LOOK_SECONDS, super().timeout_keep_alive_handler)

    def _is_ours(self) -> bool:
        """Whether a torn message waits for an earlier answer, and we may not even be reading."""
        return bool(self.pipeline) or (self._awaited is not Awaited.BODY and self._owes())

    def _owes(self) -> bool:
        """Whether the newest request is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, refusal: Refusal) -> None:
        """Read nothing more, and close once what is owed is answered; what is at fault is told so."""
        if refusal.reason is not None:
            REFUSED.labels(refusal.reason).inc()
        awaited, self._awaited = self._awaited, Awaited.NOTHING
        self._refused, self._unparsed = True, b""
        self._stop_timer()
        self.flow.pause_reading()
        if awaited is Awaited.BODY and self.pipeline:
            self.cycle.keep_alive = False
            # The newest stands first.
            self.pipeline[0] = self.cycle, cast(Any, refusal.told_to(self._origins))
            return
        if awaited is not Awaited.BODY and self._owes():
            self.cycle.keep_alive = False
            return
        if awaited is Awaited.BODY:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if awaited is not Awaited.BODY or not self.cycle.response_started:
            identified = (request_ids.HEADER, self._request_id(awaited))
            told = self._origins.told_to(() if awaited is Awaited.NOTHING else self.headers)
            headers = [*self.server_state.default_headers, identified, *told]
            self.transport.write(refusal.on_the_wire(headers))
        self.transport.close()

    def _request_id(self, awaited: Awaited) -> bytes:
        """Of the message that did not arrive whole, as far as it did; a new one where there is none."""
        if awaited is Awaited.BODY and (known := self.scope.get(request_ids.SCOPE_KEY)):
            return cast(bytes, known)
        return request_id(() if awaited is Awaited.NOTHING else self.headers)

    # How many there are.

    def waits_since(self) -> float | None:
        """Since when it has waited for its client; None while its client waits for it."""
        if self._unread_timer is not None:
            return self._unread_timer.when() - self.timeout_keep_alive
        if self._timer is not None:
            return None if self._is_ours() else self._timer.when() - self._seconds()
        if self.timeout_keep_alive_task is not None:
            return self.timeout_keep_alive_task.when() - self.timeout_keep_alive
        return None

    def _make_room(self) -> bool:
        """Close those that have waited longest for their client, so that nobody can shut the others out."""
        waiting: list[tuple[float, int, Connection]] = []
        leaving = 0
        for number, each in enumerate(cast(Iterable[Connection], self.connections)):
            if each.transport.is_closing():
                leaving += 1
            elif (since := each.waits_since()) is not None:
                waiting.append((since, number, each))
        if len(self.connections) - leaving < self._limits.connections:
            return True
        for _, _, each in sorted(waiting)[: 1 + len(waiting) // ROOM_SHARE]:
            each.transport.close()
        return bool(waiting)


class _Flow(FlowControl):
    """Reads on only after the connection has looked whether it should."""

    def __init__(self, transport: asyncio.Transport, go_on: Callable[[], None]) -> None:
        super().__init__(transport)
        self._loop = asyncio.get_running_loop()
        self._look = go_on

    def resume_reading(self) -> None:
        """Called by uvicorn with every answer, and by whoever reads a body."""
        if self.read_paused:
            self._loop.call_soon(self._look)  # not at once: the next request in line is not started yet

    def read(self) -> None:
        super().resume_reading()


class _Gathering:
    """A transport that gathers what one turn of the event loop writes.

    uvicorn writes an answer's head and body apart: two system calls, two packets, the client woken twice.
    Here both leave together.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(data)

    def close(self) -> None:
        """Close the connection once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self.is_closing():
            self._transport.write(b"".join(pieces))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
