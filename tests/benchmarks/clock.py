"""A clock that stands still until a test moves it on."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from typing import TypeVarTuple

Arguments = TypeVarTuple("Arguments")


class FakeClock:
    """See `benchmarks.load.clock.Clock`. Steps that are sums of powers of two make its times exact."""

    def __init__(self) -> None:
        self.time = 0.0
        self._calls: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()

    def now(self) -> float:
        return self.time

    def call_later(
        self, seconds: float, call: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        heapq.heappush(self._calls, (self.time + seconds, next(self._numbers), lambda: call(*arguments)))
        if seconds <= 0:
            asyncio.get_running_loop().call_soon(self.pass_until, self.time)

    def pass_until(self, time: float) -> None:
        """Let time pass, call by call; a time that is past changes nothing."""
        while self._calls and self._calls[0][0] <= time:
            due, _, call = heapq.heappop(self._calls)
            self.time = max(self.time, due)
            call()
        self.time = max(self.time, time)

    def pass_by(self, seconds: float) -> None:
        self.pass_until(self.time + seconds)
