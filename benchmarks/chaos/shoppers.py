"""Shoppers who lose nothing: what was not acknowledged they send again, with the same event id."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.chaos.ledger import Event
from benchmarks.load.traffic import N_ITEMS

ANSWER_SECONDS = 10.0
RECONNECT_SECONDS = 0.1  # nobody is there
MIN_CLICKS, MAX_CLICKS = 2, 12
OK, REFUSED = 200, 503

Ask = Callable[[str, str, bytes], Awaitable[tuple[int, bytes]]]  # method, target, body -> status, body
Pause = Callable[[], Awaitable[None]]


@dataclass
class Tally:
    """What all shoppers have seen."""

    requests: int = 0
    answers: int = 0  # of any status
    refused: int = 0
    errors: int = 0  # no answer, or one that nobody should get
    short: int = 0  # answers to GET /recommend without all of its items
    acknowledged: set[Event] = field(default_factory=set)


async def shop(
    ask: Ask, tally: Tally, name: str, items: Sequence[str], going_on: Callable[[], bool], pause: Pause
) -> None:
    """Visit after visit while `going_on` says so; the last click, too, is sent until it is acknowledged."""
    rng = random.Random(name)
    for session, clicks in _visits(rng, name, items):
        for number, item in enumerate(clicks):
            if not going_on():
                return
            await _click(ask, tally, Event(session, f"{session}-{number}"), item, pause)
            await _recommendation(ask, tally, session)
            await pause()


def _visits(rng: random.Random, name: str, items: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    visit = 0
    while True:
        yield f"{name}-{visit}", rng.choices(items, k=rng.randint(MIN_CLICKS, MAX_CLICKS))
        visit += 1


async def _click(ask: Ask, tally: Tally, event: Event, item: str, pause: Pause) -> None:
    body = json.dumps({"item_id": item, "event_id": event.id}).encode()
    while True:
        status, _ = await _asked(ask, tally, "POST", f"/sessions/{event.session}/click", body)
        if status == OK:
            tally.acknowledged.add(event)
            return
        if status == REFUSED:
            tally.refused += 1
        elif status:
            tally.errors += 1
        await pause()


async def _recommendation(ask: Ask, tally: Tally, session: str) -> None:
    status, body = await _asked(ask, tally, "GET", f"/recommend?session_id={session}", b"")
    if status and (status != OK or len(json.loads(body)["items"]) != N_ITEMS):
        tally.short += 1


async def _asked(ask: Ask, tally: Tally, method: str, target: str, body: bytes) -> tuple[int, bytes]:
    """Status and body; 0 where no answer came."""
    tally.requests += 1
    try:
        status, answer = await ask(method, target, body)
    except (OSError, EOFError, TimeoutError):
        tally.errors += 1
        return 0, b""
    tally.answers += 1
    return status, answer


class Connection:
    """One keep-alive connection, which is opened again when it is lost."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        """Raises `OSError`, `EOFError` or `TimeoutError` where no whole answer comes."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._exchange(method, target, body)
        except BaseException:
            self.close()
            raise

    async def _exchange(self, method: str, target: str, body: bytes) -> tuple[int, bytes]:
        if self._streams is None:
            try:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(RECONNECT_SECONDS)
                raise
        reader, writer = self._streams
        head = f"{method} {target} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        status, *lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        headers = dict(line.split(b": ", 1) for line in lines if line)
        answer = await reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return int(status.split()[1]), answer

    def close(self) -> None:
        if self._streams is not None:
            with suppress(OSError):
                self._streams[1].close()
            self._streams = None
