"""The live state in Redis: sessions, the click log, what is trending, rate limits; `service.keys` names it.

Each click is one atomic Lua call, whose keys share the hash tag of the session's shard, so the same call
works on a single Redis and on a cluster.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from service import keys
from service.redis_link import Command, RedisLink, Reply, Script, StoreUnavailable, refusal, value
from service.settings import Settings

SEPARATOR = "\x1f"  # ids hold no control characters: the API refuses them


@dataclass(frozen=True)
class Click:
    """One click; `timestamp` is in epoch seconds."""

    item_id: str
    timestamp: float
    type: str = "click"
    event_id: str | None = None


@dataclass(frozen=True)
class Appended:
    """What a click left behind: the session's length; its clicks, oldest first, only when asked for."""

    length: int
    duplicate: bool
    clicks: tuple[Click, ...] = ()


APPEND = Script("append.lua")
ERASE = Script("erase.lua")
TRENDING = Script("trending.lua")
TAKE_TOKEN = Script("take_token.lua")
SCRIPTS = (APPEND, ERASE, TRENDING, TAKE_TOKEN)


class SessionStore:
    """The live state, shared by every worker.

    Every method but `close` raises `StoreUnavailable`.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._settings = settings
        self._link = RedisLink(settings, url, SCRIPTS)

    async def append(self, session_id: str, click: Click, *, with_session: bool = False) -> Appended:
        """Store one click and log it, once per event id."""
        (reply,) = await self._link.run(lambda: [self._append(session_id, click, with_session=with_session)])
        return _appended(value(reply))

    async def append_many(self, clicks: Sequence[tuple[str, Click]]) -> list[Appended | StoreUnavailable]:
        """Store many clicks in one round trip, in order; each is its own atomic step with its own outcome."""
        try:
            replies = await self._link.run(
                lambda: [self._append(*click, with_session=False) for click in clicks]
            )
        except StoreUnavailable as error:
            return [error] * len(clicks)
        return [refusal(reply) or _appended(reply) for reply in replies]

    async def read(self, session_id: str) -> tuple[Click, ...]:
        """The session's clicks, oldest first; empty when it is unknown or has expired."""
        (reply,) = await self._link.run(
            lambda: [("ZRANGE", keys.session(self._shard(session_id), session_id), 0, -1)]
        )
        return _clicks(value(reply))

    async def erase(self, session_id: str) -> bool:
        """Delete a session; False when it was not known.

        A tombstone goes to the click log either way: clicks of an expired session may still be there.
        """
        (reply,) = await self._link.run(
            lambda: [
                ERASE.call(
                    self._session_keys(session_id), session_id, self._settings.click_log_max_entries_per_shard
                )
            ]
        )
        return bool(value(reply) > 0)

    async def trending(self, limit: int) -> list[tuple[str, float]]:
        """The items clicked most, decayed to now and merged over the shards, highest score first.

        A shard answers with its own top 2 x `limit`: sessions are spread evenly, so what it leaves out is
        far from the merged top.
        """
        replies = await self._link.run(
            lambda: [TRENDING.call(keys.trending(shard), 2 * limit) for shard in range(self._link.shards)]
        )
        scores: defaultdict[str, float] = defaultdict(float)
        for found in map(value, replies):
            for item_id, score in zip(found[::2], found[1::2], strict=True):
                scores[item_id] += float(score)
        return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:limit]

    async def take_token(self, client: str, limit_per_minute: int) -> float:
        """Count one request of `client`, over all workers: 0.0 when it may pass, else the seconds to wait.

        A burst of `limit_per_minute` may pass at once; the allowance comes back evenly over a minute.
        """
        (reply,) = await self._link.run(lambda: [TAKE_TOKEN.call([f"rate:{client}"], limit_per_minute)])
        return float(value(reply))

    async def ping(self) -> None:
        """Return once Redis has answered."""
        (reply,) = await self._link.run(lambda: [("PING",)])
        value(reply)

    async def close(self) -> None:
        """Close every connection."""
        await self._link.close()

    def _append(self, session_id: str, click: Click, *, with_session: bool) -> Command:
        settings = self._settings
        return APPEND.call(
            [*self._session_keys(session_id), *keys.trending(self._shard(session_id))],
            session_id,
            click.item_id,
            repr(float(click.timestamp)),  # the shortest text that reads back as exactly this number
            click.type,
            click.event_id or "",
            settings.session_max_clicks,
            settings.session_ttl_seconds,
            settings.click_log_max_entries_per_shard,
            settings.trending_half_life_seconds,
            settings.trending_max_items,
            int(with_session),
        )

    def _shard(self, session_id: str) -> int:
        return keys.shard_of(session_id, self._link.shards)

    def _session_keys(self, session_id: str) -> list[str]:
        shard = self._shard(session_id)
        names = (keys.session(shard, session_id), keys.events(shard, session_id))
        return [*names, keys.click_log(shard), keys.sequence(shard)]


def _appended(reply: Reply) -> Appended:
    length, duplicate, members = reply
    return Appended(length, bool(duplicate), _clicks(members))


def _clicks(members: Sequence[str]) -> tuple[Click, ...]:
    clicks = []
    for member in members:
        _, timestamp, click_type, event_id, item_id = member.split(SEPARATOR)
        clicks.append(Click(item_id, float(timestamp), click_type, event_id or None))
    return tuple(clicks)
