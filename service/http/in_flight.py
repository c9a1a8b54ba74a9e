"""How many requests a worker works on at once: more are refused, so that those keep their latency."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from types import TracebackType

from service.http.problems import RETRY_AFTER, Problem
from service.process.metrics import IN_FLIGHT, REFUSED

TELL_SECONDS = 0.1


class InFlight:
    """A context manager that is entered by each request; it raises `Problem` while `most` are in it.

    What operators ask does not pass here: it tells of the overload, and may end it.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def __enter__(self) -> None:
        if self._count >= self._most:
            REFUSED.labels("overload").inc()
            raise Problem(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "overloaded",
                f"this worker has {self._most} requests under way: nothing was done, try again",
                RETRY_AFTER,
            )
        self._count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._count -= 1

    async def tell(self) -> None:
        """Keep the metrics told, for ever: writing it down at each request would cost each of them more."""
        told = -1
        while True:
            if told != self._count:
                told = self._count
                IN_FLIGHT.set(told)
            await asyncio.sleep(TELL_SECONDS)
