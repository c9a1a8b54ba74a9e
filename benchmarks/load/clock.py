"""The time that load goes by: the machine's, unless a test hands in another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter
from typing import Protocol, TypeVarTuple

Arguments = TypeVarTuple("Arguments")


class Clock(Protocol):
    """Tells the time, and calls when it has come."""

    @property
    def now(self) -> Callable[[], float]:
        """Seconds since some moment; looked up once and called for every request."""
        ...

    def call_later(
        self, seconds: float, call: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None: ...


class MachineClock:
    """That of the running event loop."""

    now = staticmethod(perf_counter)

    def call_later(
        self, seconds: float, call: Callable[[*Arguments], object], *arguments: *Arguments
    ) -> None:
        asyncio.get_running_loop().call_later(seconds, call, *arguments)


MACHINE = MachineClock()
