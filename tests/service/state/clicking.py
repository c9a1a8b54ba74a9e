"""Those who click all the time, whatever happens, and what became of their clicks."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from itertools import chain
from types import TracebackType
from typing import Self, cast

from redis import Redis
from redis.cluster import RedisCluster

from service.state.link import StoreUnavailable
from service.state.store import Click, SessionStore
from tests.waiting import eventually

CALLERS, SESSIONS = 8, 200


class Clicking:
    """Callers whose every click is sent, with the same event id, until it is acknowledged."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._numbers = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self.acknowledged: list[str] = []
        self.reasons: Counter[str] = Counter()  # why clicks were refused

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._click()) for _ in range(CALLERS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        assert {type(each) for each in ended} == {asyncio.CancelledError}, ended

    async def goes_on(self) -> None:
        """Wait until each session has clicked again."""
        before = len(self.acknowledged)
        await eventually(lambda: len(self.acknowledged) >= before + SESSIONS + CALLERS)

    async def _click(self) -> None:
        while True:
            number = next(self._numbers)
            click = Click(f"i{number % 9}", time.time(), event_id=f"e{number}")
            while True:
                try:
                    await self._store.append(f"s{number % SESSIONS}", click)
                except StoreUnavailable as error:
                    self.reasons[error.reason] += 1
                    await asyncio.sleep(0.005)
                else:
                    break
            self.acknowledged.append(f"e{number}")

    def lost(self, client: Redis | RedisCluster) -> set[str]:
        """The acknowledged ones that are not in the log."""
        return set(self.acknowledged) - logged(client).keys()


def logged(client: Redis | RedisCluster) -> Counter[str]:
    """How often each event id is in the click log."""
    streams = [client.xrange(key) for key in client.scan_iter("clicks:*")]
    entries = chain(*cast("list[list[tuple[str, dict[str, str]]]]", streams))
    return Counter(fields["event"] for _, fields in entries)


def doubled(client: Redis | RedisCluster) -> list[str]:
    return [event for event, count in logged(client).items() if count > 1]
