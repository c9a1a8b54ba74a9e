"""How often one client may ask."""

from __future__ import annotations

import math
from http import HTTPStatus

from starlette.requests import Request

from service.http.problems import Problem
from service.process.metrics import REDIS_ERRORS, REFUSED
from service.state.link import StoreUnavailable
from service.state.store import SessionStore


class RateLimit:
    """A guard of a client's rate over all workers; while Redis is down, everyone passes."""

    def __init__(self, store: SessionStore, per_minute: int) -> None:
        self._store = store
        self._per_minute = per_minute

    async def __call__(self, request: Request) -> None:
        client = request.client.host if request.client else "local"
        try:
            wait_seconds = await self._store.take_token(client, self._per_minute)
        except StoreUnavailable:
            REDIS_ERRORS.labels("take_token").inc()
            return
        if wait_seconds > 0:
            REFUSED.labels("rate").inc()
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                "rate-limited",
                f"more than {self._per_minute} requests per minute",
                {"Retry-After": str(math.ceil(wait_seconds))},
            )
