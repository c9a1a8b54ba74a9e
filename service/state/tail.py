"""Whether Redis still has all that it acknowledged, told by the newest number of each shard's click log.

The counter lies in Redis beside what it counts, and is lost together with it: a Redis that was killed before
it wrote, that was restored from a backup, or that took over as a replica which lagged, goes on counting as if
nothing had been there. So each worker remembers the newest numbers that it was told, and asks every Redis
that it connects to.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import structlog
from hiredis import ReplyError

from service.process.metrics import LOG_LOST
from service.state.connection import Connection, Reply
from service.state.keys import Keys
from service.state.script import Script

RESUME = Script("resume.lua")
RUN = ("INFO", "server")  # which run of which Redis it is

log = structlog.get_logger()


class Tail:
    """The newest number that was acknowledged in each shard, by whichever run of Redis."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._newest: dict[int, int] = {}
        self._runs: dict[int, str] = {}  # which has been compared, of each shard

    def acknowledged(self, shard: int, number: int) -> None:
        """A click, or a tombstone, has this number."""
        if number > self._newest.get(shard, 0):
            self._newest[shard] = number

    async def compare(self, connection: Connection, told: Reply, shards: Iterable[int]) -> None:
        """Ask a Redis that answered `RUN`, unless it hides who it is; tell what these shards have lost."""
        found = None if isinstance(told, ReplyError) else re.search(r"run_id:(\w+)", str(told))
        if found is None:
            return
        run = found[1]
        new = [shard for shard in shards if self._runs.get(shard) != run]
        replies = await connection.call(
            [
                RESUME.call(
                    [self._keys.resumed(shard), self._keys.sequence(shard)], run, self._newest.get(shard, 0)
                )
                for shard in new
            ]
        )
        for shard, lost in zip(new, replies, strict=True):
            if isinstance(lost, int) and lost > 0:
                LOG_LOST.inc(lost)
                log.error(
                    "the click log has lost its tail: Redis no longer has what it acknowledged",
                    shard=shard,
                    lost=lost,
                    newest=self._newest[shard],
                )
        if ReplyError not in map(type, replies):  # else Redis was full or read-only: the next connection asks
            self._runs.update(dict.fromkeys(new, run))
