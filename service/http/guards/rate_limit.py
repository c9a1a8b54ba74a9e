"""How often one may ask, of one address and with one key; and how many requests a worker has under way."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from types import TracebackType

from starlette.requests import Request

from service.http.guards.keyring import KEY, Key
from service.http.problems import RETRY_AFTER, Problem
from service.process.metrics import IN_FLIGHT, REDIS_ERRORS, REFUSED
from service.state.link import StoreUnavailable
from service.state.store import Bucket, SessionStore

LONGEST_NAME = 64
TELL_SECONDS = 0.1


class RateLimit:
    """A guard of rates over all workers; while Redis is down, everyone passes. 0 is no limit.

    Pages are counted by address, and all together by their key; a shop's own server speaks for all shoppers
    from one address, and is counted by its key alone. Each key counts by its label.
    """

    def __init__(
        self, store: SessionStore, per_address: int, per_key: int = 0, keys: Iterable[Key] = ()
    ) -> None:
        self._store = store
        self._per_address = per_address
        self._of_key = {key.label: [Bucket(f"key:{key.label}", per_key)] for key in keys} if per_key else {}

    def __bool__(self) -> bool:
        return bool(self._per_address or self._of_key)

    async def __call__(self, request: Request, cost: int = 1) -> None:
        """Let a request pass that counts for `cost` requests. Raises `Problem`."""
        key: Key | None = request.scope.get(KEY)
        of_key = buckets = self._of_key.get(key.label, []) if key is not None else []
        if self._per_address and (key is None or key.scope == "public"):
            buckets = [Bucket(f"address:{address_of(request)}", self._per_address), *of_key]
        if not buckets:
            return
        try:
            wait = await self._store.take_tokens(buckets, cost)
        except StoreUnavailable:
            REDIS_ERRORS.labels("take_token").inc()
            return
        if wait is not None:
            is_of_key = wait.bucket in of_key
            REFUSED.labels("key_rate" if is_of_key else "rate").inc()
            whose = "with this key" if is_of_key else "from this address"
            detail = f"more than {wait.bucket.per_minute} requests per minute {whose}"
            raise too_many("rate-limited", detail, wait.seconds)


def too_many(kind: str, detail: str, wait_seconds: float) -> Problem:
    """429, and when to come again."""
    headers = {"Retry-After": str(math.ceil(wait_seconds))}
    return Problem(HTTPStatus.TOO_MANY_REQUESTS, kind, detail, headers)


def address_of(request: Request) -> str:
    """What a client is counted by: its address, as the nearest proxy that is trusted tells it."""
    return _customer(request.client.host) if request.client else "local"


@lru_cache(maxsize=4096)
def _customer(host: str) -> str:
    """An IPv4 address, or the network of an IPv6 address: its customer may take any address in there."""
    try:
        address = ip_address(host)
    except ValueError:  # a proxy may say anything
        return host[:LONGEST_NAME]
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


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
