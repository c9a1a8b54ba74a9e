"""Sentinels: which Redis of a service is its primary now, as redis-py asks them."""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from service.process.redis_url import RedisUrl, Sentinels

ANYWHERE = ("localhost", 0)


class PrimaryFinder:
    """Asks one sentinel after the other, whichever answered last first."""

    def __init__(self, url: RedisUrl, sentinels: Sentinels, timeout_seconds: float) -> None:
        """All together get `timeout_seconds`."""
        self._service = sentinels.service
        # One object, as each keeps its TLS context, which takes long to make.
        self._sentinel = Sentinel(  # type: ignore[no-untyped-call]
            sentinels.places,
            sentinel_kwargs=sentinel_options(url, sentinels, timeout_seconds)
            | {"retry": Retry(NoBackoff(), 0)},
        )

    async def primary(self) -> tuple[str, int]:
        """Where it is. Raises `RedisError` or `OSError`."""
        try:
            host, port = await self._sentinel.discover_master(self._service)
        finally:
            await self._sentinel.aclose()
        return str(host), int(port)


def sentinel_options(url: RedisUrl, sentinels: Sentinels, timeout_seconds: float) -> dict[str, Any]:
    """What redis-py's clients of sentinels are made with."""
    target = parse_url(url.at(*ANYWHERE))
    tls = {name: it for name, it in target.items() if name.startswith("ssl_")}
    each = timeout_seconds / (len(sentinels.places) + 1)  # all may be silent but the last, and the primary
    return {
        "username": sentinels.username,
        "password": sentinels.password,
        "socket_timeout": each,
        "socket_connect_timeout": each,
        "decode_responses": True,
        "protocol": 2,  # the sentinels of Redis 6.2, too
        "ssl": url.text.startswith("rediss"),
        **tls,
    }
